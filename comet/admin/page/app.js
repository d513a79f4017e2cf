// The page: requests the cluster's state once a second and passes it to the parts, which are independent of each other.

import { Begin } from "./begin.js";
import { actionsOn } from "./command_forms.js";
import { Controls, notice } from "./controls.js";
import { byId, el, icon, keyed, set, text } from "./dom.js";
import { Faults } from "./faults.js";
import { Flow } from "./flow.js";
import { bytes, count, ms, percent, plural, rate, span } from "./format.js";
import { History } from "./history.js";
import { recoveries, underway } from "./lives.js";
import { Inspection } from "./inspection.js";
import { eventsAfter, Live } from "./live.js";
import { Logs } from "./logs.js";
import { Lost } from "./lost.js";
import { read, stopped, verdict } from "./model.js";
import { News } from "./news.js";
import { Race } from "./race.js";
import { Recoveries } from "./recoveries.js";
import { facts, Table } from "./table.js";
import { Timeline } from "./timeline.js";
import { Tip } from "./tip.js";

const SILENCE_LIMIT = 5; // Seconds without a message from the supervisor to its server; it sends one a second.

const tip = new Tip(byId("tip"));
const history = new History(eventsAfter);
const flow = new Flow(byId("flow"), about);
const timeline = new Timeline(byId("timeline"), tip, byId("fold"));
const back = new Recoveries(byId("recoveries"), byId("stretch"));
const news = new News(byId("news"), byId("voice"));
const table = new Table(byId("rows"), (what, name) => (what === "about" ? about(name) : controls.ask(what, name)));
const begin = new Begin((...what) => controls.order(...what));
const faults = new Faults((targets) => controls.order("faults", targets.map((target) => ({ target, clear: true })), `Faults of ${targets.join(", ")} cleared`));
const live = new Live(onAnswer, onSilence);
const controls = new Controls(() => live.pollNow());
const inspection = new Inspection();
const logs = new Logs();
const lost = new Lost();
const race = new Race();
let latest = null; // The last answer.
let model = null;
let couldWrite = false; // By the last answer of a supervisor that was there.
let opened = false; // Whether the replica that the address names was opened.
let linkWasUsed = new URLSearchParams(location.search).has("token"); // A valid link redirects to the page without the token.
if (linkWasUsed) window.history.replaceState(null, "", "/");

function onAnswer(answer) {
  const returned = lost.shown;
  history.add(answer);
  latest = answer;
  model = read(answer);
  if (answer.silent_s > SILENCE_LIMIT) {
    lost.lastAnswerAt = Date.now() - 1000 * answer.silent_s;
    return onSilence(lost.reasonOf(answer), answer);
  }
  lost.hide();
  enable(model);
  access();
  if (returned) notice("", "wait").change("The supervisor answers again", "good");
  draw(history.now);
  return undefined;
}

/** Pass the model to what acts on the cluster; without the right to write nothing of it can be used. */
function enable(known) {
  for (const each of [controls, inspection, logs]) each.setModel(known);
}

/** Show whether this reader may change the cluster, and how to get that right. When a session ends, request a new one, once. */
function access() {
  byId("readonly").hidden = model.writable;
  const mightWrite = couldWrite;
  couldWrite = model.writable;
  if (model.writable) {
    linkWasUsed = false;
  } else {
    const link = linkWasUsed ? "This link has been opened before or is older than 5 minutes. " : "";
    text(byId("readonly-why"), `${link}This page shows the cluster but cannot change it, because its reader is not known to be the cluster’s user. To change the cluster, open the link that “python supervisor.py dashboard” prints in the cluster’s folder.`);
    if (mightWrite) fetch("/", { cache: "no-store" }).then(() => live.pollNow(), () => {});
  }
}

function draw(now) {
  const { events, samples } = history;
  summary();
  flow.update(model);
  timeline.update(model, events, samples, now);
  back.update(recoveries(events), underway(events, now), new Set(model.workers.map((each) => each.kind)));
  race.update(model, events);
  news.update(events);
  table.update(model);
  faults.update(model);
  begin.update(model);
  if (!opened) openNamed();
  byId("news-none").hidden = events.length > 0;
  text(byId("news-count"), events.length ? plural(events.length, "event") : "");
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
    ["Errors", percent(total.errorShare), total.injectedRate > 0 ? `${percent(total.injectedShare)} injected` : `${rate(total.errorRate)}/s`],
    ["Latency p50", ms(total.p50), `p99 ${ms(total.p99)}`],
    ["In flight", count(total.in_flight), total.queued ? `${count(total.queued)} queued` : "none queued"],
    ["Restarts", count(restarts(model.replicas)), `${plural(restarts(model.lbs), "process", "processes")}, ${plural(restarts(model.workers), "worker")}`],
  ];
  keyed(byId("figures"), figures, (each) => each[0], (each) => el("div", {}, el("dt", {}, each[0]), el("dd", {}), el("dd", { class: "quiet" })), (box, each) => {
    text(box.children[1], each[1]);
    text(box.children[2], each[2]);
  });
  byId("figures").children[1].classList.toggle("warn", total.errorShare > 0);
  byId("figures").children[1].classList.toggle("injected", total.injectedRate > 0);
}

const restarts = (replicas) => replicas.reduce((sum, each) => sum + each.restarts, 0);

/** Mark the state shown as outdated, and turn everything off that needs the supervisor. */
function onSilence(reason, answer = null) {
  if (model) {
    model = { ...(model.stopping && !answer ? read(stopped(latest)) : model), writable: false };
    enable(model);
    if (answer || !lost.shown) draw(history.now);
  }
  lost.show(reason, model);
}

/** Open one replica's dialog: its details, and the actions on it. */
function about(name) {
  const replica = model?.replicas.find((each) => each.name === name);
  if (!replica) return;
  const dialog = byId("about");
  text(byId("about-title"), `${replica.name}: ${replica.role === "lb" ? "load balancer" : "worker"}`);
  const list = el("dl", { class: "facts" }, ...facts(replica).flatMap(([key, value]) => [el("dt", {}, key), el("dd", {}, String(value))]));
  const edges = model.edges.filter((edge) => edge.lb === name || edge.worker === name);
  const rows = edges.map((edge) => el("li", {}, `${edge.lb} → ${edge.worker}: ${edge.up ? `${rate(edge.rate)}/s, p50 ${ms(edge.p50)}, ${count(edge.in_flight)} in flight` : "out of rotation"}`));
  byId("about-body").replaceChildren(list, rows.length ? el("ul", { class: "edgelist" }, ...rows) : "");
  const acts = actionsOn(replica).map((form) => [form.title, () => controls.ask(form.name, name), form.risky]);
  const looks = [["Logs", () => logs.open(name)], ["Inspect", () => inspection.open([name])]];
  const buttons = [...acts, ...looks].map(([title, open, risky]) => {
    const button = el("button", { type: "button", class: risky ? "risky" : null, disabled: !model.writable }, `${title}…`);
    button.addEventListener("click", () => {
      dialog.close();
      open();
    });
    return button;
  });
  const close = el("button", { type: "button", class: "main" }, "Close");
  close.addEventListener("click", () => dialog.close());
  byId("about-buttons").replaceChildren(...buttons, close);
  if (!dialog.open) dialog.showModal();
  if (location.hash !== `#${name}`) window.history.replaceState(null, "", `#${name}`);
  close.focus();
}

/** Open the replica that the address names: a link to it can be kept. */
function openNamed() {
  opened = true;
  about(decodeURIComponent(location.hash.slice(1)));
}

function themes() {
  const button = byId("theme");
  const order = ["auto", "light", "dark"];
  const show = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    text(button, { auto: "◐ auto", light: "○ light", dark: "● dark" }[theme]);
    set(button, { "aria-label": `Colors: ${theme === "auto" ? "auto, as the system" : theme}` });
  };
  let theme = document.documentElement.dataset.theme ?? "auto";
  show(theme);
  button.addEventListener("click", () => {
    theme = order[(order.indexOf(theme) + 1) % order.length];
    show(theme);
    try {
      localStorage.setItem("comet-theme", theme);
    } catch {
      // Then the choice lasts until the page is left.
    }
  });
}

/** Add the legends: what the shapes mean. */
function legends() {
  const part = ([symbol, words, color]) => el("span", { class: color ?? "" }, icon(symbol, 13), words);
  byId("path-legend").append(...[["i-process", "process", "process"], ["i-container", "container", "container"], ["s-ready", "ready", "good"], ["s-starting", "starting", "busy"], ["s-unhealthy", "unhealthy", "bad"], ["s-backoff", "backoff", "bad"]].map(part), el("span", {}, "thicker line: more requests"));
  byId("time-legend").append(...[["m-death", "crashed", "bad"], ["m-back", "recovered, and how fast", "good"], ["m-start", "started", "busy"], ["m-unhealthy", "unhealthy", "bad"], ["m-fault", "faults", "warn"]].map(part));
}

byId("about").addEventListener("close", () => window.history.replaceState(null, "", location.pathname));
addEventListener("hashchange", openNamed);
themes();
legends();
live.start();
