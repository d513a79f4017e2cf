// The last recoveries, processes beside containers, each as a bar of its steps on one scale of milliseconds.

import { el, icon, keyed, set, text } from "./dom.js";
import { clock, ms } from "./format.js";

const SHOWN = 4;
const WORDS = {
  noticed: "noticed",
  decided: "decided to restart",
  started: "started",
  listening: "listening",
  ready: "ready",
  "first answer": "first answer",
};

export class Recoveries {
  constructor(root, stretch) {
    this.stretched = false;
    stretch.addEventListener("click", () => {
      this.stretched = !this.stretched;
      set(stretch, { "aria-pressed": String(this.stretched) });
      text(stretch, this.stretched ? "One scale" : "Stretch bars");
      this.update(this.found);
    });
    this.sides = ["process", "container"].map((kind) => {
      const title = el("h3", {}, icon(`i-${kind}`), kind === "process" ? "Processes" : "Containers");
      const middle = el("p", { class: "median" });
      const list = el("ol", {});
      root.append(el("div", { class: `side ${kind}` }, title, middle, list));
      return { kind, middle, list };
    });
    this.scale = el("p", { class: "quiet scale" });
    this.key = el("p", { class: "legend steps" });
    root.after(this.scale, this.key);
  }

  update(found) {
    this.found = found;
    const chosen = this.sides.map(({ kind }) => found.filter((each) => each.kind === kind));
    const shown = chosen.map((each) => each.slice(0, SHOWN));
    const most = Math.max(1, ...shown.flat().map(length));
    const names = [...new Set(shown.flat().flatMap((each) => drawn(each).map((step) => step.name)))];
    keyed(this.key, names, (name) => name, (name) => el("span", {}, el("i", { class: `step ${slug(name)}` }), WORDS[name] ?? name), () => {});
    text(this.scale, !shown.flat().length ? "" : this.stretched ? "Each bar is as wide as its own recovery: compare steps, not lengths." : `One scale for all: the full width is ${ms(most)}.`);
    this.sides.forEach(({ kind, middle, list }, index) => {
      const all = chosen[index].map((each) => each.total);
      text(middle, all.length ? `${ms(median(all))} from death to ready${all.length > 1 ? `, median of ${all.length}` : ""}` : `No ${kind} has died yet.`);
      keyed(list, shown[index], (each) => each.n, row, (item, each) => dress(item, each, this.stretched ? length(each) : most));
    });
  }
}

/** The steps of a recovery as a small table of moments, for tooltips and details. */
export function steps(recovery) {
  const rows = [[recovery.first === "died" ? `died${recovery.cause ? ` (${recovery.cause})` : ""}` : "found dead", 0], ...recovery.steps.map((step) => [WORDS[step.name] ?? step.name, step.to])];
  const items = rows.map(([name, at]) => el("li", {}, el("i", { class: `step ${slug(name === WORDS.decided ? "decided" : name.split(" (")[0])}` }), el("span", {}, name), el("b", {}, at === 0 ? "0" : `+${ms(at)}`)));
  return el("ol", { class: "moments" }, ...items);
}

function row(recovery) {
  const bar = el("div", { class: "bar" });
  const head = el("p", {}, el("strong", {}, recovery.name), el("b", {}, ""));
  return el("li", {}, head, bar, el("p", { class: "detail quiet" }));
}

function dress(item, recovery, most) {
  const [head, bar, detail] = item.children;
  text(head.children[1], ms(recovery.total));
  keyed(bar, drawn(recovery), (step) => step.name, (step) => el("i", { class: `step ${slug(step.name)}` }), (piece, step) => {
    piece.style.width = `${(((step.to - step.from) / most) * 100).toFixed(2)}%`;
    set(piece, { title: `${step.name} after ${ms(step.to - step.from)}` });
  });
  text(detail, `${recovery.cause || "found dead"} at ${clock(recovery.at)}: ` + recovery.steps.map((step) => `${step.name} +${ms(step.to)}`).join(" → "));
}

function median(values) {
  const sorted = [...values].sort((one, other) => one - other);
  const half = Math.floor(sorted.length / 2);
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

const drawn = (recovery) => recovery.steps.filter((step) => !step.waited);
const length = (recovery) => drawn(recovery).at(-1).to;
const slug = (name) => name.replaceAll(" ", "-");
