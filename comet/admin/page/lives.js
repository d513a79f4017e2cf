// Derives each replica's states and marks in the window from the events. Pure.
//
// Two replicas can have the same name at once (a successor is ready before its predecessor drains): an exit with another id than the
// one in service is the end of the retired one, and no death. An exit that `replica_stopped` follows was requested.

import { settings } from "./fault_kinds.js";

const FIRST_ANSWER_LIMIT = 250; // Milliseconds after being ready within which a first answer belongs to the recovery.

const STATE_AFTER = {
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
  const found = new Map(replicas.map((replica) => [replica.name, lifeAtStart(replica, events, from, now)]));
  const stops = plannedEnds(events);
  for (const event of events) {
    if (!event.replica) continue;
    const life = found.get(event.replica) ?? addLife(found, event.replica);
    applyEvent(life, event, stops);
  }
  for (const replica of replicas) applyCurrentState(found.get(replica.name), replica, now);
  for (const life of found.values()) {
    life.segments = life.changes
      .map((change, index) => ({ ...change, to: life.changes[index + 1]?.from ?? now }))
      .map((segment) => ({ ...segment, from: Math.max(from, segment.from) }))
      .filter((segment) => segment.to > from && segment.to > segment.from && segment.state !== "gone");
    life.marks = life.marks.filter((mark) => mark.at >= from);
  }
  return found;
}

/** All recoveries, newest first: {n, at, name, kind, total, waited, own, steps: [{name, from, to, waited}], cause}; see `durations`. */
export function recoveries(events) {
  const found = [];
  const deaths = new Map();
  const planned = plannedEnds(events);
  for (const event of events) {
    if (event.event === "replica_exited") deaths.set(event.replica, planned.has(event.n) ? null : event);
    const death = deaths.get(event.replica);
    if (event.event === "first_answer") addFirstAnswer(found.findLast((each) => each.name === event.replica), event);
    if (event.event === "replica_ready" && event.timeline_ms && death !== null) found.push(recovery(event, death));
  }
  return found.reverse();
}

/** The recoveries that are under way: {n, at, name, kind, cause, took}, with the ms since the death. */
export function underway(events, now) {
  const open = new Map();
  const planned = plannedEnds(events);
  for (const event of events) {
    if (!event.replica) continue;
    if (event.event === "replica_exited" && !planned.has(event.n)) {
      const since = open.get(event.replica)?.at ?? event.time - (event.detect_ms ?? 0);
      open.set(event.replica, { n: event.n, at: since, name: event.replica, kind: event.kind, cause: cause(event), took: Math.max(0, now - since) });
    } else if (["replica_ready", "replica_stopped", "adopted"].includes(event.event)) {
      open.delete(event.replica);
    } else if (event.event === "supervisor_started") {
      open.clear();
    }
  }
  return [...open.values()].reverse();
}

/** The steps of one recovery as consecutive intervals, in ms after its start. */
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
    ...durations(steps, event.timeline_ms.ready ?? moments.at(-1)[1]),
    cause: death ? cause(death) : "",
  };
}

/** From death to ready (`total`), how much of it was backoff (`waited`), and the rest (`own`). */
function durations(steps, total) {
  const backoff = steps.find((step) => step.name === "backoff");
  const waited = backoff ? backoff.to - backoff.from : 0;
  return { total, waited, own: total - waited };
}

/** Add the first answer to a client as a step; it is drawn unless the replica only waited for a request. */
function addFirstAnswer(known, event) {
  const { "first answer": at, ...before } = event.timeline_ms ?? {};
  if (!known || at === undefined || known.steps.at(-1).name === "first answer") return;
  // This timeline also has the steps that were reported late, such as "ready".
  if ("ready" in before) {
    const { steps, total, waited, own } = recovery({ timeline_ms: before });
    Object.assign(known, { steps, total, waited, own });
  }
  known.steps.push({ name: "first answer", from: known.total, to: at, waited: at - known.total > Math.max(FIRST_ANSWER_LIMIT, known.total) });
}

/** Faults as bars: {name|null, from, to, label}; an order without a time limit lasts until something ends it. */
export function faultBars(events, from, now) {
  const bars = [];
  let open = [];
  const close = (at, ends) => {
    for (const bar of open.filter(ends)) bar.to = Math.min(bar.to, at);
    open = open.filter((bar) => !ends(bar));
  };
  for (const event of events) {
    if (event.event === "supervisor_stopped") close(event.time, () => true);
    if (event.event === "faults_ended") endCount(open, event);
    if (event.event !== "faults_changed") continue;
    closeReplaced(close, event);
    if (!Object.keys(event.settings ?? {}).length) continue;
    const to = "for_s" in event ? event.time + event.for_s * 1000 : Infinity;
    const bar = { n: event.n, name: event.replica ?? null, from: event.time, to, label: settings(event.settings), event };
    bars.push(bar);
    open.push(bar);
  }
  return bars.map((bar) => ({ ...bar, to: Math.min(bar.to, now) })).filter((bar) => bar.to >= from);
}

/** Ends what an order clears or replaces: a scenario's order concerns its own leases, one with a limit ends no other. */
function closeReplaced(close, event) {
  const name = event.replica ?? null;
  const given = Object.keys(event.settings ?? {});
  const concerned = (bar) => (name === null ? event.clear || bar.name !== "front" : bar.name === name);
  const replaced = (bar) => Object.keys(bar.event.settings).every((key) => given.includes(key));
  const limited = "for_s" in event || "count" in event;
  if (event.scenario) close(event.time, (bar) => concerned(bar) && bar.event.scenario === event.scenario);
  else if (event.clear) close(event.time, concerned);
  else if (!limited) close(event.time, (bar) => concerned(bar) && replaced(bar));
}

/** A lease with a count ends for each worker by itself; its bar ends with the last of them. */
function endCount(open, event) {
  const ended = settings(event.settings ?? {});
  for (const bar of open) {
    const own = "count" in bar.event && bar.label === ended && [null, event.replica].includes(bar.name);
    if (own && (bar.to === Infinity || bar.to < event.time)) bar.to = event.time;
  }
}

export function cause(event) {
  if (event.oom) return "out of memory";
  if (event.reason) return `${event.signal} by the supervisor: ${event.reason}`;
  return event.signal ?? (event.code === null || event.code === undefined ? "unknown" : `exit ${event.code}`);
}

function addLife(found, name) {
  const life = { changes: [], marks: [], id: null };
  found.set(name, life);
  return life;
}

/** A replica at the window's start: up if it was started before, or if its first event implies that it was up. */
function lifeAtStart(replica, events, from, now) {
  const life = { changes: [], marks: [], id: null };
  const first = events.find((event) => event.replica === replica.name);
  const before = first ? first.time : now;
  const wasUp = first ? !["replica_starting", "adopted"].includes(first.event) : replica.uptime_s !== null;
  if (wasUp) life.changes.push({ from: first ? from : Math.max(from, now - (replica.uptime_s ?? 0) * 1000), state: "ready" });
  if (first && first.event === "replica_exited") life.id = first.id ?? null;
  return before < from ? { ...life, changes: life.changes.map((change) => ({ ...change, from })) } : life;
}

function applyEvent(life, event, stops) {
  const state = STATE_AFTER[event.event];
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
    addFirstAnswer(life.marks.findLast((mark) => mark.recovery)?.recovery, event);
  } else if (state) {
    if (life.id !== null && state === "starting" && life.changes.at(-1)?.state === "ready") return;
    life.changes.push({ from: event.time, state });
    if (state === "ready") life.id = event.id ?? life.id;
    const back = event.timeline_ms && life.death !== null;
    const sort = { replica_ready: back ? "back" : "start", adopted: "adopted", replica_unhealthy: "unhealthy" }[event.event];
    if (sort) life.marks.push({ n: event.n, at: event.time, sort, event, recovery: back ? recovery(event, life.death) : null });
  }
}

/** Let the current state win: events may be missing at either end. */
function applyCurrentState(life, replica, now) {
  const last = life.changes.at(-1);
  const present = replica.state === "stopped" ? "gone" : replica.state === "stopping" ? "starting" : replica.state;
  if (!last) life.changes.push({ from: now - 1000, state: present });
  else if (last.state !== present && now - last.from > 1500 && !(last.state === "down" && present !== "ready")) {
    life.changes.push({ from: now - 1000, state: present });
  }
}

/** Numbers of the requested exits: the next event of that replica and id is that it stopped. */
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
