"""Bursts of load by wrk, and what they came to.

wrk keeps a fixed number of connections busy (closed model). Its percentiles are corrected for the omission that a stalled connection
causes (its `stats_correct`), for every proxy alike. A burst ends by SIGINT, because wrk's own durations are whole seconds.
"""

import json
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comet.crowd import INJECTED, Ask
from scripts.bench.hdr import fresh, uncorrected
from scripts.bench.observed import BY_LB, BY_WORKER, CLIENT_ERROR, OK, ORDERED, REFUSED, RESET, TIMEOUT, Observed
from scripts.bench.proc import BenchError

DONE = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\n@@{"requests":%d,"seconds":%.6f,"bytes":%d,"refused":%d,"read":%d,"write":%d,"status":%d,"timeout":%d,' ..
    '"p50_us":%d,"p99_us":%d,"p999_us":%d}\\n', summary.requests, summary.duration / 1e6, summary.bytes, e.connect, e.read, e.write,
    e.status, e.timeout, latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"""
# Sorts every answer as observed.kind_of does, counts by worker, and tells each latency that occurred. One thread, so one set of globals.
# The body's end decides: wrk 4.1 leaves what came of a cut answer before the next one of that connection.
SORTING = """
local thread
local injected = '%s'
kinds, workers = {}, {}
setup = function(of) thread = of end
response = function(status, headers, body)
  local worker, kind = headers["X-Comet-Worker"], "%s"
  if body:sub(-#injected) == injected then kind = "%s"
  elseif status >= 500 then kind = worker and "%s" or "%s"
  elseif status >= 400 then kind = "%s" end
  kinds[kind] = (kinds[kind] or 0) + 1
  if worker then workers[worker] = (workers[worker] or 0) + 1 end
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
  io.write(string.format('\\n@@{"requests":%%d,"micros":%%d,"refused":%%d,"reset":%%d,"timeout":%%d,', summary.requests, summary.duration,
    e.connect, e.read + e.write, e.timeout))
  io.write('"kinds":', told(thread:get("kinds")), ',"workers":', told(thread:get("workers")))
  io.write(',"values":[', table.concat(values, ","), ']}\\n')
end
""" % (INJECTED.decode(), OK, ORDERED, BY_WORKER, BY_LB, CLIENT_ERROR)  # noqa: UP031 Lua is full of braces
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
    return parse(_output(port, script, connections, seconds, path, threads, timeout=5))


def sorting(asks: Sequence[Ask]) -> str:
    """The script for `observe`: these requests in turn, and every answer sorted."""
    made = [f'wrk.format("{ask.method}", "{ask.path}", nil, {_lua_body(ask)})' for ask in asks]
    turn = "local asks, n = nil, 0\ninit = function(args) asks = {\n  " + ",\n  ".join(made) + "\n} end\n"
    return turn + "request = function() n = n % #asks + 1 return asks[n] end\n" + SORTING


def _lua_body(ask: Ask) -> str:
    return f'string.rep("x", {len(ask.body)})' if ask.body else "nil"


def observe(port: int, script: Path, connections: int, seconds: float) -> Observed:
    """Load 127.0.0.1:port for about `seconds` by a script of `sorting`."""
    return parse_observed(_output(port, script, connections, seconds, "/", 1, timeout=15), connections)


def parse_observed(output: str, connections: int) -> Observed:
    """What a script of `sorting` reported. wrk corrects its latencies by the mean time between a connection's requests; both are told."""
    told = _reported(output)
    kinds = Counter(told["kinds"]) + Counter({REFUSED: told["refused"], RESET: told["reset"], TIMEOUT: told["timeout"]})
    values = [(int(value), int(count)) for value, count in told["values"]]
    per_connection = told["requests"] // connections
    measured = uncorrected(values, told["micros"] // per_connection if per_connection else 0)
    return Observed(told["micros"] / 1e6, kinds, Counter(told["workers"]), fresh(measured), fresh(values))


def _output(port: int, script: Path, connections: int, seconds: float, path: str, threads: int, timeout: int) -> str:
    command = ["wrk", f"-t{min(threads, connections)}", f"-c{connections}", f"-d{int(seconds) + 5}s", "--timeout", f"{timeout}s"]
    process = subprocess.Popen(
        [*command, "-s", str(script), f"http://127.0.0.1:{port}{path}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said = process.communicate(timeout=seconds)[0]
        raise BenchError(f"wrk ended before its time: {said.strip()}")
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    try:
        return process.communicate(timeout=10)[0]
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
