// The page: one answer of the supervisor a second, drawn by parts that know nothing of each other.

import { Controls, notice } from "./controls.js";
import { byId, el, icon, keyed, set, text } from "./dom.js";
import { Flow } from "./flow.js";
import { bytes, clock, count, ms, percent, plural, rate, span } from "./format.js";
import { History } from "./history.js";
import { recoveries } from "./lives.js";
import { eventsAfter, Live } from "./live.js";
import { read, verdict } from "./model.js";
import { News } from "./news.js";
import { Recoveries } from "./recoveries.js";
import { facts, Table } from "./table.js";
import { Timeline } from "./timeline.js";
import { Tip } from "./tip.js";

const SILENCE = 5; // Seconds without a word of the supervisor to its own server; it speaks once a second.

const tip = new Tip(byId("tip"));
const history = new History(eventsAfter);
const flow = new Flow(byId("flow"), about);
const timeline = new Timeline(byId("timeline"), tip, byId("fold"));
const back = new Recoveries(byId("recoveries"), byId("stretch"));
const news = new News(byId("news"), byId("voice"));
const table = new Table(byId("rows"), (what, name) => (what === "about" ? about(name) : controls.ask(what, name)));
const live = new Live(heard, silent);
const controls = new Controls(() => live.now());
let model = null;
let lastHeard = null;

function heard(told) {
  const returned = document.documentElement.classList.contains("lost");
  lastHeard = Date.now();
  history.take(told);
  if (told.silent_s > SILENCE) return silent(`its server answers, but it has said nothing for ${span(told.silent_s)}: it is stopped or hung`);
  model = read(told);
  controls.know(model);
  document.documentElement.classList.remove("lost");
  byId("lost").hidden = true;
  if (returned) notice("", "wait").change("The supervisor answers again", "good");
  draw(history.now);
  return undefined;
}

function draw(now) {
  const { events, samples } = history;
  summary();
  flow.update(model);
  timeline.update(model, events, samples, now);
  back.update(recoveries(events));
  news.update(events);
  table.update(model);
  byId("news-none").hidden = events.length > 0;
  text(byId("news-count"), events.length ? `${events.length} events` : "");
}

function summary() {
  const { level, word, more } = verdict(model);
  const { supervisor, total } = model;
  const box = byId("verdict");
  if (box.dataset.level !== level) {
    set(box, { "data-level": level });
    box.firstElementChild.replaceChildren(icon({ good: "s-ready", busy: "s-starting", bad: "s-unhealthy" }[level], 34));
  }
  text(box.querySelector(".word"), word);
  text(box.querySelector(".more"), more);
  text(byId("identity"), `supervisor PID ${supervisor.pid} · up ${span(supervisor.uptime_s)}`);
  text(byId("costs"), ` · ${percent(supervisor.cpu_percent)} CPU · ${bytes(supervisor.memory_bytes)} · version ${supervisor.version}`);
  set(byId("pulse"), { "data-level": "good" });
  text(byId("pulse-text"), "live");
  byId("pulse").firstElementChild.classList.toggle("on");
  document.title = `${{ good: "●", busy: "◐", bad: "▲" }[level]} Comet: ${word}`;
  const figures = [
    ["Requests", `${rate(total.rate)}/s`, `${count(total.requests)} in all`],
    ["Errors", percent(total.errorShare), `${rate(total.errorRate)}/s`],
    ["Latency p50", ms(total.p50), `p99 ${ms(total.p99)}`],
    ["In flight", count(total.in_flight), total.queued ? `${count(total.queued)} wait for room` : "none waits for room"],
    ["Restarts", count(restarts(model.replicas)), `${plural(restarts(model.lbs), "process", "processes")}, ${plural(restarts(model.workers), "worker")}`],
  ];
  keyed(byId("figures"), figures, (each) => each[0], (each) => el("div", {}, el("dt", {}, each[0]), el("dd", {}), el("dd", { class: "quiet" })), (box, each) => {
    text(box.children[1], each[1]);
    text(box.children[2], each[2]);
  });
  byId("figures").children[1].classList.toggle("warn", total.errorShare > 0);
}

const restarts = (replicas) => replicas.reduce((sum, each) => sum + each.restarts, 0);

/** Silence: what is shown is old, and says so; the data plane goes on without its supervisor. */
function silent(reason) {
  const first = !document.documentElement.classList.contains("lost");
  set(byId("pulse"), { "data-level": "bad" });
  text(byId("pulse-text"), "no answer");
  if (lastHeard === null) {
    text(byId("verdict").querySelector(".word"), "The supervisor does not answer");
    text(byId("verdict").querySelector(".more"), `${reason}; asking again every second`);
    return;
  }
  document.documentElement.classList.add("lost");
  document.title = "✕ Comet: no answer";
  const summary = byId("verdict");
  set(summary, { "data-level": "busy" });
  if (first) text(summary.querySelector(".word"), `Last known: ${summary.querySelector(".word").textContent}`);
  const box = byId("lost");
  if (first) {
    const since = el("span", {});
    box.replaceChildren(icon("s-down", 22), el("div", {}, el("p", {}, el("strong", {}, "The supervisor does not answer. "), since), el("p", {}, "Load balancers and workers go on serving without it, but nobody restarts what dies. ", el("code", {}, "python supervisor.py run"), " takes them over as they are. This page asks again every second.")));
    box.since = since;
  }
  text(box.since, `What is shown is of ${clock(lastHeard)}, ${span((Date.now() - lastHeard) / 1000)} ago (${reason}).`);
  box.hidden = false;
}

/** One replica's dialog: what is known of it, and what can be done to it. */
function about(name) {
  const replica = model?.replicas.find((each) => each.name === name);
  if (!replica) return;
  const dialog = byId("about");
  text(byId("about-title"), `${replica.name}: ${replica.role === "lb" ? "load balancer" : "worker"}`);
  const list = el("dl", { class: "facts" }, ...facts(replica).flatMap(([key, value]) => [el("dt", {}, key), el("dd", {}, String(value))]));
  const edges = model.edges.filter((edge) => edge.lb === name || edge.worker === name);
  const rows = edges.map((edge) => el("li", {}, `${edge.lb} → ${edge.worker}: ${edge.up ? `${rate(edge.rate)}/s, p50 ${ms(edge.p50)}, ${count(edge.in_flight)} in flight` : "out of rotation"}`));
  byId("about-body").replaceChildren(list, rows.length ? el("ul", { class: "edgelist" }, ...rows) : "");
  const acts = [["kill", "Kill…"], ["restart", "Restart…"], ...(replica.role === "worker" ? [["faults", "Faults…"]] : [])].map(([what, words]) => {
    const button = el("button", { type: "button", class: what === "kill" ? "risky" : "" }, words);
    button.addEventListener("click", () => {
      dialog.close();
      controls.ask(what, name);
    });
    return button;
  });
  const close = el("button", { type: "button", class: "main" }, "Close");
  close.addEventListener("click", () => dialog.close());
  byId("about-buttons").replaceChildren(...acts, close);
  dialog.showModal();
  close.focus();
}

function themes() {
  const button = byId("theme");
  const order = ["auto", "light", "dark"];
  const show = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    text(button, { auto: "◐ auto", light: "○ light", dark: "● dark" }[theme]);
    set(button, { "aria-label": `Colours: ${theme === "auto" ? "auto, as the system says" : theme}` });
  };
  let theme = document.documentElement.dataset.theme ?? "auto";
  show(theme);
  button.addEventListener("click", () => {
    theme = order[(order.indexOf(theme) + 1) % order.length];
    show(theme);
    try {
      localStorage.setItem("comet-theme", theme);
    } catch {
      // Then it holds until the page is left.
    }
  });
}

/** What the shapes mean, said once. */
function legends() {
  const part = ([symbol, words, colour]) => el("span", { class: colour ?? "" }, icon(symbol, 13), words);
  byId("path-legend").append(...[["i-process", "process", "process"], ["i-container", "container", "container"], ["s-ready", "ready", "good"], ["s-starting", "starting", "busy"], ["s-unhealthy", "sick", "bad"], ["s-backoff", "waits to restart", "bad"]].map(part), el("span", {}, "the thicker a line, the more requests"));
  byId("time-legend").append(...[["m-death", "died", "bad"], ["m-back", "back, after so many ms", "good"], ["m-start", "started", "busy"], ["m-sick", "sick", "bad"], ["m-fault", "faults", "warn"]].map(part));
}

themes();
legends();
live.start();
