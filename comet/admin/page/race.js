// A race: one worker of each form is killed at the same moment, again and again, and both timelines are drawn on one axis.
//
// It is the same program in both forms. The page orders each round; a race ends when its dialog is closed, or after its rounds.

import { byId, el, text } from "./dom.js";
import { ms, plural } from "./format.js";
import { GROUPS } from "./groups.js";
import { recoveries } from "./lives.js";
import { command } from "./live.js";

const FORMS = ["process", "container"];
const own = (recovery) => recovery.own;
const MARGIN = 1; // Seconds beyond restart-stable until the next kill, so that it leads to a restart at once and to no backoff.
const REACH = 2; // Times the longer median that the axis is long at most, so that an outlier does not flatten the rest.
const LIMIT = 180; // Seconds until a round is given up.

export class Race {
  constructor() {
    this.dialog = byId("race");
    this.button = byId("race-open");
    this.begin = byId("race-begin");
    this.number = byId("race-rounds");
    this.phase = "idle";
    this.rounds = [];
    this.button.addEventListener("click", () => this.dialog.showModal());
    this.begin.addEventListener("click", () => (this.phase === "idle" ? this.start() : this.end("Ended.")));
    byId("race-close").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("close", () => this.phase !== "idle" && this.end("Ended when the dialog was closed."));
  }

  update(model, events) {
    this.model = model;
    this.events = events;
    this.button.disabled = !model.writable;
    const found = this.phase === "idle" ? runners(model) : this.names;
    this.begin.disabled = !model.writable || !found;
    if (!model.writable) return this.phase !== "idle" ? this.end("Ended: this page may not change the cluster any more.") : undefined;
    if (this.phase === "idle" && !this.rounds.length) this.say(found ? "" : "This cluster has no ready worker of each form: set “runtime: mixed” in config.yaml, or run “python supervisor.py race”.");
    if (this.phase === "settling") return this.settle();
    if (this.phase === "racing") return this.look();
    return undefined;
  }

  start() {
    if (!this.number.reportValidity()) return;
    this.names = runners(this.model);
    this.wanted = this.number.valueAsNumber;
    this.rounds = [];
    this.settled = null;
    this.phase = "settling";
    text(this.begin, "End the race");
    this.number.disabled = true;
    this.draw();
    this.settle();
  }

  end(words) {
    this.phase = "idle";
    text(this.begin, "Kill both, again and again");
    this.number.disabled = false;
    this.say(words);
  }

  /** Kill both as soon as they have been ready for long enough. */
  settle() {
    const both = FORMS.map((form) => this.model.replicas.find((each) => each.name === this.names[form]));
    if (both.some((each) => !each)) return this.end("Ended: a worker of the race is gone.");
    const now = performance.now() / 1000;
    this.settled = both.every((each) => each.state === "ready") ? (this.settled ?? now) : null;
    const left = (this.model.config["restart-stable"] ?? 10) + MARGIN - (this.settled === null ? 0 : now - this.settled);
    this.say(`Round ${this.rounds.length + 1} of ${this.wanted}: both must be ready for ${Math.ceil(Math.max(0, left))} s more, so that nothing waits before it restarts.`);
    if (left <= 0) this.kill();
    return undefined;
  }

  async kill() {
    this.phase = "racing";
    this.since = this.events.at(-1)?.n ?? 0;
    this.killedAt = performance.now();
    this.say(`Round ${this.rounds.length + 1} of ${this.wanted}: both are killed.`);
    try {
      await Promise.all(FORMS.map((form) => command("kill", { name: this.names[form], signal: "KILL" })));
    } catch (error) {
      this.end(`Ended: ${error.message}`);
    }
  }

  /** Take the round when both are ready again. */
  look() {
    const fresh = recoveries(this.events).filter((each) => each.n > this.since);
    const round = Object.fromEntries(FORMS.map((form) => [form, fresh.find((each) => each.name === this.names[form])]));
    if (FORMS.every((form) => round[form])) {
      this.rounds.push(round);
      this.draw();
      this.settled = null;
      this.phase = "settling";
      if (this.rounds.length >= this.wanted) this.end(outcome(this.rounds));
    } else if (performance.now() - this.killedAt > LIMIT * 1000) {
      this.end(`Ended: not both are ready again within ${LIMIT} s.`);
    }
  }

  say(words) {
    text(byId("race-state"), words);
  }

  draw() {
    byId("race-body").replaceChildren(...(this.rounds.length ? picture(this.rounds, this.names) : []));
  }
}

/** The first ready worker of each form by name; null where one is missing. */
function runners(model) {
  const found = FORMS.map((form) => [form, model.workers.find((each) => each.kind === form && each.state === "ready")?.name]);
  return found.every(([, name]) => name) ? Object.fromEntries(found) : null;
}

function picture(rounds, names) {
  const times = FORMS.flatMap((form) => rounds.map((round) => own(round[form])));
  const most = Math.min(Math.max(...times), REACH * Math.max(...FORMS.map((form) => interval(rounds.map((round) => own(round[form]))).median)));
  const beyond = times.filter((each) => each > most);
  const cut = beyond.length ? ` ${plural(beyond.length, "time")} beyond it, up to ${ms(Math.max(...beyond))}, at its end.` : "";
  const rows = FORMS.flatMap((form) => row(form, names[form], rounds.map((round) => round[form]), most));
  const steps = [...new Set(rounds.flatMap((round) => FORMS.flatMap((form) => middle([round[form]]).map(([name]) => name))))];
  const key = el("p", { class: "legend steps" }, ...steps.map((name) => el("span", {}, el("i", { class: `step ${name}` }), name)), el("span", {}, "● median and its interval"));
  return [el("p", { class: "quiet" }, `From death to ready, one axis: the full width is ${ms(most)}.${cut}`), ...rows, key];
}

function row(form, name, all, most) {
  const spread = interval(all.map(own));
  const place = (value) => `${(Math.min(1, value / most) * 100).toFixed(2)}%`;
  const bar = el("div", { class: "bar" });
  let before = 0;
  for (const [step, at] of middle(all)) {
    const piece = el("i", { class: `step ${step}`, title: `${step} +${ms(at)}` });
    piece.style.width = place(Math.max(0, at - before));
    before = at;
    bar.append(piece);
  }
  const strip = el("div", { class: "race-strip" });
  const range = el("i", { class: "race-range" });
  range.style.left = place(spread.low);
  range.style.width = place(Math.min(spread.high, most) - spread.low);
  const points = all.map((each) => [own(each), "race-dot"]).concat([[spread.median, "race-median"]]);
  strip.append(range, ...points.map(([value, kind]) => {
    const dot = el("i", { class: kind, title: ms(value) });
    dot.style.left = place(value);
    return dot;
  }));
  const title = GROUPS.find((group) => group.key === `worker-${form}`).title;
  const figure = `${ms(spread.median)}${all.length > 1 ? ` (${ms(spread.low)} to ${ms(spread.high)})` : ""}`;
  return [el("p", { class: `race-title ${form}`, "data-form": form }, el("strong", {}, title), ` ${name} `, el("b", {}, figure)), bar, strip];
}

/** The median of every step, without the backoff, which moves what follows it back: [[name, ms after death]]. */
function middle(all) {
  const found = new Map();
  for (const each of all) {
    const waited = each.total - own(each);
    for (const step of each.steps) {
      if (step.name === "backoff" || step.to > each.total) continue;
      const at = step.name === "noticed" ? step.to : step.to - waited;
      found.set(step.name, [...(found.get(step.name) ?? []), at]);
    }
  }
  return [...found].map(([name, values]) => [name, interval(values).median]).sort((one, other) => one[1] - other[1]);
}

/** The median with its 95 % interval by order statistics; fewer than six values have only their range. */
export function interval(values) {
  const sorted = [...values].sort((one, other) => one - other);
  const count = sorted.length;
  let rank = 1;
  let outside = 0.5 ** count;
  for (let ways = count; rank + 1 <= Math.floor(count / 2); rank += 1) {
    const further = outside + ways * 0.5 ** count;
    if (1 - 2 * further < 0.95) break;
    outside = further;
    ways = (ways * (count - rank)) / (rank + 1);
  }
  const half = Math.floor(count / 2);
  const median = count % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
  return { median, low: sorted[rank - 1], high: sorted[count - rank], coverage: Math.max(0, 1 - 2 * outside) };
}

function outcome(rounds) {
  const more = interval(rounds.map((round) => own(round.container) - own(round.process)));
  const range = rounds.length > 1 ? ` (${Math.round(more.coverage * 100)} % interval ${ms(more.low)} to ${ms(more.high)})` : "";
  if (more.low <= 0) return `Done. The difference, ${ms(Math.abs(more.median))}, is within the noise: race more rounds.`;
  return `Done. As container it took ${ms(more.median)}${range} longer.`;
}
