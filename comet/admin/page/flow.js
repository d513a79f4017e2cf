// The path of a request: clients → load balancers → workers, as cards with lines between them.
//
// Cards are buttons, so that keyboard and screen reader reach each replica once, with all its figures; the lines repeat what the cards
// and the table say. Few replicas get a line each with its figures; many become tiles behind one trunk, and the lines of the focused
// replica are drawn on demand.

import { el, icon, iconOf, keyed, set, svg, text } from "./dom.js";
import { count, ms, percent, plural, rate } from "./format.js";

const MAX_CARDS = 6;
const MAX_LABELS = 18;
const STEP_INTERVAL = 250;
const REDUCED_MOTION = matchMedia("(prefers-reduced-motion: reduce)");
const LETTER = 5.4; // Approximate width of a label's letters, in pixels.

export class Flow {
  constructor(root, open) {
    this.root = root;
    this.open = open;
    this.focus = null;
    this.lines = svg("svg", { class: "lines", "aria-hidden": "true" });
    this.trunks = svg("g");
    this.edges = svg("g");
    this.labels = svg("g");
    this.shift = 0;
    setInterval(() => this.animate(), STEP_INTERVAL);
    this.lines.append(this.trunks, this.edges, this.labels);
    this.clients = el("div", { class: "clients" }, icon("i-clients", 22), el("strong", {}, "Clients"), el("span", { class: "rate" }), el("span", { class: "sub" }));
    this.lbs = column("Load balancers", "processes", "i-process");
    this.workers = column("Workers", "", "i-container");
    root.append(this.lines, el("div", { class: "col first" }, this.clients), this.lbs.box, this.workers.box);
    new ResizeObserver(() => this.draw()).observe(root);
    for (const name of ["pointerover", "focusin"]) root.addEventListener(name, (event) => this.setFocus(event.target.closest?.(".node")?.dataset.key ?? null));
    root.addEventListener("pointerleave", () => this.setFocus(null));
    root.addEventListener("focusout", () => this.setFocus(null));
  }

  update(model) {
    this.model = model;
    const tiles = model.workers.length > MAX_CARDS || model.lbs.length > MAX_CARDS;
    this.root.classList.toggle("many", tiles);
    text(this.clients.querySelector(".rate"), `${rate(model.total.rate)}/s`);
    text(this.clients.querySelector(".sub"), `${count(model.total.in_flight)} in flight`);
    for (const [side, replicas] of [[this.lbs, model.lbs], [this.workers, model.workers]]) {
      side.box.classList.toggle("tiles", replicas.length > MAX_CARDS);
      keyed(side.list, replicas, (each) => each.name, (each) => this.card(each), (item, each) => dress(item, each));
    }
    const ready = model.workers.filter((each) => each.state === "ready").length;
    text(this.workers.note, kinds(model.workers));
    text(this.workers.state, `${ready} of ${model.workers.length} in rotation`);
    text(this.lbs.state, "");
    this.draw();
  }

  card(replica) {
    const button = el("button", { type: "button", class: "node" });
    button.dataset.key = replica.name;
    button.addEventListener("click", () => this.open(replica.name));
    const line = el("span", { class: "line" }, icon(iconOf(replica.kind)), el("strong", { class: "name" }, replica.name), el("span", { class: "signs" }), el("span", { class: "health" }));
    button.append(line, el("span", { class: "numbers" }), el("span", { class: "where" }), el("span", { class: "badge" }));
    return el("li", {}, button);
  }

  /** Move the requests on the lines by one step: a few steps a second, because a smooth animation would use a fifth of a core. */
  animate() {
    if (document.hidden || REDUCED_MOTION.matches || !(this.model?.total.rate > 0) || document.documentElement.classList.contains("lost")) return;
    this.shift = (this.shift + 2.2) % 11.1;
    set(this.edges, { "stroke-dashoffset": (-this.shift).toFixed(1) });
  }

  setFocus(name) {
    if (name === this.focus) return;
    this.focus = name;
    this.draw();
  }

  /** Draw the lines again, between the cards where the browser has laid them out. */
  draw() {
    if (!this.model || !this.root.isConnected) return;
    const box = this.root.getBoundingClientRect();
    if (!box.width) return;
    set(this.lines, { width: box.width, height: box.height, viewBox: `0 0 ${box.width} ${box.height}` });
    const ways = getComputedStyle(this.root);
    const [first, down] = ["--first", "--way"].map((name) => ways.getPropertyValue(name).trim() === "down");
    this.place = (element) => {
      const each = element.getBoundingClientRect();
      return { left: each.left - box.left, right: each.right - box.left, top: each.top - box.top, bottom: each.bottom - box.top };
    };
    const busiest = Math.max(1, ...this.model.lbs.map((each) => each.rate ?? 0), ...this.model.edges.map((each) => each.rate ?? 0));
    this.width = (amount) => (amount ? 1.5 + 4.5 * Math.sqrt(Math.min(1, amount / busiest)) : 1.2);
    const drawn = [...this.fromClients(first), ...this.toWorkers(down)];
    keyed(this.edges, drawn, (each) => each.key, () => svg("path"), (path, each) => set(path, { d: each.d, class: `edge ${each.class}`, "stroke-width": each.width.toFixed(1) }));
    const labels = drawn.filter((each) => each.label);
    keyed(this.labels, labels, (each) => each.key, label, (group, each) => dressLabel(group, each));
  }

  fromClients(down) {
    const from = this.place(this.clients);
    const cards = [...this.lbs.list.children];
    if (down || this.lbs.box.classList.contains("tiles")) {
      const to = this.place(this.lbs.list);
      return [{ key: "clients>lbs", d: curve(...(down ? [mid(from), from.bottom, mid(to), to.top] : [from.right, middle(from), to.left, middle(to)]), down), class: flowing(this.model.total.rate), width: this.width(this.model.total.rate) }];
    }
    return this.model.lbs.map((lb, index) => {
      const to = this.place(cards[index].firstElementChild);
      const d = down ? curve(mid(from), from.bottom, mid(to), to.top, true) : curve(from.right, middle(from), to.left, middle(to), false);
      return { key: `clients>${lb.name}`, d, class: `${flowing(lb.rate)} ${lb.level === "bad" ? "cut" : ""} ${this.shade(lb.name)}`, width: this.width(lb.rate) };
    });
  }

  toWorkers(down) {
    const many = this.root.classList.contains("many");
    const lbs = new Map([...this.lbs.list.children].map((item, index) => [this.model.lbs[index].name, item]));
    const workers = new Map([...this.workers.list.children].map((item, index) => [this.model.workers[index].name, item]));
    const drawn = many ? this.trunk(down, lbs) : [];
    const shown = many ? this.model.edges.filter((edge) => this.focus === edge.worker || this.focus === edge.lb) : this.model.edges;
    const labelled = (many ? shown.length <= MAX_LABELS : shown.length <= MAX_LABELS && this.model.lbs.length <= 4);
    for (const edge of shown) {
      if (!lbs.has(edge.lb) || !workers.has(edge.worker)) continue;
      const from = this.place(lbs.get(edge.lb).firstElementChild);
      const to = this.place(workers.get(edge.worker).firstElementChild);
      const turn = this.model.lbs.findIndex((each) => each.name === edge.lb);
      const share = (turn + 1) / (this.model.lbs.length + 1);
      const arrive = many ? middle(to) : to.top + (to.bottom - to.top) * share;
      const ends = down ? [mid(from), from.bottom, mid(to), to.top] : [from.right, middle(from), to.left, arrive];
      const state = !edge.up ? "cut" : flowing(edge.rate);
      drawn.push({
        key: `${edge.lb}>${edge.worker}`, d: curve(...ends, down), class: `${state} ${this.shade(edge.lb, edge.worker)}`, width: this.width(edge.rate),
        label: labelled && !down && !(many && this.focus === edge.lb) ? figures(edge, many ? Infinity : ends[2] - ends[0] - 40) : "", x: ends[2] - 8, y: many ? null : arrive, bad: edge.errorRate > 0 || !edge.up, warn: edge.injectedRate > 0, lit: this.focus !== null && [edge.lb, edge.worker].includes(this.focus),
        ends,
      });
    }
    return drawn;
  }

  /** One thick line from each load balancer (or from all of them) to the field of workers. */
  trunk(down, lbs) {
    const to = this.place(this.workers.list);
    const sources = this.lbs.box.classList.contains("tiles") ? [[{ name: "lbs", rate: this.model.total.rate, level: "good" }, this.lbs.list]] : this.model.lbs.map((lb) => [lb, lbs.get(lb.name).firstElementChild]);
    return sources.map(([lb, element], index) => {
      const from = this.place(element);
      const share = (index + 1) / (sources.length + 1);
      const ends = down ? [mid(from), from.bottom, to.left + (to.right - to.left) * share, to.top] : [from.right, middle(from), to.left - 2, to.top + (to.bottom - to.top) * share];
      return { key: `${lb.name}>*`, d: curve(...ends, down), class: `trunk ${flowing(lb.rate)} ${lb.level === "bad" ? "cut" : ""} ${this.focus ? "dim" : ""}`, width: this.width(lb.rate) };
    });
  }

  shade(...names) {
    if (this.focus === null) return "";
    return names.includes(this.focus) ? "lit" : "dim";
  }
}

function column(title, note, symbol) {
  const list = el("ul", {});
  const noted = el("span", { class: "quiet" }, note);
  const state = el("span", { class: "quiet right" });
  list.setAttribute("aria-label", title);
  const box = el("div", { class: `col ${symbol.slice(2)}` }, el("p", { class: "colhead" }, el("strong", {}, title), " ", noted, state), list);
  return { box, list, note: noted, state };
}

function kinds(workers) {
  const [first = "", ...more] = new Set(workers.map((each) => each.kind));
  return more.length ? "mixed" : { container: "", process: "processes", upstream: "that already run" }[first] ?? first;
}

function dress(item, replica) {
  const button = item.firstElementChild;
  const [line, numbers, where, badge] = button.children;
  set(button, { "data-level": replica.level, class: `node ${replica.kind}` });
  const health = line.lastElementChild;
  if (health.dataset.state !== replica.state) {
    health.dataset.state = replica.state;
    health.replaceChildren(icon(replica.shape, 14), el("span"));
  }
  text(health.lastElementChild, replica.word);
  if (!numbers.firstChild) numbers.append(el("span"), " · ", el("span", { class: "wide" }, "p99 "), el("span"));
  text(numbers.children[0], `${rate(replica.rate)}/s`);
  text(numbers.children[2], ms(replica.p99));
  text(where, replica.level === "good" || replica.level === "busy" ? `:${replica.port} · ${replica.role === "lb" ? `PID ${replica.pid ?? "–"}` : replica.id ?? "–"} · ${count(replica.in_flight)} in flight` : replica.reason || `:${replica.port}`);
  const figures = [...failing(replica), replica.faultText ? `faults: ${replica.faultText}` : "", replica.restarts ? plural(replica.restarts, "restart") : ""].filter(Boolean).join(" · ");
  text(badge, figures);
  set(badge, { title: figures });
  set(where, { title: where.textContent });
  const marks = line.querySelector(".signs");
  const marked = `${replica.errorShare > 0 ? "errors" : ""} ${replica.faultText ? "faults" : ""}`;
  if (marks.dataset.marked !== marked) {
    marks.dataset.marked = marked;
    marks.replaceChildren(...(replica.errorShare > 0 ? [el("b", {}, "!")] : []), ...(replica.faultText ? [icon("m-fault", 12)] : []));
  }
  set(marks, { title: [...failing(replica), replica.faultText ? `faults: ${replica.faultText}` : ""].filter(Boolean).join("; ") || null });
  badge.classList.toggle("warn", replica.errorShare > 0 || replica.injectedShare > 0 || Boolean(replica.faultText));
}

/** What fails of its requests: unplanned, and injected. */
function failing(each) {
  return [each.errorShare > 0 ? `${percent(each.errorShare)} errors` : "", each.injectedShare > 0 ? `${percent(each.injectedShare)} injected` : ""];
}

/** As many of a line's figures as fit, the most important first. */
function figures(edge, room) {
  const parts = edge.up ? [`${rate(edge.rate)}/s`, ...failing(edge), edge.p50 === null ? "" : ms(edge.p50), edge.in_flight ? `${edge.in_flight} in flight` : ""].filter(Boolean) : ["✕ out of rotation"];
  while (parts.length && parts.join(" · ").length * LETTER + 14 > room) parts.pop();
  return parts.join(" · ");
}

function label() {
  return svg("g", { class: "label" }, svg("rect", { rx: 7, height: 16 }), svg("text", { "text-anchor": "end", "dominant-baseline": "central" }));
}

function dressLabel(group, each) {
  const [back, words] = group.children;
  if (words.textContent !== each.label || !group.long) {
    text(words, each.label);
    group.long = words.getComputedTextLength() + 14;
  }
  const { long } = group;
  const y = each.y ?? each.ends[3];
  set(group, { class: `label ${each.bad ? "bad" : each.warn ? "warn" : ""} ${each.lit ? "lit" : ""}`, transform: `translate(${each.x.toFixed(1)} ${y.toFixed(1)})` });
  set(back, { x: -long, y: -8, width: long });
  set(words, { x: -7, y: 0.5 });
}

const flowing = (amount) => (amount > 0 ? "on" : "idle");
const middle = (place) => (place.top + place.bottom) / 2;
const mid = (place) => (place.left + place.right) / 2;

function curve(x1, y1, x2, y2, down) {
  const bend = down ? Math.max(12, (y2 - y1) / 2) : Math.max(18, (x2 - x1) * 0.42);
  const turns = down ? [x1, y1 + bend, x2, y2 - bend] : [x1 + bend, y1, x2 - bend, y2];
  return `M${x1.toFixed(1)} ${y1.toFixed(1)}C${turns.map((each) => each.toFixed(1)).join(" ")} ${x2.toFixed(1)} ${y2.toFixed(1)}`;
}
