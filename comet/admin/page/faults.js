// Lists the faults that are active: of which workers, which kind and value, how long still, and a way to end them.

import { byId, el, keyed, set, text } from "./dom.js";
import { settings } from "./fault_kinds.js";
import { count, plural, span } from "./format.js";

const MAX_NAMES = 3;
/** The name of the address that clients connect to, as a target of faults. */
export const FRONT = "front";

/** The front, with the fields that a worker has for its faults. */
export function front(model) {
  return { name: FRONT, faults: model.total.front_faults ?? {}, fault_orders: model.total.front_fault_orders };
}

/** Faults that commands or scenarios ordered, equal ones of several targets together: [{workers, settings, limit, owner}]. */
export function activeFaults(targets) {
  const found = new Map();
  for (const worker of targets) {
    for (const each of ordersOf(worker)) {
      const key = JSON.stringify([each.settings, limitOf(each.lease, []), each.owner]);
      const known = found.get(key) ?? { ...each, workers: [], left: [] };
      known.workers.push(worker.name);
      if (each.lease) known.left.push(each.lease.count_left);
      found.set(key, known);
    }
  }
  return [...found.values()].map((each) => ({ ...each, limit: limitOf(each.lease, each.left) }));
}

function ordersOf(worker) {
  const { from = {}, leases = [] } = worker.fault_orders ?? {};
  const commanded = Object.keys(from).filter((name) => from[name] === "command");
  const lasting = commanded.length ? [{ settings: Object.fromEntries(commanded.map((name) => [name, worker.faults?.[name] ?? 0])), lease: null, owner: "" }] : [];
  return [...lasting, ...leases.map((lease) => ({ settings: lease.settings, lease, owner: lease.owner ?? "" }))];
}

/** When an order ends; `left` has how many requests are left of its count, for each target that it is for. */
function limitOf(lease, left) {
  if (lease === null) return "until cleared";
  const time = lease.left_s === null ? "" : `${span(lease.left_s)} left`;
  const requests = lease.count === null ? "" : requestsLeft(lease, left.filter((each) => each !== null));
  return [requests, time].filter(Boolean).join(", ");
}

function requestsLeft(lease, known) {
  if (!known.length) return `the first ${lease.count === 1 ? "request" : plural(lease.count, "request")} of each, ordered ${span(lease.age_s)} ago`;
  const [least, most] = [Math.min(...known), Math.max(...known)];
  return `${least === most ? count(least) : `${count(least)} to ${count(most)}`} of ${plural(lease.count, "request")} left${known.length > 1 ? " of each" : ""}`;
}

/** What is active on one worker and may be the cause of its state; empty where nothing is. */
export function causeIn(worker) {
  const active = ordersOf(worker).map((each) => `${settings(each.settings)} is active, ${limitOf(each.lease, [each.lease?.count_left ?? null])}`);
  return active.slice(0, 2).join("; ");
}

/** What a setting is where nothing else was ordered, as a worker has it: a custom service has no default faults. */
function usualValue(model, key) {
  const plain = model.workers.find((each) => each.faults && !(key in (each.fault_orders?.from ?? {})) && !(key in (model.config.faults?.[each.name] ?? {})));
  return plain ? plain.faults[key] : model.config[key];
}

export class Faults {
  /** `clear(target)` is called for each name to clear, or once with `all`. */
  constructor(clear) {
    this.list = byId("active-faults");
    this.none = byId("no-faults");
    this.base = byId("base-faults");
    this.clear = clear;
  }

  update(model) {
    const active = activeFaults([...model.workers, front(model)]);
    this.all = model.workers.length;
    keyed(this.list, active, (each) => JSON.stringify([each.workers, each.settings, each.owner]), (each) => this.row(each), (row, each) => this.dress(row, each, model.writable));
    this.none.hidden = active.length > 0;
    const usual = ["avg-delay", "failure"].map((each) => [each, usualValue(model, each)]);
    const base = settings(Object.fromEntries(usual.filter(([, value]) => value)));
    const single = Object.keys(model.config.faults ?? {}).length;
    text(this.base, base || single ? `config.yaml, always: ${[base, single ? `more on ${plural(single, "worker")}` : ""].filter(Boolean).join("; ")}` : "config.yaml sets none.");
  }

  row() {
    const button = el("button", { type: "button", class: "small" }, "Clear");
    const row = el("li", {}, el("strong", {}), el("span", {}), el("span", { class: "quiet" }), button);
    button.addEventListener("click", () => this.clear(this.areAll(row.workers) ? ["all"] : row.workers));
    return row;
  }

  areAll(names) {
    return names.length === this.all && !names.includes(FRONT);
  }

  dress(row, each, writable) {
    row.workers = each.workers;
    const who = this.areAll(each.workers) && this.all > 1 ? "all workers" : each.workers.length > MAX_NAMES ? plural(each.workers.length, "worker") : each.workers.join(", ");
    text(row.children[0], who);
    text(row.children[1], settings(each.settings));
    text(row.children[2], each.limit + (each.owner ? `, by ${each.owner}` : ""));
    set(row.children[3], { disabled: !writable, "aria-label": `Clear all faults of ${who}`, title: "Ends all faults of these workers; config.yaml holds again." });
    set(row, { title: each.workers.join(", ") });
  }
}
