// Draws the last recoveries: a worker as process next to the same as container, and load balancers apart. Each is a bar of its steps.

import { el, icon, keyed, set, text } from "./dom.js";
import { clock, figure, ms } from "./format.js";
import { GROUPS, groupOf } from "./groups.js";
import { dressBar, fullScale, median, slug, WORDS } from "./recovery_bar.js";

const MAX_SHOWN = 3;
const ORDER = Object.keys(WORDS);
export class Recoveries {
  constructor(root, stretch) {
    this.stretched = false;
    this.running = [];
    this.kinds = new Set();
    this.root = root;
    stretch.addEventListener("click", () => {
      this.stretched = !this.stretched;
      set(stretch, { "aria-pressed": String(this.stretched) });
      text(stretch, this.stretched ? "One scale" : "Stretch");
      this.update(this.found);
    });
    this.sides = GROUPS.map((group) => {
      const heading = el("h3", {}, icon(`i-${group.kind === "process" ? "process" : "container"}`), group.title);
      const middle = el("p", { class: "median" });
      const list = el("ol", {});
      const box = el("div", { class: `side ${group.kind}${group.apart ? " apart" : ""}`, "data-group": group.key }, heading, middle, list);
      root.append(box);
      return { ...group, box, middle, list };
    });
    this.scale = el("p", { class: "quiet scale" });
    this.key = el("p", { class: "legend steps" });
    root.after(this.scale, this.key);
  }

  /** `kinds` are those of the cluster's workers: a form that it does not have is left out, unless one has died. */
  update(found, running = this.running, kinds = this.kinds) {
    Object.assign(this, { found, running, kinds });
    const chosen = this.sides.map(({ key }) => found.filter((each) => groupOf(each) === key));
    const shown = chosen.map((each) => each.slice(0, MAX_SHOWN));
    const most = fullScale(shown.filter((_, index) => !this.sides[index].apart));
    const names = [...new Set(shown.flat().flatMap((each) => each.steps.map((step) => step.name)))].sort((one, other) => ORDER.indexOf(one) - ORDER.indexOf(other));
    keyed(this.key, names, (name) => name, (name) => el("span", {}, el("i", { class: name === "first answer" ? "tick" : `step ${slug(name)}` }), WORDS[name] ?? name), () => {});
    const cut = shown.flat().some((each) => each.total > most) ? "; a step that is much longer is cut (//)" : "";
    text(this.scale, !shown.flat().length ? "" : this.stretched ? "Every bar has full width: compare steps, not lengths." : `One scale for both forms of a worker: the full width is ${ms(most)}${cut}.`);
    this.sides.forEach(({ kind, apart, box, middle, list }, index) => {
      const all = chosen[index].map((each) => each.own);
      const width = apart ? fullScale([shown[index]]) : most;
      box.hidden = !apart && !all.length && !kinds.has(kind) && !(kind !== "task" && !kinds.size);
      text(middle, all.length ? `${ms(median(all))} from death to ready${all.length > 1 ? `, median of ${all.length}` : ""}${apart ? ", on a scale of its own" : ""}` : "None has died yet.");
      const waiting = running.filter((each) => groupOf(each) === this.sides[index].key).slice(0, MAX_SHOWN);
      keyed(list, [...waiting, ...shown[index]], (each) => each.n, row, (item, each) => (each.steps ? dress(item, each, this.stretched ? each.total : width) : dressRunning(item, each, width)));
    });
    this.root.classList.toggle("two", this.sides.filter((side) => !side.box.hidden).length === 2);
  }
}

/** The steps of a recovery as a list of times, for tooltips and details. */
export function steps(recovery) {
  const begin = recovery.first === "died" ? `crashed${recovery.cause ? ` (${recovery.cause})` : ""}` : "found dead";
  const rows = [["died", begin, 0], ...recovery.steps.map((step) => [step.name, WORDS[step.name] ?? step.name, step.to])];
  const items = rows.map(([name, words, at]) => el("li", {}, el("i", { class: `step ${slug(name)}` }), el("span", {}, words), el("b", {}, at === 0 ? "0" : `+${ms(at)}`)));
  return el("ol", { class: "moments" }, ...items);
}

function row(recovery) {
  const bar = el("div", { class: "bar" });
  const head = el("p", {}, el("strong", {}, recovery.name), el("b", {}, ""));
  return el("li", {}, head, bar, el("p", { class: "detail quiet" }));
}

/** A recovery that is under way: its bar grows until the replica is ready. */
function dressRunning(item, { took, cause, at }, most) {
  const [head, bar, detail] = item.children;
  text(head.children[1], `${ms(took)} so far`);
  keyed(bar, ["so far"], (name) => name, () => el("i", { class: "step running" }), (piece) => {
    piece.style.width = `${Math.min(100, (took / Math.max(1, most)) * 100).toFixed(2)}%`;
  });
  text(detail, `${cause} at ${clock(at)}: not ready yet`);
}

function dress(item, recovery, most) {
  const [head, bar, detail] = item.children;
  text(head.children[1], ms(recovery.own) + (recovery.waited ? ` + ${ms(recovery.waited)} backoff` : ""));
  dressBar(bar, recovery, Math.max(1, most));
  const begin = `${recovery.cause || "found dead"} at ${clock(recovery.at)}`;
  text(detail, `${begin}: ${recovery.steps.map((step) => figure(step.to)).join(" → ")} ms`);
  set(detail, { title: `${begin}: ${recovery.steps.map((step) => `${WORDS[step.name] ?? step.name} +${ms(step.to)}`).join(" → ")}` });
}
