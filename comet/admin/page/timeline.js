// Draws the last five minutes: a line per replica with its events as marks, requests and errors below, all on one time axis.
//
// A recovery of milliseconds is too narrow to see on five minutes, so its mark shows its duration as text, and a tooltip shows its steps:
// on hover, or when the arrow keys move there (one Tab stop, as in a toolbar).

import { el, iconOf, keyed, set, svg, text } from "./dom.js";
import { clock, ms, plural, rate } from "./format.js";
import { settings } from "./fault_kinds.js";
import { cause, faultBars, lives } from "./lives.js";
import { WINDOW } from "./model.js";
import { steps } from "./recoveries.js";

const ROW = 26;
const NARROW_ROW = 14;
const MAX_ROWS = 14;
const CHART = [54, 120];
const TOP = 22;
const NAMES = { death: "crashed", back: "recovered", start: "started", stop: "stopped", adopted: "adopted", unhealthy: "unhealthy", fault: "faults", note: "" };
const SYMBOLS = { death: "m-death", back: "m-back", start: "m-start", stop: "m-stop", adopted: "m-adopted", unhealthy: "m-unhealthy", fault: "m-fault", note: "m-note" };

export class Timeline {
  constructor(root, tip, fold) {
    this.root = root;
    this.tip = tip;
    this.all = false;
    this.fold = fold;
    this.svg = svg("svg", { role: "group", "aria-label": "Timeline. Arrow keys move from mark to mark." });
    this.parts = Object.fromEntries(["grid", "lines", "bars", "charts", "marks", "axis"].map((name) => [name, svg("g", { class: name })]));
    this.cross = svg("line", { class: "cross", visibility: "hidden" });
    this.svg.append(...Object.values(this.parts), this.cross);
    root.append(this.svg);
    fold.addEventListener("click", () => {
      this.all = !this.all;
      set(fold, { "aria-pressed": String(this.all) });
      text(fold, this.all ? "Show active replicas" : "Show all replicas");
      this.draw();
    });
    new ResizeObserver(() => this.draw()).observe(root);
    this.svg.addEventListener("keydown", (event) => this.move(event));
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.leave());
  }

  update(model, events, history, now) {
    this.now = now;
    this.from = now - WINDOW;
    this.model = model;
    this.history = history;
    this.lives = lives(events, model.replicas, this.from, now);
    this.faults = faultBars(events, this.from, now);
    this.notes = events.filter((event) => !event.replica && event.time >= this.from && !["faults_changed", "admin_ready"].includes(event.event));
    this.draw();
  }

  /** The replicas with a row of their own: all if they are few, else all to which something happened. */
  chosen() {
    const replicas = this.model.replicas;
    const few = replicas.length <= MAX_ROWS;
    set(this.fold, { hidden: few });
    if (few || this.all) return { rows: replicas, quiet: [] };
    const faulty = new Set(this.faults.map((bar) => bar.name));
    const eventful = (each) => each.level === "bad" || each.faultText || faulty.has(each.name) || this.lives.get(each.name).marks.some((mark) => mark.sort !== "start");
    const loud = new Set(replicas.filter(eventful).map((each) => each.name));
    for (const lb of this.model.lbs.slice(0, 2)) loud.add(lb.name);
    return { rows: replicas.filter((each) => loud.has(each.name)), quiet: replicas.filter((each) => !loud.has(each.name)) };
  }

  draw() {
    if (!this.model) return;
    const width = this.root.clientWidth;
    if (!width) return;
    const narrow = width < 560;
    this.left = narrow ? 98 : 118;
    this.right = width - 14;
    this.x = (time) => this.left + ((Math.max(this.from, Math.min(time, this.now)) - this.from) / WINDOW) * (this.right - this.left);
    const { rows, quiet } = this.chosen();
    const high = rows.length > MAX_ROWS ? NARROW_ROW : ROW;
    const lanes = rows.map((each, index) => ({ replica: each, y: TOP + 22 + index * high, high }));
    let bottom = TOP + 22 + rows.length * high;
    if (quiet.length) bottom += ROW;
    this.lanes = new Map(lanes.map((lane) => [lane.replica.name, lane]));
    this.drawLines(lanes, quiet, bottom);
    this.drawFaults(bottom);
    this.drawMarks(lanes, narrow);
    const least = bottom + 54 + 2 * CHART[0];
    if (this.root.style.minHeight !== `${least}px`) this.root.style.minHeight = `${least}px`;
    const spare = Math.max(0, this.root.clientHeight - least) / 2;
    this.chart = Math.min(CHART[1], CHART[0] + spare);
    this.drawCharts(bottom + 14);
    const height = bottom + 54 + 2 * this.chart;
    this.drawAxis(height, narrow);
    this.bottom = height - 18;
    set(this.svg, { width, height, viewBox: `0 0 ${width} ${height}` });
  }

  drawLines(lanes, quiet, bottom) {
    const names = [{ name: "cluster", y: TOP + 9, kind: null }, ...lanes.map((lane) => ({ name: lane.replica.name, y: lane.y + lane.high / 2, kind: lane.replica.kind, tight: lane.high === NARROW_ROW }))];
    if (quiet.length) names.push({ name: plural(quiet.length, "other"), y: bottom - ROW / 2, kind: null });
    keyed(this.parts.lines, names, (each) => each.name.replace(/^\d+ /, ""), named, (group, each) => {
      set(group, { transform: `translate(0 ${each.y.toFixed(1)})`, class: each.tight ? "row tight" : "row" });
      text(group.lastElementChild, each.name);
      set(group.firstElementChild, { x1: this.left, x2: this.right });
    });
    const pieces = lanes.flatMap((lane) => (this.lives.get(lane.replica.name)?.segments ?? []).map((segment) => ({ ...segment, lane })));
    if (quiet.length) pieces.push({ from: this.from, to: this.now, state: "quiet", lane: { replica: { name: "quiet" }, y: bottom - ROW, high: ROW } });
    keyed(this.parts.bars, pieces, (each) => `${each.lane.replica.name} ${each.from > this.from ? each.from : "begin"} ${each.state}`, () => svg("rect"), (rect, each) => {
      const thick = each.lane.high === NARROW_ROW ? 6 : 10;
      const start = this.x(each.from);
      const wide = Math.max(each.state === "ready" ? 0.5 : 3, this.x(each.to) - start);
      set(rect, { class: `life ${each.state} ${each.lane.replica.kind ?? ""}`, x: (start - (each.state === "ready" ? 0 : wide === 3 ? 1.5 : 0)).toFixed(1), y: each.lane.y + (each.lane.high - thick) / 2, width: wide.toFixed(1), height: thick, rx: each.state === "ready" ? 2 : 0 });
    });
  }

  drawFaults(bottom) {
    const shown = this.faults.map((bar) => ({ ...bar, lane: bar.name ? this.lanes.get(bar.name) : null })).filter((bar) => bar.name === null || bar.name === "front" || bar.lane);
    keyed(this.parts.grid, shown, (bar) => `fault ${bar.n}`, () => svg("rect"), (rect, bar) => {
      const y = bar.lane ? bar.lane.y + bar.lane.high - 6 : TOP + 20;
      const high = bar.lane ? 4 : bottom - TOP - 20;
      set(rect, { class: bar.lane ? "fault one" : "fault all", x: this.x(bar.from).toFixed(1), y, width: Math.max(2, this.x(bar.to) - this.x(bar.from)).toFixed(1), height: high });
    });
  }

  drawMarks(lanes, narrow) {
    const marks = lanes.flatMap((lane) => (this.lives.get(lane.replica.name)?.marks ?? []).map((mark) => ({ ...mark, lane })));
    for (const bar of this.faults) {
      const lane = bar.name ? this.lanes.get(bar.name) : null;
      if (bar.from >= this.from && (bar.name === null || lane)) marks.push({ n: bar.n, at: bar.from, sort: "fault", event: bar.event, lane });
    }
    for (const note of this.notes) marks.push({ n: note.n, at: note.time, sort: note.sort, event: note, lane: null });
    marks.sort((one, other) => one.at - other.at || one.n - other.n);
    const shown = marks.filter((mark, index) => !(mark.sort === "death" && marks.slice(index + 1).some((next) => next.sort === "back" && next.lane === mark.lane && this.x(next.at) - this.x(mark.at) < 9)));
    this.marks = shown;
    this.space(shown, narrow);
    keyed(this.parts.marks, shown, (mark) => `${mark.n}`, (mark) => this.mark(mark), (group, mark) => this.dress(group, mark));
    if (!this.parts.marks.querySelector('[tabindex="0"]')) this.parts.marks.lastElementChild?.setAttribute("tabindex", "0");
  }

  /** Place a duration after its mark if the next mark leaves room, else before it. */
  space(marks, narrow) {
    const lines = new Map();
    for (const mark of marks) {
      const line = mark.lane?.replica.name ?? "";
      lines.set(line, [...(lines.get(line) ?? []), mark]);
    }
    for (const line of lines.values()) {
      let taken = this.left;
      line.forEach((mark, index) => {
        const x = this.x(mark.at);
        const words = mark.recovery ? ms(mark.recovery.own) : !mark.lane && !narrow ? noteWord(mark) : "";
        const long = this.widthOf(words) + 18;
        const after = index + 1 < line.length ? this.x(line[index + 1].at) - 9 : this.right + 10;
        mark.before = x + long > after && x - long > taken;
        mark.words = x + long <= after || mark.before ? words : "";
        taken = mark.words && !mark.before ? x + long : x + 9;
      });
    }
  }

  /** The width of the words next to a mark, as the style sheet sets them. */
  widthOf(words) {
    this.ruler ??= document.createElement("canvas").getContext("2d");
    this.ruler.font = `650 12px ${getComputedStyle(this.root).fontFamily}`;
    return this.ruler.measureText(words).width;
  }

  mark(mark) {
    const group = svg("g", { role: "img", tabindex: "-1" }, svg("rect", { class: "hit", x: -9, y: -11, width: 18, height: 22 }), svg("circle", { r: 8 }), svg("use", { href: `#${SYMBOLS[mark.sort]}`, x: -5.5, y: -5.5, width: 11, height: 11 }), svg("text", { x: 11, "dominant-baseline": "central" }));
    group.addEventListener("pointerenter", () => this.showTip(group));
    group.addEventListener("pointerleave", () => this.tip.hide());
    group.addEventListener("focus", () => {
      for (const other of this.parts.marks.querySelectorAll('[tabindex="0"]')) set(other, { tabindex: "-1" });
      set(group, { tabindex: "0" });
      this.showTip(group);
    });
    group.addEventListener("blur", () => this.tip.hide());
    return group;
  }

  dress(group, mark) {
    group.mark = mark;
    const y = mark.lane ? mark.lane.y + mark.lane.high / 2 : TOP + 9;
    set(group, { class: `mark ${mark.sort} ${mark.lane?.high === NARROW_ROW ? "tight" : ""}`, transform: `translate(${this.x(mark.at).toFixed(1)} ${y.toFixed(1)})`, "aria-label": `${clock(mark.at)} ${mark.event.text}` });
    set(group.lastElementChild, { x: mark.before ? -11 : 11, "text-anchor": mark.before ? "end" : "start" });
    text(group.lastElementChild, mark.words);
  }

  showTip(group) {
    const { mark } = group;
    const title = mark.lane ? `${mark.lane.replica.name} ${NAMES[mark.sort]}` : mark.event.text;
    const body = [el("p", { class: "when" }, `${clock(mark.at)} · ${mark.lane ? mark.lane.replica.kind : "cluster"}`)];
    if (mark.recovery) body.push(steps(mark.recovery));
    else if (mark.event.settings) body.push(el("p", {}, mark.event.clear && !Object.keys(mark.event.settings).length ? "cleared" : settings(mark.event.settings)));
    else if (mark.sort === "death") body.push(el("p", {}, cause(mark.event)));
    else if (mark.lane) body.push(el("p", {}, mark.event.text));
    this.tip.show(group, title, body);
  }

  drawCharts(top) {
    const { history } = this;
    const span = history.filter((each) => each.time >= this.from - 1500);
    const most = nice(Math.max(1, ...span.map((each) => each.rate ?? 0)));
    const worst = nice(Math.max(1, ...span.map((each) => Math.max(each.errors ?? 0, each.injected ?? 0))));
    const charts = [
      { key: "rate", name: "requests/s", y: top, most, of: (each) => each.rate ?? 0 },
      { key: "errors", name: "errors/s", y: top + this.chart + 16, most: worst, of: (each) => each.errors ?? 0 },
    ];
    if (span.some((each) => each.injected > 0)) charts.push({ ...charts[1], key: "injected", name: "injected errors/s", over: true, of: (each) => each.injected ?? 0 });
    this.chartsAt = charts;
    keyed(this.parts.charts, charts, (each) => each.key, chart, (group, each) => {
      const [base, area, line, name, top, now] = group.children;
      const height = each.y + this.chart;
      const scale = (value) => height - (value / each.most) * (this.chart - 6);
      set(base, { x1: this.left, x2: this.right, y1: height, y2: height });
      const runs = pieces(span);
      const outline = (run) => run.map((point, index) => `${index ? "L" : "M"}${this.x(point.time).toFixed(1)} ${scale(each.of(point)).toFixed(1)}`).join("");
      set(line, { d: runs.map(outline).join("") });
      set(area, { d: runs.map((run) => `${outline(run)}L${this.x(run.at(-1).time).toFixed(1)} ${height}L${this.x(run[0].time).toFixed(1)} ${height}Z`).join("") });
      set(name, { x: 2, y: height - this.chart / 2 });
      text(name, each.over ? "" : each.name);
      set(top, { x: this.left - 6, y: height - this.chart + 10 });
      text(top, each.over ? "" : each.most.toLocaleString("en"));
      set(now, { x: this.left - 6, y: height - 3 });
      set(group, { "aria-label": `${each.name}: now ${rate(each.of(span.at(-1) ?? {}))}, at most ${rate(Math.max(0, ...span.map(each.of)))} in five minutes` });
    });
  }

  drawAxis(height, narrow) {
    const ticks = [0, 1, 2, 3, 4, 5].map((minute) => ({ minute, time: this.now - minute * 60000 }));
    keyed(this.parts.axis, ticks, (tick) => tick.minute, () => svg("g", {}, svg("line"), svg("text", { "text-anchor": "middle" })), (group, tick) => {
      const x = this.x(tick.time);
      set(group.firstElementChild, { x1: x, x2: x, y1: TOP - 4, y2: height - 18 });
      set(group.lastElementChild, { x, y: height - 5, "text-anchor": tick.minute === 0 ? "end" : "middle" });
      text(group.lastElementChild, tick.minute ? `−${tick.minute}${narrow ? "" : " min"}` : "now");
    });
  }

  move(event) {
    const marks = [...this.parts.marks.children].sort((one, other) => one.mark.at - other.mark.at);
    const index = marks.indexOf(document.activeElement);
    const to = { ArrowRight: index + 1, ArrowLeft: index - 1, ArrowDown: index + 1, ArrowUp: index - 1, Home: 0, End: marks.length - 1 }[event.key];
    if (event.key === "Escape") this.tip.hide();
    if (to === undefined || index < 0) return;
    event.preventDefault();
    marks[Math.max(0, Math.min(to, marks.length - 1))].focus();
  }

  /** Show the figures at the pointer's time, over the charts. */
  point(event) {
    const box = this.svg.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    if (!this.chartsAt || x < this.left || x > this.right || y < this.chartsAt[0].y || !this.history.length) return this.leave();
    const time = this.from + ((x - this.left) / (this.right - this.left)) * WINDOW;
    const near = this.history.reduce((best, each) => (Math.abs(each.time - time) < Math.abs(best.time - time) ? each : best));
    set(this.cross, { visibility: "visible", x1: x, x2: x, y1: TOP, y2: this.bottom });
    this.crossed = true;
    return this.tip.show(this.cross, clock(near.time), [el("p", {}, `${rate(near.rate)} requests/s, ${rate(near.errors)} errors/s${near.injected > 0 ? `, ${rate(near.injected)} injected/s` : ""}`)]);
  }

  leave() {
    if (!this.crossed) return;
    this.crossed = false;
    set(this.cross, { visibility: "hidden" });
    this.tip.hide();
  }
}

function named(each) {
  const symbol = each.kind ? [svg("use", { href: `#${iconOf(each.kind)}`, x: 2, y: -6, width: 12, height: 12, class: "icon" })] : [];
  return svg("g", {}, svg("line", { class: "rail", y1: 0, y2: 0 }), ...symbol, svg("text", { x: each.kind ? 19 : 2, "dominant-baseline": "central" }));
}

function chart() {
  return svg("g", { role: "img", class: "chart" }, svg("line", { class: "base" }), svg("path", { class: "area" }), svg("path", { class: "curve" }), svg("text", { class: "name" }), svg("text", { "text-anchor": "end", class: "scale" }), svg("text", {}));
}

function noteWord(mark) {
  const { event } = mark;
  if (event.event === "scaled") return `scaled to ${event.worker}+${event.pool}`;
  if (event.event === "faults_changed") return event.clear && !Object.keys(event.settings ?? {}).length ? "faults cleared" : settings(event.settings ?? {});
  return event.event.replaceAll("_", " ");
}

/** The samples in runs without gaps: no line is drawn across a time without data. */
function pieces(span) {
  const runs = [];
  for (const point of span) {
    const run = runs.at(-1);
    if (run && point.time - run.at(-1).time < 4000) run.push(point);
    else runs.push([point]);
  }
  return runs;
}

function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= value);
}

