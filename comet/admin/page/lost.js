// What the page says when the supervisor does not answer: one sentence on what happened, and what to do about it.

import { byId, el, icon, set, text } from "./dom.js";
import { clock, span } from "./format.js";
import { CONNECTION_FAILED } from "./live.js";

const KEPT = "Load balancers and workers keep serving; nothing restarts them when they die.";
const MISSED = 10000; // A page asks once a second, and on a busy machine a few seconds late.
const MISSED_HIDDEN = 1900; // In the background the browser lets it ask less often than the admin server waits for.

export class Lost {
  constructor() {
    this.box = byId("lost");
    this.shown = false;
    this.lastAnswerAt = null;
  }

  hide() {
    this.lastAnswerAt = Date.now();
    this.shown = false;
    this.said = null;
    this.silentSince = null;
    document.documentElement.classList.remove("lost");
    this.box.hidden = true;
    byId("verdict").hidden = false;
  }

  /** Why an answer is outdated: the page's server lives, the supervisor sends it nothing. */
  reasonOf(answer) {
    const { pid, problem } = answer.supervisor;
    return (problem ?? "").includes("stopped")
      ? { what: `The supervisor is stopped (PID ${pid}).`, remedy: ["Continue it: ", `kill -CONT ${pid}`] }
      : { what: `The supervisor is hung or gets no CPU (PID ${pid}).`, remedy: ["See .comet/logs/supervisor.log. To replace it: ", `kill -9 ${pid} && python supervisor.py run`, ", which adopts what runs."] };
  }

  /** `reason` is that of an outdated answer, or a text where there was no answer at all. */
  show(reason, model) {
    set(byId("pulse"), { "data-level": "bad" });
    if (this.lastAnswerAt === null || !model) {
      text(byId("pulse-text"), "no answer");
      text(byId("verdict").querySelector(".word"), "The supervisor does not answer");
      text(byId("verdict").querySelector(".more"), `${typeof reason === "string" ? reason : reason.what}; trying again every second`);
      return;
    }
    this.silentSince ??= Date.now();
    const { what, remedy, kept = KEPT, short = "no answer" } = typeof reason === "string" ? noAnswer(reason, model, this.silentSince - this.lastAnswerAt) : reason;
    this.shown = true;
    document.documentElement.classList.add("lost");
    set(this.box, { "data-level": model.stopping ? "busy" : "bad" });
    text(byId("pulse-text"), short);
    document.title = `✕ Comet: ${short}`;
    if (this.said !== what) {
      this.said = what;
      const [before, code, after = ""] = remedy;
      this.since = el("p", { class: "quiet" });
      this.box.replaceChildren(icon(model.stopping ? "s-stopping" : "s-down", 34), el("div", {}, el("p", { class: "word" }, what), el("p", {}, before, el("code", {}, code), after), this.since));
      this.box.hidden = false;
      byId("verdict").hidden = true;
    }
    text(this.since, `${kept} Shown is the state of ${clock(this.lastAnswerAt)}, ${span((Date.now() - this.lastAnswerAt) / 1000)} ago.`);
  }
}

/** `gap`: ms from the last answer to the first request without one. In a long one (a page in the background) a stop goes unseen. */
function noAnswer(reason, model, gap) {
  if (model.stopping) return { what: "The cluster was stopped.", remedy: ["Start it again: ", "python supervisor.py run"], kept: "Load balancers and workers have ended with it.", short: "stopped" };
  if (reason !== CONNECTION_FAILED) return { what: `The supervisor does not answer: ${reason}.`, remedy: ["See what runs: ", "python supervisor.py ps"] };
  return gap > (document.hidden ? MISSED_HIDDEN : MISSED)
    ? { what: "The supervisor does not answer: it has ended, or the cluster was stopped.", remedy: ["Start it, it adopts what still runs: ", "python supervisor.py run"], kept: "" }
    : { what: "The supervisor does not answer: it has ended.", remedy: ["Start it, it adopts what runs: ", "python supervisor.py run"] };
}
