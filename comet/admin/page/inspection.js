// What the kernel and the engine know of replicas, side by side: `inspect` on the page.
//
// A report is made when it is asked for, never by itself: it reads much of /proc. Only who may write gets one.

import { byId, el, keyed, text } from "./dom.js";
import { inspectionOf } from "./live.js";

const MOST = 8; // Replicas side by side that the server allows.

export class Inspection {
  constructor() {
    this.dialog = byId("inspect");
    this.names = byId("inspect-names");
    this.differs = byId("inspect-differs");
    this.state = byId("inspect-state");
    this.button = byId("inspect-open");
    this.chosen = new Set();
    this.report = null;
    this.turn = 0; // Of several answers only that to the latest question counts.
    this.button.addEventListener("click", () => this.open(oneOfEach(this.model)));
    this.differs.addEventListener("change", () => this.draw());
    byId("inspect-again").addEventListener("click", () => this.ask());
    byId("inspect-close").addEventListener("click", () => this.dialog.close());
  }

  setModel(model) {
    this.model = model;
    this.button.disabled = !model.writable || model.replicas.length === 0;
    if (!this.dialog.open) return;
    if (model.writable) this.offer();
    else this.dialog.close();
  }

  open(names) {
    this.chosen = new Set(names);
    this.report = null;
    this.draw();
    this.offer();
    this.dialog.showModal();
    this.ask();
  }

  /** Offer the replicas that there are now. */
  offer() {
    keyed(this.names, this.model.replicas, (each) => each.name, (each) => this.choice(each.name), (label, each) => {
      const box = label.firstElementChild;
      box.checked = this.chosen.has(each.name);
      box.disabled = !box.checked && this.chosen.size >= MOST;
    });
  }

  choice(name) {
    const box = el("input", { type: "checkbox", name });
    box.addEventListener("change", () => {
      if (box.checked) this.chosen.add(name);
      else this.chosen.delete(name);
      this.offer();
      this.ask();
    });
    return el("label", { class: "check" }, box, ` ${name}`);
  }

  async ask() {
    const turn = ++this.turn;
    const names = this.model.replicas.map((each) => each.name).filter((name) => this.chosen.has(name));
    if (names.length === 0) {
      this.report = null;
      this.draw();
      text(this.state, "Choose a replica.");
      return;
    }
    text(this.state, "Reading…");
    let outcome = "";
    let report = null;
    try {
      report = await inspectionOf(names);
    } catch (error) {
      outcome = error.message;
    }
    if (turn !== this.turn) return;
    this.report = report;
    this.draw();
    text(this.state, outcome || summary(report));
  }

  draw() {
    byId("inspect-body").replaceChildren(...(this.report ? [table(this.report, this.differs.checked)] : []));
  }
}

/** A worker and a load balancer: the first look shows what sets them apart. */
function oneOfEach(model) {
  return [model.lbs[0], model.workers[0]].filter(Boolean).map((each) => each.name);
}

function summary(report) {
  const count = report.rows.filter((row) => row.differs).length;
  const host = report.machine.host === "PID 1" ? "" : " “host’s” means: like this page’s server’s.";
  return `${report.rows.length} rows; ${count} differ (≠). Kernel ${report.machine.kernel}.${host}`;
}

function table(report, onlyDifferences) {
  const names = report.replicas.map((each) => el("th", { scope: "col" }, each.name));
  const shown = report.rows.filter((row) => row.differs || !onlyDifferences);
  const groups = [...new Set(shown.map((row) => row.group))];
  const bodies = groups.map((group) => el("tbody", {}, heading(group, names.length + 3), ...shown.filter((row) => row.group === group).map(line)));
  const head = el("tr", {}, el("td", {}), el("th", { scope: "col" }, "Row"), el("th", { scope: "col" }, "Meaning"), ...names);
  return el("table", {}, el("thead", {}, head), ...bodies);
}

function heading(group, width) {
  return el("tr", {}, el("th", { class: "group", scope: "rowgroup", colspan: width }, group));
}

function line(row) {
  const mark = el("td", { class: "mark" }, row.differs ? "≠" : "");
  const cells = row.values.map((value) => el("td", { class: value.remedy ? "unknown" : "" }, value.text));
  return el("tr", { class: row.differs ? "differs" : "", "data-row": row.key }, mark, el("th", { scope: "row" }, row.heading), el("td", { class: "meaning" }, row.meaning), ...cells);
}
