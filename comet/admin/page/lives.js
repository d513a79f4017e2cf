// From events to lives: what each replica was at every moment of the window, and the marks on its line. Pure.
//
// A replica's name can be borne by two at once (a successor that is ready before the former drains): what is told of another id
// than the one in service is the retired one's end, and no death. An end that `replica_stopped` follows was asked for, too.

const PROMPT = 250; // Milliseconds after being ready within which a first answer belongs to the recovery.

const ENTERS = {
  replica_starting: "starting",
  replica_restarting: "starting",
  replica_ready: "ready",
  replica_healthy: "ready",
  adopted: "ready",
  replica_unhealthy: "unhealthy",
  backoff_entered: "backoff",
};

/** name → {segments: [{from, to, state}], marks: [mark]} for the window [from, now] (ms); `to` of what lasts is `now`. */
export function lives(events, replicas, from, now) {
  const found = new Map(replicas.map((replica) => [replica.name, begin(replica, events, from, now)]));
  const stops = plannedEnds(events);
  for (const event of events) {
    if (!event.replica) continue;
    const life = found.get(event.replica) ?? remember(found, event.replica);
    live(life, event, stops);
  }
  for (const replica of replicas) settle(found.get(replica.name), replica, now);
  for (const life of found.values()) {
    life.segments = life.changes
      .map((change, index) => ({ ...change, to: life.changes[index + 1]?.from ?? now }))
      .map((segment) => ({ ...segment, from: Math.max(from, segment.from) }))
      .filter((segment) => segment.to > from && segment.to > segment.from && segment.state !== "gone");
    life.marks = life.marks.filter((mark) => mark.at >= from);
  }
  return found;
}

/** Every recovery told, newest first: {n, at, name, kind, total, steps: [{name, from, to, waited}], cause}; `total` is from death to ready. */
export function recoveries(events) {
  const found = [];
  const deaths = new Map();
  const planned = plannedEnds(events);
  for (const event of events) {
    if (event.event === "replica_exited") deaths.set(event.replica, planned.has(event.n) ? null : event);
    const death = deaths.get(event.replica);
    if (event.event === "first_answer") answered(found.findLast((each) => each.name === event.replica), event);
    if (event.event === "replica_ready" && event.timeline_ms && death !== null) found.push(recovery(event, death));
  }
  return found.reverse();
}

/** The steps of one recovery as consecutive pieces of time, in ms after its first moment. */
export function recovery(event, death) {
  const moments = Object.entries(event.timeline_ms).sort((one, other) => one[1] - other[1]);
  const steps = moments.slice(1).map(([name, to], index) => ({ name, from: moments[index][1], to }));
  return {
    n: event.n,
    at: event.time,
    name: event.replica,
    kind: event.kind,
    first: moments[0][0],
    steps,
    total: event.timeline_ms.ready ?? moments.at(-1)[1],
    cause: death ? cause(death) : "",
  };
}

/** Its first answer to a client: a step more, and drawn as one unless it merely had to wait for a client to ask. */
function answered(known, event) {
  const { "first answer": at, ...before } = event.timeline_ms ?? {};
  if (!known || at === undefined || known.steps.at(-1).name === "first answer") return;
  // What was heard of late, "ready" too, stands at its place in here.
  if ("ready" in before) {
    const { steps, total } = recovery({ timeline_ms: before });
    Object.assign(known, { steps, total });
  }
  known.steps.push({ name: "first answer", from: known.total, to: at, waited: at - known.total > Math.max(PROMPT, known.total) });
}

/** Faults as bars: {name|null, from, to, label}; an order without a limit lasts until it is cleared or given anew. */
export function faultBars(events, from, now) {
  const bars = [];
  const lasting = new Map();
  for (const event of events) {
    if (event.event !== "faults_changed") continue;
    const name = event.replica ?? null;
    const ending = event.clear || !("for_s" in event || "count" in event);
    if (ending) {
      for (const [key, bar] of lasting) {
        if (name === null || key === name) {
          bar.to = Math.min(bar.to, event.time);
          lasting.delete(key);
        }
      }
    }
    if (!Object.keys(event.settings ?? {}).length) continue;
    const to = "for_s" in event ? event.time + event.for_s * 1000 : "count" in event ? event.time : Infinity;
    const bar = { n: event.n, name, from: event.time, to, label: settings(event.settings), event };
    bars.push(bar);
    lasting.set(name, bar);
  }
  return bars.map((bar) => ({ ...bar, to: Math.min(bar.to, now) })).filter((bar) => bar.to >= from);
}

export function settings(given) {
  const units = { "avg-delay": " ms", failure: " %", hang: " %", reset: " %", truncate: " %", "slow-body": " B/s", cpu: " ms", memory: " MiB/s" };
  return Object.entries(given).map(([key, value]) => `${key} ${value}${units[key] ?? ""}`).join(", ");
}

export function cause(event) {
  if (event.oom) return "out of memory";
  return event.signal ?? (event.code === null || event.code === undefined ? "unknown" : `exit ${event.code}`);
}

function remember(found, name) {
  const life = { changes: [], marks: [], id: null };
  found.set(name, life);
  return life;
}

/** A replica at the window's beginning: up if it was started before, or if the first that is told of it needs it to have been up. */
function begin(replica, events, from, now) {
  const life = { changes: [], marks: [], id: null };
  const first = events.find((event) => event.replica === replica.name);
  const before = first ? first.time : now;
  const wasUp = first ? !["replica_starting", "adopted"].includes(first.event) : replica.uptime_s !== null;
  if (wasUp) life.changes.push({ from: first ? from : Math.max(from, now - (replica.uptime_s ?? 0) * 1000), state: "ready" });
  if (first && first.event === "replica_exited") life.id = first.id ?? null;
  return before < from ? { ...life, changes: life.changes.map((change) => ({ ...change, from })) } : life;
}

function live(life, event, stops) {
  const state = ENTERS[event.event];
  if (event.event === "replica_exited") {
    const retired = life.id !== null && event.id && event.id !== life.id;
    if (retired) return;
    const planned = stops.has(event.n);
    life.changes.push({ from: event.time, state: planned ? "gone" : "down" });
    life.marks.push({ n: event.n, at: event.time, sort: planned ? "stop" : "death", event });
    life.death = planned ? null : event;
  } else if (event.event === "replica_stopped") {
    if (life.id !== null && event.id && event.id !== life.id) return;
    life.changes.push({ from: event.time, state: "gone" });
  } else if (event.event === "first_answer") {
    answered(life.marks.findLast((mark) => mark.recovery)?.recovery, event);
  } else if (state) {
    if (life.id !== null && state === "starting" && life.changes.at(-1)?.state === "ready") return;
    life.changes.push({ from: event.time, state });
    if (state === "ready") life.id = event.id ?? life.id;
    const back = event.timeline_ms && life.death !== null;
    const sort = { replica_ready: back ? "back" : "start", adopted: "start", replica_unhealthy: "sick" }[event.event];
    if (sort) life.marks.push({ n: event.n, at: event.time, sort, event, recovery: back ? recovery(event, life.death) : null });
  }
}

/** What is now has the last word: events may be missing at either end. */
function settle(life, replica, now) {
  const last = life.changes.at(-1);
  const present = replica.state === "stopped" ? "gone" : replica.state === "stopping" ? "starting" : replica.state;
  if (!last) life.changes.push({ from: now - 1000, state: present });
  else if (last.state !== present && now - last.from > 1500 && !(last.state === "down" && present !== "ready")) {
    life.changes.push({ from: now - 1000, state: present });
  }
}

/** Numbers of the exits that were asked for: the next that is told of that replica and id is that it stopped. */
function plannedEnds(events) {
  const planned = new Set();
  const open = new Map();
  for (const event of events) {
    if (!event.replica) continue;
    const key = `${event.replica} ${event.id ?? ""}`;
    if (event.event === "replica_exited") open.set(key, event.n);
    else if (event.event === "replica_stopped" && open.has(key)) planned.add(open.get(key));
    else if (["replica_ready", "replica_restarting", "backoff_entered"].includes(event.event)) open.delete(key);
  }
  return planned;
}
