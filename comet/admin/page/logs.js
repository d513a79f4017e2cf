// What replicas printed, of one or of all, followed while the dialog is open. Only who may write sees logs: they may hold secrets.
//
// The server answers with the last lines of each log. What follows the lines that are known already is new, and is added at the end.

import { byId, el, set, text } from "./dom.js";
import { logsOf } from "./live.js";

const ALL = "all";
const LINES = { one: 100, all: 20 }; // Lines of each log that are asked for.
const PAUSE = 1500; // Milliseconds between an answer and the next question; four times as long as the answer took, if that is longer.
const MAX_LINES = 2000;
const ENDED = /^-- \S+ exited .* --$/; // How a life ended, between the lines of two lives.
const NEAR_END = 40; // Pixels from the end within which new lines scroll into view.

export class Logs {
  constructor() {
    this.dialog = byId("logs");
    this.choice = byId("logs-name");
    this.follow = byId("logs-follow");
    this.state = byId("logs-state");
    this.body = byId("logs-body");
    this.button = byId("logs-open");
    this.known = new Map();
    this.turn = 0; // Of several questions only the answer to the latest counts.
    this.button.addEventListener("click", () => this.open(ALL));
    this.choice.addEventListener("change", () => this.begin());
    this.follow.addEventListener("change", () => this.follow.checked && this.ask());
    byId("logs-close").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("close", () => this.stop());
  }

  setModel(model) {
    this.model = model;
    this.button.disabled = !model.writable || !model.replicas.length;
    if (this.dialog.open && !model.writable) this.dialog.close();
  }

  open(name) {
    const names = [ALL, ...this.model.replicas.map((each) => each.name)];
    this.choice.replaceChildren(...names.map((each) => el("option", { value: each, selected: each === name }, each === ALL ? "all replicas" : each)));
    this.dialog.showModal();
    this.begin();
  }

  begin() {
    this.stop();
    this.known.clear();
    this.body.replaceChildren();
    this.follow.checked = true;
    this.ask();
  }

  stop() {
    this.turn += 1;
    clearTimeout(this.timer);
  }

  async ask() {
    this.stop();
    const turn = this.turn;
    const all = this.choice.value === ALL;
    const names = all ? this.model.replicas.map((each) => each.name) : [this.choice.value];
    const begun = performance.now();
    try {
      const logs = await logsOf(names, all ? LINES.all : LINES.one);
      if (turn !== this.turn) return;
      this.add(logs, all);
      text(this.state, this.body.childElementCount ? "" : "Nothing was printed yet.");
    } catch (error) {
      if (turn !== this.turn) return;
      text(this.state, error.message);
    }
    if (this.follow.checked && this.dialog.open) this.timer = setTimeout(() => this.ask(), Math.max(PAUSE, 4 * (performance.now() - begun)));
  }

  add(logs, prefixed) {
    const atEnd = this.body.scrollHeight - this.body.scrollTop - this.body.clientHeight < NEAR_END;
    const width = Math.max(...logs.map((log) => log.name.length));
    for (const log of logs) {
      const lines = log.text === "" ? [] : log.text.split("\n");
      const added = news(this.known.get(log.name) ?? [], lines);
      this.known.set(log.name, lines);
      this.body.append(...added.map((line) => el("span", { class: ENDED.test(line) ? "end" : null }, prefixed ? el("b", {}, `${log.name.padEnd(width)} | `) : null, `${line}\n`)));
    }
    while (this.body.childElementCount > MAX_LINES) this.body.firstElementChild.remove();
    if (atEnd) this.body.scrollTop = this.body.scrollHeight;
  }
}

/** The lines that are not known yet: those behind the longest end of the known ones that the lines begin with. */
export function news(known, lines) {
  for (let gone = 0; gone < known.length; gone += 1) {
    const rest = known.length - gone;
    if (rest <= lines.length && known.slice(gone).every((line, index) => line === lines[index])) return lines.slice(rest);
  }
  return lines;
}
