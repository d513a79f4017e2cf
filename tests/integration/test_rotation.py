"""What clients see of a worker that dies: nothing. And how soon it is out of the rotation: seen at the load balancers themselves, told
from when Docker's word of the death could be heard by anybody.

Active checks are a minute apart here: what takes the worker out is word of its death, or a request that met it.
"""

import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from comet.cluster import Cluster
from comet.wallclock import parse
from lb.access import FLUSH
from scripts.bench.rotation import Watched
from tests.integration.clusters import House, eventually

pytestmark = [pytest.mark.docker, pytest.mark.slow]

PROMISED = 0.050  # seconds
KILLS = 5


@dataclass(frozen=True)
class Seen:
    """What came of one request."""

    status: int | str
    worker: str | None


class Client(threading.Thread):
    """Asks one load balancer again and again, on one connection or each time on a new one."""

    def __init__(self, house: House, lb: int, keeps: bool) -> None:
        super().__init__(daemon=True)
        self._url, self._keeps = f"{house.lb(lb)}/api/v1/hello", keeps
        self.over = threading.Event()
        self.seen: list[Seen] = []

    def run(self) -> None:
        with requests.Session() as kept:
            while not self.over.is_set():
                try:
                    answer = kept.get(self._url, timeout=30) if self._keeps else requests.get(self._url, timeout=30)
                    status, worker = answer.status_code, answer.headers.get("X-Comet-Worker")
                except requests.RequestException as error:
                    status, worker = str(error), None
                self.seen.append(Seen(status, worker))


@contextmanager
def running(threads: list[Watched] | list[Client]) -> Iterator[None]:
    with ExitStack() as stack:
        for each in threads:
            each.start()
            stack.callback(each.join, 40)
        for each in threads:
            stack.callback(each.over.set)
        yield


@contextmanager
def hearing(house: House) -> Iterator[list[float]]:
    """When Docker's word of each death arrives here."""
    heard: list[float] = []
    with house.engine() as engine:
        filters = {"container": house.replicas()["worker-0"]["id"], "event": "die"}
        stream = engine.events(filters=filters, decode=True)

        def listen() -> None:
            for _ in stream:
                heard[len(heard) :] = [time.time()]

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        try:
            yield heard
        finally:
            stream.close()
            listener.join(10)


def asked_again(house: House, absences: list[tuple[str, float, float]]) -> list[dict[str, Any]]:
    """The lines of the access logs that tell of a repeat, of requests that began and ended while the dead worker was out there."""
    eventually(lambda: all(each["in_flight"] == 0 for name, each in house.replicas().items() if name.startswith("lb")))
    time.sleep(2 * FLUSH)
    found = []
    for lb, out, again in absences:
        for line in (house.folder / f".comet/logs/{lb}.access.log").read_text().splitlines():
            record = json.loads(line)
            began = parse(record["at"]) or 0.0
            # The log's times are rounded to the millisecond.
            if out + 0.001 < began and began + record["total_ms"] / 1000 < again and (record["retries"] or record["worker"] == "worker-0"):
                found.append(record)
    return found


def test_clients_see_nothing_of_a_worker_that_dies_and_it_is_out_of_every_rotation_at_once(make_house: Callable[..., House]) -> None:
    house = make_house(worker=2, pool=2, restart_stable=1, health_interval=60, access_log="true")
    house.start()
    records = json.loads((house.folder / ".comet/state.json").read_text())["replicas"]
    watched = [Watched(Cluster(house.folder), record["control"], "worker-0") for record in records if record["role"] == "lb"]
    clients = [Client(house, lb, keeps) for lb in (0, 1) for keeps in (True, False)]
    delays: list[float] = []
    absences: list[tuple[str, float, float]] = []
    with hearing(house) as heard, running(watched), running(clients):
        eventually(lambda: all(len(each.seen) > 5 for each in clients) and all(each.changes for each in watched))
        for number in range(1, KILLS + 1):
            since = time.time()
            assert house.comet("kill", "worker-0").returncode == 0
            eventually(lambda number=number: (row := house.replicas()["worker-0"])["restarts"] == number and row["state"] == "ready")
            eventually(lambda number=number: len(heard) == number, what="Docker's word")
            eventually(lambda since=since: all(each.changes[-1][1] == "up" and each.changes[-1][0] > since for each in watched))
            again = parse(house.events("replica_ready", "worker-0")[-1]["at"]) or 0.0
            for lb, each in enumerate(watched):
                out = each.change("down", since)
                assert out is not None
                absences.append((f"lb-{lb}", out, again))
                delays.append(max(0.0, out - heard[-1] - each.blind(heard[-1], out)))
    assert asked_again(house, absences) == [], "a dead worker was asked"
    failed = [seen for client in clients for seen in client.seen if seen.status != 200]
    assert failed == []
    assert {seen.worker for client in clients for seen in client.seen} == {"worker-0", "worker-1"}
    print(f"out of a rotation after {', '.join(f'{1000 * delay:.1f}' for delay in delays)} ms")
    assert statistics.median(delays) < PROMISED
    house.stop()
