// The list of replicas: a row for each, with every figure of `ps --json`; filtered by a word, sorted by a column.

import { FOR_ANY } from "./command_forms.js";
import { byId, el, icon, iconOf, keyed, set, text } from "./dom.js";
import { bytes, count, exit, ms, NONE, percent, plural, rate, span } from "./format.js";

/** The columns: key, class and kind, as the server declares them. */
const COLUMNS = JSON.parse(byId("declared-columns").textContent);
const NAMES = COLUMNS.map((column) => column.css);
const TEXTS = new Set(COLUMNS.filter((column) => column.kind === "text").map((column) => column.css));

/** The values by which columns sort, where that is not the replica's field of that name. */
const VALUES = {
  name: null, // The cluster's own order.
  errors: (each) => each.errorRate,
  exit: (each) => each.last_exit?.at,
  faults: (each) => each.faultText,
};
const SORTED_BY = Object.fromEntries(COLUMNS.map(({ key, css }) => [css, css in VALUES ? VALUES[css] : (each) => each[key]]));

/** Columns whose cells are drawn, not written. */
const DRAWN = new Set(["name", "kind", "state"]);

const FORMATS = { text: (value) => value ?? NONE, number: (value) => value ?? NONE, count, figure: rate, percent, ms, bytes, span };

export class Table {
  constructor(body, act) {
    this.body = body;
    this.act = act;
    this.sorted = { column: "name", falling: false };
    body.replaceChildren();
    this.heads = [...body.closest("table").tHead.rows[0].cells].slice(0, NAMES.length);
    this.heads.forEach((head, index) => this.makeSortable(head, NAMES[index]));
    this.labels = Object.fromEntries(this.heads.map((head, index) => [NAMES[index], head.textContent]));
    this.filter = byId("filter");
    this.filter.addEventListener("input", () => this.model && this.update(this.model));
  }

  makeSortable(head, column) {
    const button = el("button", { type: "button", class: "sort" }, head.textContent);
    button.addEventListener("click", () => {
      // Numbers fall first: the largest is what one looks for.
      const falling = this.sorted.column === column ? !this.sorted.falling : !TEXTS.has(column);
      this.sorted = { column, falling };
      this.order = null;
      for (const each of this.heads) set(each, { "aria-sort": each === head ? (falling ? "descending" : "ascending") : null });
      if (this.model) this.update(this.model);
    });
    head.replaceChildren(button);
    head.classList.add(column);
  }

  update(model) {
    this.model = model;
    const shown = this.arranged(model.replicas.filter((each) => matches(each, this.filter.value)));
    text(byId("filter-count"), this.filter.value.trim() ? `${shown.length} of ${model.replicas.length}` : "");
    keyed(this.body, shown, (each) => each.name, (each) => this.row(each), (row, each) => dress(row, each, model.writable));
  }

  /** In the order of the chosen column. While the pointer is on the rows, they keep their places. */
  arranged(replicas) {
    const { column, falling } = this.sorted;
    const value = SORTED_BY[column];
    if (!value) return falling ? [...replicas].reverse() : replicas;
    const place = (name) => this.order?.indexOf(name) ?? -1;
    const stays = this.order && this.body.matches(":hover");
    const compared = (one, other) => (stays ? place(one.name) - place(other.name) : (falling ? -1 : 1) * order(value(one), value(other)));
    const sorted = [...replicas].sort(compared);
    this.order = sorted.map((each) => each.name);
    return sorted;
  }

  row(replica) {
    const row = el("tr", {}, ...NAMES.map((name) => (name === "name" ? el("th", { scope: "row" }) : el("td", { class: TEXTS.has(name) ? name : `n ${name}`, "data-label": this.labels[name] }))));
    const link = el("a", { class: "name", href: `#${replica.name}` }, replica.name);
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      this.act("about", replica.name);
    });
    row.firstElementChild.append(link);
    row.children[3].append(el("span", { class: "health" }));
    const buttons = FOR_ANY.map((form) => {
      const button = el("button", { type: "button", class: form.risky ? "small risky" : "small", "aria-label": `${form.name} ${replica.name}` }, form.title);
      button.addEventListener("click", () => this.act(form.name, replica.name));
      return button;
    });
    row.append(el("td", { class: "js acts" }, ...buttons));
    return row;
  }
}

function matches(replica, typed) {
  const facts = [replica.name, replica.role, replica.kind, replica.state, replica.id, replica.reason, replica.faultText].join(" ").toLowerCase();
  return typed.toLowerCase().split(/\s+/).every((word) => facts.includes(word));
}

/** Unknown values come last in rising order. */
function order(one, other) {
  if (one === other) return 0;
  if (one === null || one === undefined) return 1;
  if (other === null || other === undefined) return -1;
  return one < other ? -1 : 1;
}

function dress(row, replica, writable) {
  set(row, { "data-level": replica.level, "data-name": replica.name });
  const cell = Object.fromEntries(NAMES.map((name, index) => [name, row.children[index]]));
  if (cell.kind.textContent !== replica.kind) cell.kind.replaceChildren(icon(iconOf(replica.kind), 14), replica.kind);
  const health = cell.state.firstElementChild;
  if (health.dataset.state !== replica.state) {
    health.dataset.state = replica.state;
    health.replaceChildren(icon(replica.shape, 14), el("span"));
  }
  text(health.lastElementChild, `${replica.state}${replica.orphan ? " (orphan)" : ""}${replica.drained ? " (drained)" : ""}`);
  set(cell.state, { title: replica.reason });
  set(cell.faults, { title: replica.faultText || null });
  const texts = Object.fromEntries(COLUMNS.filter(({ css }) => !DRAWN.has(css)).map(({ key, css, kind }) => [css, FORMATS[kind](replica[key])]));
  Object.assign(texts, { errors: rate(replica.errorRate), exit: exit(replica.last_exit), faults: replica.faultText || NONE });
  for (const [name, shown] of Object.entries(texts)) text(cell[name], shown);
  cell.errors.classList.toggle("warn", replica.errorRate > 0);
  for (const button of row.lastElementChild.children) set(button, { disabled: !writable });
}

/** One replica's details, as pairs for its dialog. */
export function facts(replica) {
  return [
    ["State", replica.reason ? `${replica.word}: ${replica.reason}` : replica.word],
    ["Kind", `${replica.kind} ${replica.id ?? ""}${replica.kind === "container" && replica.pid ? ` (PID ${replica.pid} on this host)` : ""}`],
    ["Port", replica.port],
    ...(replica.health ? [["Health", Object.entries(replica.health).map(([lb, found]) => `${lb}: ${found.healthy ? "healthy" : found.reason ?? "unhealthy"}${found.check_ms === null || found.check_ms === undefined ? "" : `, last check ${ms(found.check_ms)}`}`).join("; ") || "not checked yet"]] : []),
    ["Up", span(replica.uptime_s)],
    ["Requests", `${rate(replica.rate)}/s, ${count(replica.requests)} in all, ${plural(replica.in_flight ?? 0, "request")} in flight`],
    ["Errors", `${rate(replica.errorRate)}/s${replica.injectedRate > 0 ? `, and ${rate(replica.injectedRate)}/s injected` : ""}`],
    ["Latency", `p50 ${ms(replica.p50)}, p99 ${ms(replica.p99)}`],
    ["Uses", `${percent(replica.cpu_percent)} of a core, ${bytes(replica.memory_bytes)}`],
    ...(replica.faultText ? [["Faults", replica.faultText]] : []),
    ["Restarts", replica.last_exit ? `${replica.restarts}, last exit ${exit(replica.last_exit)}` : replica.restarts],
  ];
}
