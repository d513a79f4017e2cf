"""Runs bursts of load with wrk, and parses the results.

wrk keeps a fixed number of connections busy (closed model). Its percentiles are corrected for the coordinated omission
of stalled connections (its `stats_correct`), for every proxy alike. A burst is ended by SIGINT, because wrk's own
durations are whole seconds.

wrk reports only answered requests: requests in flight at its end, the slowest of all, are in no figure. If clients are
observed (`observe`), they therefore stop sending when their time is over, and requests in flight are waited for; those
not answered then are timeouts.
"""

import json
import re
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comet.load.closed_model import INJECTED, RequestSpec
from scripts.bench.hdr import corrected, from_pairs, uncorrected
from scripts.bench.observed import BY_LB, BY_WORKER, CLIENT_ERROR, OK, ORDERED, REFUSED, RESET, TIMEOUT, Observed
from scripts.bench.proc import BenchError

TIMES = (
    "wrk's own, corrected by its estimate of what stalled connections did not ask (closed model), for everybody alike"
)
"""The description of a burst's times, for the reader of its tables."""

DONE = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\n@@{"requests":%d,"seconds":%.6f,"bytes":%d,' ..
    '"refused":%d,"read":%d,"write":%d,' ..
    '"status":%d,"timeout":%d,"p50_us":%d,"p99_us":%d,"p999_us":%d}\\n', summary.requests, summary.duration / 1e6,
    summary.bytes, e.connect, e.read, e.write,
    e.status, e.timeout, latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"""
# Sorts every answer as observed.kind_of does, counts by worker, and tells each latency that occurred. One thread, so
# one set of globals. The body's end decides: wrk 4.1 leaves what came of a cut answer before the next one of that
# connection. Called with the seconds, the number of connections and a file that is made when all are at rest. An empty
# request puts a connection at rest: nothing is written, and no answer comes. OpenSSL fails where it is to write
# nothing, and wrk then connects again: with TLS a long delay before the next request puts a connection at rest. wrk
# calls `request` once before it connects, to see how many requests it holds.
SORTING = """
local thread
local injected = '%s'
local ffi = require("ffi")
ffi.cdef("struct moment { long seconds, nanoseconds; }; int clock_gettime(int clock, struct moment *now);")
local moment = ffi.new("struct moment")
local function clock()
  ffi.C.clock_gettime(1, moment)
  return tonumber(moment.seconds) + tonumber(moment.nanoseconds) / 1e9
end
local asks, n, calls, resting = nil, 0, 0, 0
local seconds, connections, rest, over
kinds, workers, sent, late = {}, {}, 0, 0
setup = function(of) thread = of end
init = function(args)
  asks, seconds, connections, rest = made(), tonumber(args[1]), tonumber(args[2]), args[3]
end
local function come_to_rest()
  resting = resting + 1
  if resting == connections then io.open(rest, "w"):close() end
end
if tls then
  delay = function()
    if not over or clock() < over then return 0 end
    come_to_rest()
    return 3600000
  end
end
request = function()
  calls = calls + 1
  n = n %% #asks + 1
  if calls == 1 then return asks[n] end
  local now = clock()
  over = over or now + seconds
  if now >= over and not tls then
    come_to_rest()
    return ""
  end
  sent = sent + 1
  return asks[n]
end
response = function(status, headers, body)
  local worker, kind = headers["X-Comet-Worker"], "%s"
  if body:sub(-#injected) == injected then kind = "%s"
  elseif status >= 500 then kind = worker and "%s" or "%s"
  elseif status >= 400 then kind = "%s" end
  kinds[kind] = (kinds[kind] or 0) + 1
  if worker then workers[worker] = (workers[worker] or 0) + 1 end
  if clock() >= over then late = late + 1 end
end
local function encoded(of)
  local parts = {}
  for key, count in pairs(of) do parts[#parts + 1] = string.format('"%%s":%%d', key, count) end
  return "{" .. table.concat(parts, ",") .. "}"
end
done = function(summary, latency, requests)
  local e, values = summary.errors, {}
  for i = 1, #latency do
    local value, count = latency(i)
    values[i] = string.format("[%%d,%%d]", value, count)
  end
  io.write(string.format('\\n@@{"requests":%%d,"micros":%%d,"refused":%%d,"reset":%%d,"sent":%%d,"late":%%d,',
    summary.requests, summary.duration, e.connect, e.read + e.write, thread:get("sent"), thread:get("late")))
  io.write('"kinds":', encoded(thread:get("kinds")), ',"workers":', encoded(thread:get("workers")))
  io.write(',"values":[', table.concat(values, ","), ']}\\n')
end
""" % (INJECTED.decode(), OK, ORDERED, BY_WORKER, BY_LB, CLIENT_ERROR)  # noqa: UP031 Lua is full of braces
HERE = "http://127.0.0.1"
DRAIN_TIMEOUT = 15.0  # seconds for requests in flight at the end of the clients' time
POLL_INTERVAL = 0.05  # seconds between two checks whether all are answered
REPORT = 60.0  # seconds for wrk to report its latencies; it searches each of them from the smallest
_RESULT = re.compile(r"^@@(\{.*\})$", re.MULTILINE).search


@dataclass(frozen=True)
class Burst:
    """One burst: requests completed (with any status), seconds, and errors by kind."""

    requests: int
    seconds: float
    bytes: int
    refused: int
    read: int
    write: int
    status: int
    timeout: int
    p50_us: int
    p99_us: int
    p999_us: int

    @property
    def errors(self) -> int:
        """Requests that failed: status above 399, broken, refused or timed-out connections."""
        return self.refused + self.read + self.write + self.status + self.timeout

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds if self.seconds else 0.0


def parse(output: str) -> Burst:
    """Parse the burst that a script ending in DONE reported. BenchError if it did not report."""
    return Burst(**_reported(output))


def _reported(output: str) -> dict[str, Any]:
    found = _RESULT(output)
    if found is None:
        raise BenchError("wrk did not report: " + " ".join(output.split())[-200:])
    result: dict[str, Any] = json.loads(found[1])
    return result


def burst(port: int, script: Path, connections: int, seconds: float, path: str = "/", threads: int = 1) -> Burst:
    """Load 127.0.0.1:port for about `seconds`."""
    command = _command(port, script, connections, seconds + 5, path, threads, timeout=5)
    return parse(_output(command, seconds))


def sorting(asks: Sequence[RequestSpec]) -> str:
    """Return the script for `observe`: sends these requests in turn, and sorts every answer."""
    made = [f'wrk.format("{ask.method}", "{ask.path}", nil, {_lua_body(ask)})' for ask in asks]
    tls = "true" if asks[0].tls else "false"
    return f"local tls = {tls}\nlocal function made() return {{\n  " + ",\n  ".join(made) + "\n} end\n" + SORTING


def _lua_body(ask: RequestSpec) -> str:
    return f'string.rep("x", {len(ask.body)})' if ask.body else "nil"


def observe(
    port: int,
    script: Path,
    connections: int,
    seconds: float,
    drain_timeout: float = DRAIN_TIMEOUT,
    base: str = HERE,
) -> Observed:
    """Load `base`:port for `seconds` with a script of `sorting`.

    Then wait for at most `drain_timeout` seconds for the answers to requests in flight.
    """
    with tempfile.TemporaryDirectory(prefix="comet-bench-") as folder:
        rest = Path(folder) / "rest"
        whole = seconds + drain_timeout + 5
        command = [
            *_command(port, script, connections, whole, "/", 1, timeout=whole, base=base),
            "--",
            str(seconds),
            str(connections),
            str(rest),
        ]
        output = _output(command, seconds, rest.exists, drain_timeout)
    return parse_observed(output, connections, seconds, drain_timeout)


def parse_observed(output: str, connections: int, seconds: float, drain_timeout: float = DRAIN_TIMEOUT) -> Observed:
    """Parse the report of a script of `sorting`.

    wrk corrects its latencies by the mean time between a connection's requests over its whole run. Returned are the
    measured latencies, and those corrected by the mean time while clients were sending.
    """
    result = _reported(output)
    timed_out = min(connections, max(0, result["sent"] - result["requests"] - result["reset"]))
    kinds = Counter(result["kinds"]) + Counter({REFUSED: result["refused"], RESET: result["reset"], TIMEOUT: timed_out})
    values = [(int(value), int(count)) for value, count in result["values"]]
    per_connection = result["requests"] // connections
    measured = uncorrected(values, result["micros"] // per_connection if per_connection else 0)
    if timed_out:  # Those without an answer waited for at least this long.
        measured.append((round(drain_timeout * 1e6), timed_out))
    # A client that had nothing but one slow answer would have asked again all the same: by what the answered ones took.
    interval = round(seconds * 1e6 / max(1, (result["requests"] - result["late"]) / connections))
    corrected_values = from_pairs(corrected(measured, max(1, interval)))
    return Observed(seconds, kinds, Counter(result["workers"]), from_pairs(measured), corrected_values, result["late"])


def _command(
    port: int,
    script: Path,
    connections: int,
    seconds: float,
    path: str,
    threads: int,
    timeout: float,
    base: str = HERE,
) -> list[str]:
    """Return wrk's command, which ends by itself after `seconds` at the latest; answers that took more than `timeout`
    seconds are in none of its times.
    """
    limits = [f"-d{round(seconds)}s", "--timeout", f"{round(timeout)}s"]
    return [
        "wrk",
        f"-t{min(threads, connections)}",
        f"-c{connections}",
        *limits,
        "-s",
        str(script),
        f"{base}:{port}{path}",
    ]


def _output(
    command: list[str], seconds: float, done: Callable[[], bool] = lambda: True, drain_timeout: float = 0.0
) -> str:
    """Return wrk's output.

    wrk gets SIGINT after `seconds`; where it is not `done` by then, once it is, at most `drain_timeout` seconds later.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        _await(process, seconds)
        deadline = time.monotonic() + drain_timeout
        while not done() and time.monotonic() < deadline:
            _await(process, POLL_INTERVAL)
        process.send_signal(signal.SIGINT)
        return process.communicate(timeout=REPORT)[0]
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _await(process: subprocess.Popen[str], seconds: float) -> None:
    """Wait this long. BenchError if wrk ended meanwhile."""
    try:
        output = process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        return
    raise BenchError(f"wrk ended before its time: {output.strip()}")
