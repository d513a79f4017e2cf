// Converts the server's answer for drawing: the only place that knows the names of its fields.

import { causeIn } from "./faults.js";
import { settings } from "./fault_kinds.js";
import { plural } from "./format.js";
import { cause } from "./lives.js";

export const WINDOW = 5 * 60 * 1000;

const WORDS = {
  ready: "ready",
  starting: "starting",
  unhealthy: "unhealthy",
  backoff: "backoff",
  stopping: "stopping",
  stopped: "stopped",
};

/** The answer as it would be once the cluster has stopped: nothing runs, and nothing is sent. */
export function stopped(answer) {
  const replicas = answer.replicas.map((row) => ({ ...row, state: "stopped", pid: null, uptime_s: null, cpu_percent: null, memory_bytes: null, reason: null, requests_per_s: null, errors_per_s: null, p50_ms: null, p99_ms: null, in_flight: 0 }));
  return { ...answer, replicas, edges: [], load: null, total: { requests: answer.total?.requests, queued: 0, in_flight: 0 } };
}

/** The answer of /api/v1/cluster with times in ms, and levels: good, busy (on its way up or down), bad. */
export function read(answer) {
  const replicas = answer.replicas.map((row) => replica(row, answer.config ?? {}));
  const drained = new Set(answer.replicas.filter((row) => row.drained).map((row) => row.name));
  return {
    supervisor: answer.supervisor,
    stopping: answer.stopping === true,
    writable: answer.writable !== false,
    config: answer.config ?? {},
    front: answer.front ?? null,
    load: answer.load ?? null,
    replicas,
    edges: (answer.edges ?? []).map((each) => ({ ...each, ...rates(each), up: each.healthy !== false && !drained.has(each.worker) })),
    lbs: replicas.filter((each) => each.role === "lb"),
    workers: replicas.filter((each) => each.role === "worker"),
    total: { ...answer.total, ...rates(answer.total ?? {}) },
  };
}

/** The figures that replicas, edges and the total have in common, by short names. */
function rates({ requests_per_s: rate = null, errors_per_s: all = null, injected_per_s: injected = null, p50_ms: p50 = null, p99_ms: p99 = null }) {
  // Errors are the unplanned ones; those that were injected are counted apart everywhere.
  const errors = all === null ? null : Math.max(0, all - (injected ?? 0));
  const share = (some) => (rate > 0 ? Math.min(100, (100 * some) / rate) : some > 0 ? 100 : 0);
  return { rate, errorRate: errors, errorShare: share(errors), injectedRate: injected, injectedShare: share(injected), p50, p99 };
}

/** The effective fault settings that were ordered and differ from config.yaml, whose defaults are not those of a custom service. */
function changedFaults(row, config) {
  const usual = { "avg-delay": config["avg-delay"], failure: config.failure, ...config.faults?.[row.name] };
  const ordered = Object.entries(row.faults ?? {}).filter(([key]) => key in (row.fault_orders?.from ?? {}));
  return Object.fromEntries(ordered.filter(([key, value]) => (key in usual ? value !== usual[key] : Boolean(value) && key !== "delay-distribution" && key !== "status")));
}

function replica(row, config) {
  const level = row.orphan ? "bad" : row.state === "ready" ? "good" : ["starting", "stopping", "stopped"].includes(row.state) ? "busy" : "bad";
  return {
    ...row,
    ...rates(row),
    faultText: settings(changedFaults(row, config)),
    level,
    word: row.drained && row.state === "ready" ? "ready, drained" : row.orphan ? "orphan" : row.state === "backoff" && row.next_start_s !== null ? `backoff, ${row.next_start_s} s` : WORDS[row.state] ?? row.state,
    shape: { ready: "s-ready", starting: "s-starting", unhealthy: "s-unhealthy", backoff: "s-backoff", stopping: "s-stopping", stopped: "s-stopping" }[row.state] ?? "s-down",
  };
}

/** One sentence for the top of the page: {level, word, more}. */
export function verdict(model) {
  if (model.stopping) return { level: "busy", word: "The cluster is being stopped", more: "requests in flight may finish" };
  const bad = model.replicas.filter((each) => each.level === "bad");
  const busy = model.replicas.filter((each) => each.level === "busy");
  const all = model.replicas.length;
  const parts = `${plural(model.workers.length, "worker")} behind ${plural(model.lbs.length, "load balancer")}`;
  if (!all) return { level: "busy", word: "No replicas are wanted", more: "worker and pool in config.yaml set how many replicas run" };
  const { paused, paused_s: left, queued } = model.total;
  const until = left === null ? "" : `, ${left} s left`;
  const waiting = `${plural(queued, "request waits", "requests wait")} in the load balancers`;
  if (bad.length) return { level: "bad", word: summary(bad, all), more: [why(bad), paused ? `paused${until}: ${waiting}` : ""].filter(Boolean).join("; ") };
  if (paused) return { level: "busy", word: `Paused${until}`, more: waiting };
  if (busy.length) return { level: "busy", word: summary(busy, all), more: `${all - busy.length} of ${all} replicas are ready` };
  return { level: "good", word: all === 1 ? "The only replica is ready" : `All ${all} replicas are ready`, more: parts };
}

function summary(some, all) {
  if (some.length === 1) return `${some[0].name}: ${some[0].word}`;
  const names = some.slice(0, 3).map((each) => each.name).join(", ");
  return `${some.length} of ${all} are not ready: ${names}${some.length > 3 ? ", …" : ""}`;
}

function why(bad) {
  const [first] = bad;
  const known = first.reason || (first.last_exit ? `last exit: ${cause(first.last_exit)}` : "");
  const reason = [known, causeIn(first)].filter(Boolean).join("; ");
  return reason && bad.length > 1 ? `${first.name}: ${reason}` : reason;
}

/** An event with its time in ms, its text and its sort. */
export function event(record) {
  return { ...record, n: record.number, time: Date.parse(record.at), text: record.text ?? sentence(record), sort: sortOf(record) };
}

export function sortOf(record) {
  if (record.event === "replica_exited") return (record.ordered ?? record.code === 0) ? "stop" : "death";
  if (record.event === "replica_ready") return record.timeline_ms ? "back" : "start";
  return { adopted: "adopted", replica_unhealthy: "unhealthy", faults_changed: "fault", backoff_entered: "unhealthy", engine_lost: "unhealthy", reload_refused: "unhealthy", replica_start_failed: "unhealthy" }[record.event] ?? "note";
}

function sentence(record) {
  const subject = record.replica ? `${record.replica} ` : "";
  const more = record.settings ? ` ${settings(record.settings)}` : "";
  return `${subject}${record.event.replaceAll("_", " ")}${more}`;
}
