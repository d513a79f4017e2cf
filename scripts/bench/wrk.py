"""Bursts of load by wrk, and what they came to.

wrk keeps a fixed number of connections busy (closed model). Its percentiles are corrected for the omission that a stalled connection
causes (its `stats_correct`), for every proxy alike. A burst ends by SIGINT, because wrk's own durations are whole seconds.
"""

import json
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from scripts.bench.proc import BenchError

DONE = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\n@@{"requests":%d,"seconds":%.6f,"bytes":%d,"refused":%d,"read":%d,"write":%d,"status":%d,"timeout":%d,' ..
    '"p50_us":%d,"p99_us":%d,"p999_us":%d}\\n', summary.requests, summary.duration / 1e6, summary.bytes, e.connect, e.read, e.write,
    e.status, e.timeout, latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"""
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
    found = _RESULT(output)
    if found is None:
        raise BenchError("wrk did not report: " + " ".join(output.split())[-200:])
    return Burst(**json.loads(found[1]))


def burst(port: int, script: Path, connections: int, seconds: float, path: str = "/", threads: int = 1) -> Burst:
    """Load 127.0.0.1:port for about `seconds`."""
    command = ["wrk", f"-t{min(threads, connections)}", f"-c{connections}", f"-d{int(seconds) + 5}s", "--timeout", "5s", "-s", str(script)]
    process = subprocess.Popen(
        [*command, f"http://127.0.0.1:{port}{path}"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        process.wait(seconds)
        raise BenchError(f"wrk ended before its time: {process.communicate()[0].strip()}")
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    try:
        return parse(process.communicate(timeout=10)[0])
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
