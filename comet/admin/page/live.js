// The line to the supervisor: one question a second, never two at once; silence is told, and ends by itself.

const PAUSE = 1000;
const PATIENCE = 4000;

export class Live {
  /** `heard(object)` for each answer, `silent(reason)` for each question that got none. */
  constructor(heard, silent) {
    this.heard = heard;
    this.silent = silent;
    this.soon = null;
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.now());
  }

  start() {
    this.ask();
  }

  /** Ask at once, as after a command. */
  now() {
    if (this.soon === null) return;
    clearTimeout(this.soon);
    this.ask();
  }

  async ask() {
    this.soon = null;
    const begun = performance.now();
    try {
      const answer = await fetch("/api/v1/cluster", { cache: "no-cache", signal: AbortSignal.timeout(PATIENCE) });
      if (!answer.ok) throw new Error(`the supervisor answered ${answer.status}`);
      this.heard(await answer.json());
    } catch (error) {
      this.silent(error.name === "TimeoutError" ? "it does not answer in time" : error.name === "TypeError" ? "nothing listens" : error.message);
    }
    this.soon = setTimeout(() => this.ask(), Math.max(100, PAUSE - (performance.now() - begun)));
  }
}

/** The events numbered above `number`, as far back as they are kept. */
export async function eventsAfter(number) {
  const answer = await fetch(`/api/v1/events?after=${number}`, { cache: "no-cache", signal: AbortSignal.timeout(PATIENCE) });
  return answer.json();
}

/** Ask the supervisor to do something. Returns its result, null if it goes on for longer; throws an Error with its words. */
export async function command(name, body) {
  let answer = await post(name, body);
  if (answer.status === 401) {
    // A supervisor that was restarted does not know our session: the page's address gives us a new one.
    await fetch("/", { cache: "no-store" });
    answer = await post(name, body);
  }
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(told.error ?? `the supervisor answered ${answer.status}`);
  return answer.status === 202 ? null : (told.result ?? {});
}

async function post(name, body) {
  try {
    return await fetch(`/api/v1/${name}`, { method: "POST", headers: { "Content-Type": "application/json", Prefer: "wait=900" }, body: JSON.stringify(body) });
  } catch {
    throw new Error("the supervisor does not answer; nothing is known of what became of this");
  }
}
