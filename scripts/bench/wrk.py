"""Bursts of load by wrk, and what they came to.

wrk keeps a fixed number of connections busy (closed model). Its percentiles are corrected for the omission that a stalled connection
causes (its `stats_correct`), for every proxy alike. A burst ends by SIGINT, because wrk's own durations are whole seconds.

It knows only of requests that were answered: what is still out at its end, the slowest of all, is in no figure. Where clients are observed
(`observe`) they therefore stop asking when their time is over, and what is out is waited for; what is not answered then is a timeout.
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

from comet.crowd import INJECTED, Ask
from scripts.bench.hdr import corrected, fresh, uncorrected
from scripts.bench.observed import BY_LB, BY_WORKER, CLIENT_ERROR, OK, ORDERED, REFUSED, RESET, TIMEOUT, Observed
from scripts.bench.proc import BenchError

TIMES = "wrk's own, corrected by its estimate of what stalled connections did not ask (closed model), for everybody alike"
"""What the times of a burst are, for the reader of its tables."""

DONE = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\n@@{"requests":%d,"seconds":%.6f,"bytes":%d,"refused":%d,"read":%d,"write":%d,"status":%d,"timeout":%d,' ..
    '"p50_us":%d,"p99_us":%d,"p999_us":%d}\\n', summary.requests, summary.duration / 1e6, summary.bytes, e.connect, e.read, e.write,
    e.status, e.timeout, latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"""
# Sorts every answer as observed.kind_of does, counts by worker, and tells each latency that occurred. One thread, so one set of globals.
# The body's end decides: wrk 4.1 leaves what came of a cut answer before the next one of that connection. Called with the seconds, the
# number of connections and a file that is made when all are at rest. An empty request puts a connection at rest: nothing is written, and
# no answer comes. wrk calls `request` once before it connects, to see how many requests it holds.
SORTING = """
local thread
local injected = '%s'
local ffi = require("ffi")
ffi.cdef("struct moment { long seconds, nanoseconds; }; int clock_gettime(int clock, struct moment *now);")
local moment = ffi.new("struct moment")
local function clock() ffi.C.clock_gettime(1, moment) return tonumber(moment.seconds) + tonumber(moment.nanoseconds) / 1e9 end
local asks, n, calls, resting = nil, 0, 0, 0
local seconds, connections, rest, over
kinds, workers, sent, late = {}, {}, 0, 0
setup = function(of) thread = of end
init = function(args)
  asks, seconds, connections, rest = made(), tonumber(args[1]), tonumber(args[2]), args[3]
end
request = function()
  calls = calls + 1
  n = n %% #asks + 1
  if calls == 1 then return asks[n] end
  local now = clock()
  over = over or now + seconds
  if now >= over then
    resting = resting + 1
    if resting == connections then io.open(rest, "w"):close() end
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
local function told(of)
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
  io.write(string.format('\\n@@{"requests":%%d,"micros":%%d,"refused":%%d,"reset":%%d,"sent":%%d,"late":%%d,', summary.requests,
    summary.duration, e.connect, e.read + e.write, thread:get("sent"), thread:get("late")))
  io.write('"kinds":', told(thread:get("kinds")), ',"workers":', told(thread:get("workers")))
  io.write(',"values":[', table.concat(values, ","), ']}\\n')
end
""" % (INJECTED.decode(), OK, ORDERED, BY_WORKER, BY_LB, CLIENT_ERROR)  # noqa: UP031 Lua is full of braces
PATIENCE = 15.0  # seconds for what is out when the clients' time is over
LOOK = 0.05  # seconds between two looks whether all are answered
REPORT = 60.0  # seconds for wrk to tell its latencies; it looks up each of them from the smallest on
STOP_PRECISION = 0.1  # wrk looks every 100 ms whether it shall stop
_RESULT = re.compile(r"^@@(\{.*\})$", re.MULTILINE).search


@dataclass(frozen=True)
class Burst:
    """One burst: requests completed (whatever their status), seconds, and errors by kind."""

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
    """The burst that a script ending in DONE reported. BenchError: it did not."""
    return Burst(**_reported(output))


def _reported(output: str) -> dict[str, Any]:
    found = _RESULT(output)
    if found is None:
        raise BenchError("wrk did not report: " + " ".join(output.split())[-200:])
    told: dict[str, Any] = json.loads(found[1])
    return told


def burst(port: int, script: Path, connections: int, seconds: float, path: str = "/", threads: int = 1) -> Burst:
    """Load 127.0.0.1:port for about `seconds`."""
    command = _command(port, script, connections, seconds + 5, path, threads, timeout=5)
    return parse(_output(command, seconds))


def sorting(asks: Sequence[Ask]) -> str:
    """The script for `observe`: these requests in turn, and every answer sorted."""
    made = [f'wrk.format("{ask.method}", "{ask.path}", nil, {_lua_body(ask)})' for ask in asks]
    return "local function made() return {\n  " + ",\n  ".join(made) + "\n} end\n" + SORTING


def _lua_body(ask: Ask) -> str:
    return f'string.rep("x", {len(ask.body)})' if ask.body else "nil"


def observe(port: int, script: Path, connections: int, seconds: float, patience: float = PATIENCE) -> Observed:
    """Load 127.0.0.1:port for so long by a script of `sorting`, then wait for the answers that are out, at most `patience` seconds."""
    with tempfile.TemporaryDirectory(prefix="comet-bench-") as folder:
        rest = Path(folder) / "rest"
        whole = seconds + patience + 5
        command = [*_command(port, script, connections, whole, "/", 1, timeout=whole), "--", str(seconds), str(connections), str(rest)]
        output = _output(command, seconds, lambda: rest.exists(), patience)
    return parse_observed(output, connections, seconds, patience)


def parse_observed(output: str, connections: int, seconds: float, patience: float = PATIENCE) -> Observed:
    """What a script of `sorting` reported. wrk corrects its latencies by the mean time between a connection's requests over the whole of
    its run; told are what was measured, and that corrected by the mean time while clients asked."""
    told = _reported(output)
    never = min(connections, max(0, told["sent"] - told["requests"] - told["reset"]))
    kinds = Counter(told["kinds"]) + Counter({REFUSED: told["refused"], RESET: told["reset"], TIMEOUT: never})
    values = [(int(value), int(count)) for value, count in told["values"]]
    per_connection = told["requests"] // connections
    measured = uncorrected(values, told["micros"] // per_connection if per_connection else 0)
    if never:  # Whoever waited in vain waited for at least this long.
        measured.append((round(patience * 1e6), never))
    # A client that had nothing but one slow answer would have asked again all the same: by what the answered ones took.
    interval = round(seconds * 1e6 / max(1, (told["requests"] - told["late"]) / connections))
    mended = fresh(corrected(measured, max(1, interval)))
    return Observed(seconds, kinds, Counter(told["workers"]), fresh(measured), mended, told["late"])


def _command(port: int, script: Path, connections: int, seconds: float, path: str, threads: int, timeout: float) -> list[str]:
    """wrk's, which ends by itself after `seconds` at the latest; answers that took more than `timeout` seconds are in none of its times."""
    limits = [f"-d{round(seconds)}s", "--timeout", f"{round(timeout)}s"]
    return ["wrk", f"-t{min(threads, connections)}", f"-c{connections}", *limits, "-s", str(script), f"http://127.0.0.1:{port}{path}"]


def _output(command: list[str], seconds: float, done: Callable[[], bool] = lambda: True, patience: float = 0.0) -> str:
    """What wrk said, told to end after `seconds`, or as soon after them as it is `done`, at most `patience` seconds later."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        _await(process, seconds)
        deadline = time.monotonic() + patience
        while not done() and time.monotonic() < deadline:
            _await(process, LOOK)
        process.send_signal(signal.SIGINT)
        return process.communicate(timeout=REPORT)[0]
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _await(process: subprocess.Popen[str], seconds: float) -> None:
    """Wait for so long. BenchError: wrk ended meanwhile."""
    try:
        said = process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        return
    raise BenchError(f"wrk ended before its time: {said.strip()}")
