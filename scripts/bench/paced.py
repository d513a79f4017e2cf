"""The generator of the open model, a separate process: requests at a constant rate, each timed from when it was due and
from when it was sent.

    python -m scripts.bench.paced < SPECIFICATION > RESULT

None of the maintained generators in Debian can do this. wrk has no rate. h2load's --rps (1.52) and hey's -q (0.1.4)
send one request on every connection at the same time and then none until the next tick, so that an even rate becomes
bursts; they time from the actual send, their logs do not name the connection, so this cannot be corrected, and they
keep neither the answers' X-Comet-Worker nor their bodies, which distinguish failures. Vegeta sends evenly and keeps all
of that, but is no package of Debian, PyPI or npm; it also times from the actual send. The requests are sent by
comet.load.open_model, which `compare` uses too; on uvloop a request costs it about 0.1 ms of CPU time.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import uvloop

from comet.load.closed_model import RequestSpec
from comet.load.open_model import CompletedRequest, OpenModel
from scripts.bench.observed import Observed, kind_of, kind_of_failure
from scripts.bench.proc import BenchError
from scripts.bench.report import ROOT

LATE = 0.010  # seconds after which a request was not sent when it was due
ANSWER_TIMEOUT = 15.0  # seconds for an answer


@dataclass(frozen=True)
class Sending:
    """How the rate was kept.

    `late` requests were sent more than LATE after they were due, `waited` of these because every connection was busy;
    `unsent` were due but not sent before the end. CPU is in percent of a core.
    """

    due: int
    late: int
    waited: int
    unsent: int
    latest_ms: float
    cpu: float

    @property
    def kept(self) -> bool:
        """Whether at least 99 % of the requests were sent when they were due."""
        return self.late + self.unsent <= self.due / 100


class Tally:
    """Assigns ended requests to slices of time, by when they were due, and to load balancers."""

    def __init__(self, names: Sequence[str], ports: Sequence[int], rate: float, seconds: float, slices: int) -> None:
        self._of = dict(zip(ports, names, strict=True))
        self._share = max(1.0, rate * seconds / slices)
        self.slices = [{name: Observed(seconds / slices) for name in names} for _ in range(slices)]
        self.late = self.waited = 0
        self.latest = 0.0

    def at(self, number: int, port: int) -> Observed:
        return self.slices[min(len(self.slices) - 1, int(number / self._share))][self._of[port]]

    def note(self, ended: CompletedRequest) -> None:
        into, answer = self.at(ended.number, ended.address[1]), ended.answer
        into.kinds[
            kind_of_failure(ended.failure) if answer is None else kind_of(answer.status, answer.worker, answer.body)
        ] += 1
        if answer is not None and answer.worker:
            into.workers[answer.worker] += 1
        # A request without an answer took its time too: a client waited as long.
        into.raw.record_value(max(1, round((ended.ended - ended.sent) * 1e6)))
        into.corrected.record_value(max(1, round((ended.ended - ended.due) * 1e6)))
        if (lateness := ended.sent - ended.due) > LATE:
            self.late += 1
            self.waited += ended.waited
            self.latest = max(self.latest, lateness)


async def offer(
    ports: Mapping[str, int],
    asks: Sequence[RequestSpec],
    rate: float,
    seconds: float,
    slices: int,
    most: int,
    host: str = "127.0.0.1",
) -> dict[str, Any]:
    """Send for this many seconds, wait for the answers, and return the results."""
    tally = Tally(list(ports), list(ports.values()), rate, seconds, slices)
    addresses = [(host, port) for port in ports.values()]
    pace = OpenModel(addresses, asks, rate, tally.note, most, ANSWER_TIMEOUT)
    due, clock = max(1, round(rate * seconds)), asyncio.get_running_loop().time
    sender = asyncio.create_task(pace.send(due))
    began, spent = time.monotonic(), time.process_time()
    try:
        await asyncio.wait([sender], timeout=seconds)
        sender.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sender
        # After the last request, which a low rate sends early, it is idle for the rest of the time.
        over, cpu = clock(), (time.process_time() - spent) / max(time.monotonic() - began, seconds) * 100
        for number in range(pace.sent, due):
            # It waited for at least this long; left out, an overload would look better the worse it is.
            waited = over - pace.begun - number / rate
            tally.at(number, addresses[number % len(addresses)][1]).corrected.record_value(max(1, round(waited * 1e6)))
        await pace.drained()
    finally:
        sender.cancel()
        await pace.end()
    sending = Sending(due, tally.late, tally.waited, due - pace.sent, tally.latest * 1000, cpu)
    slices_told = [{name: each.as_dict() for name, each in part.items()} for part in tally.slices]
    return {"slices": slices_told, "sending": vars(sending)}


def run(
    ports: Mapping[str, int],
    asks: Sequence[RequestSpec],
    rate: float,
    seconds: float,
    slices: int,
    most: int,
    host: str,
) -> tuple[list[dict[str, Observed]], Sending]:
    """Run `offer` in a separate process; return the observations by slice and load balancer, and how the rate was kept.
    BenchError if it does not report.
    """
    specification_text = [[ask.path, ask.method, len(ask.body), ask.tls] for ask in asks]
    specification = {
        "ports": dict(ports),
        "asks": specification_text,
        "rate": rate,
        "seconds": seconds,
        "slices": slices,
        "most": most,
        "host": host,
    }
    done = subprocess.run(
        [sys.executable, "-m", "scripts.bench.paced"], input=json.dumps(specification), cwd=ROOT, capture_output=True,
        text=True,
        timeout=seconds + ANSWER_TIMEOUT + 30, check=False,
    )  # fmt: skip
    if done.returncode:
        raise BenchError(f"the open model's generator failed: {done.stderr.strip().splitlines()[-1:]}")
    result = json.loads(done.stdout)
    slices_seen = [{name: Observed.from_dict(each) for name, each in part.items()} for part in result["slices"]]
    return slices_seen, Sending(**result["sending"])


if __name__ == "__main__":
    given = json.load(sys.stdin)
    given["asks"] = [RequestSpec(path, method, b"x" * length, tls=tls) for path, method, length, tls in given["asks"]]
    json.dump(uvloop.run(offer(**given)), sys.stdout)
