// What the server told, made ready for drawing: the one place that knows the names of its fields.

import { cause, settings } from "./lives.js";

export const WINDOW = 5 * 60 * 1000;

const WORDS = {
  ready: "ready",
  starting: "starting",
  unhealthy: "sick",
  backoff: "waits to restart",
  stopping: "stopping",
  stopped: "not started",
};

/** The answer of /api/v1/cluster with times in ms, and levels: good, busy (on its way up or down), bad. */
export function read(told) {
  const replicas = told.replicas.map((row) => replica(row, told.config ?? {}));
  return {
    supervisor: told.supervisor,
    config: told.config ?? {},
    replicas,
    edges: (told.edges ?? []).map((each) => ({ ...each, ...rates(each), up: each.healthy !== false })),
    lbs: replicas.filter((each) => each.role === "lb"),
    workers: replicas.filter((each) => each.role === "worker"),
    total: { ...told.total, ...rates(told.total ?? {}) },
  };
}

/** The figures that a replica, an edge and the whole have in common, by their short names. */
function rates({ requests_per_s: rate = null, errors_per_s: errors = null, p50_ms: p50 = null, p99_ms: p99 = null }) {
  return { rate, errorRate: errors, errorShare: rate > 0 ? Math.min(100, (100 * errors) / rate) : errors > 0 ? 100 : 0, p50, p99 };
}

/** The fault settings in force that differ from what config.yaml says. */
function ordered(row, config) {
  const usual = { "avg-delay": config["avg-delay"], failure: config.failure, ...config.faults?.[row.name] };
  return Object.fromEntries(Object.entries(row.faults ?? {}).filter(([key, value]) => (key in usual ? value !== usual[key] : Boolean(value) && key !== "delay-distribution" && key !== "status")));
}

function replica(row, config) {
  const level = row.orphan ? "bad" : row.state === "ready" ? "good" : ["starting", "stopping", "stopped"].includes(row.state) ? "busy" : "bad";
  return {
    ...row,
    ...rates(row),
    ordered: settings(ordered(row, config)),
    level,
    word: row.orphan ? "orphan" : row.state === "backoff" && row.next_start_s !== null ? `restarts in ${row.next_start_s} s` : WORDS[row.state] ?? row.state,
    shape: { ready: "s-ready", starting: "s-starting", unhealthy: "s-unhealthy", backoff: "s-backoff", stopping: "s-stopping", stopped: "s-stopping" }[row.state] ?? "s-down",
  };
}

/** One sentence for the top of the page: {level, word, more}. */
export function verdict(model) {
  const bad = model.replicas.filter((each) => each.level === "bad");
  const busy = model.replicas.filter((each) => each.level === "busy");
  const all = model.replicas.length;
  const parts = `${model.workers.length} ${model.workers.length === 1 ? "worker" : "workers"} behind ${model.lbs.length} load ${model.lbs.length === 1 ? "balancer" : "balancers"}`;
  if (!all) return { level: "busy", word: "Nothing is to run", more: "worker and pool say how many replicas there should be" };
  if (bad.length) return { level: "bad", word: told(bad, all), more: why(bad) };
  if (busy.length) return { level: "busy", word: told(busy, all), more: `${all - busy.length} of ${all} replicas are ready` };
  return { level: "good", word: `All ${all} replicas are ready`, more: parts };
}

function told(some, all) {
  if (some.length === 1) return `${some[0].name}: ${some[0].word}`;
  const names = some.slice(0, 3).map((each) => each.name).join(", ");
  return `${some.length} of ${all} are not ready: ${names}${some.length > 3 ? ", …" : ""}`;
}

function why(bad) {
  const [first] = bad;
  const reason = first.reason || (first.last_exit ? `last exit: ${cause(first.last_exit)}` : "");
  return reason && bad.length > 1 ? `${first.name}: ${reason}` : reason;
}

/** An event with its time in ms and what is said of it. */
export function event(record) {
  return { ...record, n: record.number, time: Date.parse(record.at), text: record.text ?? sentence(record), sort: sortOf(record) };
}

export function sortOf(record) {
  if (record.event === "replica_exited") return record.code === 0 ? "stop" : "death";
  if (record.event === "replica_ready") return record.timeline_ms ? "back" : "start";
  return { replica_unhealthy: "sick", faults_changed: "fault", backoff_entered: "sick", engine_lost: "sick", reload_refused: "sick", replica_start_failed: "sick" }[record.event] ?? "note";
}

function sentence(record) {
  const subject = record.replica ? `${record.replica} ` : "";
  const more = record.settings ? ` ${settings(record.settings)}` : "";
  return `${subject}${record.event.replaceAll("_", " ")}${more}`;
}
