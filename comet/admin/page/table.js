// The list of replicas: every figure of `ps --json`, a row each.

import { el, icon, keyed, set, text } from "./dom.js";
import { bytes, count, exit, ms, NONE, percent, plural, rate, span } from "./format.js";

export class Table {
  constructor(body, act) {
    this.body = body;
    this.act = act;
    body.replaceChildren();
  }

  update(model) {
    keyed(this.body, model.replicas, (each) => each.name, (each) => this.row(each), (row, each) => dress(row, each));
  }

  row(replica) {
    const cells = ["name", "kind", "id", "state", "port", "uptime", "cpu", "memory", "rate", "p50", "p99", "flight", "requests", "restarts", "exit"];
    const numeric = new Set(["port", "uptime", "cpu", "memory", "rate", "p50", "p99", "flight", "requests", "restarts"]);
    const row = el("tr", {}, ...cells.map((name) => (name === "name" ? el("th", { scope: "row" }) : el("td", { class: numeric.has(name) ? `n ${name}` : name }))));
    row.firstElementChild.append(el("button", { type: "button", class: "link" }, replica.name));
    row.firstElementChild.firstElementChild.addEventListener("click", () => this.act("about", replica.name));
    row.children[3].append(el("span", { class: "health" }));
    const buttons = ["restart", "kill"].map((what) => {
      const button = el("button", { type: "button", class: what === "kill" ? "small risky" : "small", "aria-label": `${what} ${replica.name}` }, what === "kill" ? "Kill" : "Restart");
      button.addEventListener("click", () => this.act(what, replica.name));
      return button;
    });
    row.append(el("td", { class: "js acts" }, ...buttons));
    return row;
  }
}

function dress(row, replica) {
  set(row, { "data-level": replica.level, "data-name": replica.name });
  const cells = row.children;
  const kind = cells[1];
  if (kind.textContent !== replica.kind) kind.replaceChildren(icon(replica.kind === "process" ? "i-process" : "i-container", 14), replica.kind);
  text(cells[2], replica.id ?? NONE);
  const health = cells[3].firstElementChild;
  if (health.dataset.state !== replica.state) {
    health.dataset.state = replica.state;
    health.replaceChildren(icon(replica.shape, 14), el("span"));
  }
  text(health.lastElementChild, replica.orphan ? `${replica.state} (orphan)` : replica.state);
  set(cells[3], { title: replica.reason });
  const figures = [replica.port, span(replica.uptime_s), percent(replica.cpu_percent), bytes(replica.memory_bytes), rate(replica.rate), ms(replica.p50), ms(replica.p99), count(replica.in_flight), count(replica.requests), replica.restarts];
  figures.forEach((figure, index) => text(cells[4 + index], figure));
  text(cells[14], exit(replica.last_exit));
}

/** What is known of one replica, as pairs for its dialog. */
export function facts(replica) {
  return [
    ["State", replica.reason ? `${replica.word}: ${replica.reason}` : replica.word],
    ["Kind", `${replica.kind} ${replica.id ?? ""}${replica.kind === "container" && replica.pid ? ` (PID ${replica.pid} on this host)` : ""}`],
    ["Port", replica.port],
    ["Up", span(replica.uptime_s)],
    ["Requests", `${rate(replica.rate)}/s, ${count(replica.requests)} in all, ${plural(replica.in_flight ?? 0, "request")} in flight`],
    ["Errors", `${rate(replica.errorRate)}/s`],
    ["Latency", `p50 ${ms(replica.p50)}, p99 ${ms(replica.p99)}`],
    ["Uses", `${percent(replica.cpu_percent)} of a core, ${bytes(replica.memory_bytes)}`],
    ...(replica.ordered ? [["Faults", replica.ordered]] : []),
    ["Restarts", replica.last_exit ? `${replica.restarts}, last exit ${exit(replica.last_exit)}` : replica.restarts],
  ];
}
