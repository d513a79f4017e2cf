// Polls the supervisor once a second, with one request at a time, and reports missing answers.

const INTERVAL = 1000;
const TIMEOUT = 4000;
export const CONNECTION_FAILED = "the connection failed";

export class Live {
  /** Calls `onAnswer(object)` for each answer and `onSilence(reason)` for each failed request. */
  constructor(onAnswer, onSilence) {
    this.onAnswer = onAnswer;
    this.onSilence = onSilence;
    this.timer = null;
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.pollNow());
  }

  start() {
    this.poll();
  }

  /** Poll at once, for example after a command. */
  pollNow() {
    if (this.timer === null) return;
    clearTimeout(this.timer);
    this.poll();
  }

  async poll() {
    this.timer = null;
    const startedAt = performance.now();
    try {
      const answer = await fetch("/api/v1/cluster", { cache: "no-cache", signal: AbortSignal.timeout(TIMEOUT) });
      if (!answer.ok) throw new Error(`the supervisor answered ${answer.status}`);
      this.onAnswer(await answer.json());
    } catch (error) {
      this.onSilence(error.name === "TimeoutError" ? `no answer within ${TIMEOUT / 1000} s` : error.name === "TypeError" ? CONNECTION_FAILED : error.message);
    }
    this.timer = setTimeout(() => this.poll(), Math.max(100, INTERVAL - (performance.now() - startedAt)));
  }
}

/** Fetch the events with numbers above `number` that are still kept. */
export async function eventsAfter(number) {
  const answer = await fetch(`/api/v1/events?after=${number}`, { cache: "no-cache", signal: AbortSignal.timeout(TIMEOUT) });
  return answer.json();
}

/** Send the supervisor a command. Returns its result, null if it takes longer; throws an Error with the supervisor's message. */
export async function command(name, body) {
  const [status, content] = await inSession(() => post(name, body), "supervisor");
  return status === 202 ? null : (content.result ?? {});
}

/** Fetch the report on these replicas; throws an Error with the server's message. */
export function inspectionOf(names) {
  return protectedRead(`/api/v1/inspect?${namesQuery(names)}`);
}

/** Fetch the last lines that these replicas printed: [{name, text}]. */
export async function logsOf(names, lines) {
  return (await protectedRead(`/api/v1/logs?${namesQuery(names)}&lines=${lines}`)).logs;
}

const namesQuery = (names) => new URLSearchParams(names.map((name) => ["name", name]));

/** Read what only those may see who may write. */
async function protectedRead(path) {
  try {
    const [, content] = await inSession(() => fetch(path, { cache: "no-store" }), "server");
    return content;
  } catch (error) {
    throw error.name === "TypeError" ? new Error("the server does not answer") : error;
  }
}

/** Ask for what needs a session: [status, content]; throws an Error with the message of what was asked. */
async function inSession(ask, asked) {
  let answer = await ask();
  if (answer.status === 401) {
    // A restarted server does not know our session: loading the page gives a new one.
    await fetch("/", { cache: "no-store" });
    answer = await ask();
  }
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(content.error ?? `the ${asked} answered ${answer.status}`);
  return [answer.status, content];
}

async function post(name, body) {
  try {
    return await fetch(`/api/v1/${name}`, { method: "POST", headers: { "Content-Type": "application/json", Prefer: "wait=900" }, body: JSON.stringify(body) });
  } catch {
    throw new Error("the supervisor does not answer; the outcome is unknown");
  }
}
