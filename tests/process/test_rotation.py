"""What clients see of a worker that dies: nothing. And how soon it is out of the rotation: seen at the load balancers
themselves, told from when Docker's word of the death could be heard by anybody.

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

from comet.common.clock import parse
from comet.state.directory import Cluster
from scripts.bench.rotation import Watched
from tests.support.cluster import TestCluster
from tests.support.waiting import wait_until

PROMISED = 0.050  # seconds
KILLS = 5


@dataclass(frozen=True)
class Seen:
    """What came of one request."""

    status: int | str
    worker: str | None


class Client(threading.Thread):
    """Asks one load balancer again and again, on one connection or each time on a new one."""

    def __init__(self, cluster: TestCluster, lb: int, keeps: bool) -> None:
        super().__init__(daemon=True)
        self.lb, self._url, self._keeps = lb, f"{cluster.lb(lb)}/api/v1/hello", keeps
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
def hearing(cluster: TestCluster) -> Iterator[list[float]]:
    """When Docker's word of each death arrives here."""
    heard: list[float] = []
    with cluster.engine() as engine:
        filters = {"container": cluster.replicas()["worker-0"]["id"], "event": "die"}
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


def logged(cluster: TestCluster, lb: str) -> list[str]:
    """The lines of its access log that are whole."""
    path = cluster.folder / f".comet/logs/{lb}.access.log"
    texts = [each.read_text() for each in (path.with_name(f"{path.name}.1"), path) if each.exists()]
    return "".join(texts).rpartition("\n")[0].splitlines()


def asked_again(
    cluster: TestCluster, clients: list[Client], absences: list[tuple[str, float, float]]
) -> list[dict[str, Any]]:
    """The lines of the access logs that tell of a repeat, of requests that began and ended while the dead worker was
    out there.
    """
    for number in (0, 1):
        answered = sum(seen.worker is not None for client in clients if client.lb == number for seen in client.seen)
        wait_until(
            lambda number=number, answered=answered: len(logged(cluster, f"lb-{number}")) >= answered,  # type: ignore[misc]
            what="every answer logged",
        )
    found = []
    for lb, out, again in absences:
        for line in logged(cluster, lb):
            record = json.loads(line)
            began = parse(record["at"]) or 0.0
            # The log's times are rounded to the millisecond.
            if (
                out + 0.001 < began
                and began + record["total_ms"] / 1000 < again
                and (record["retries"] or record["worker"] == "worker-0")
            ):
                found.append(record)
    return found


@pytest.mark.docker
def test_a_dead_worker_leaves_the_rotation_without_errors(
    make_cluster: Callable[..., TestCluster],
) -> None:
    cluster = make_cluster(worker=2, pool=2, restart_stable=1, health_interval=60, access_log="true")
    cluster.start()
    records = json.loads((cluster.folder / ".comet/state.json").read_text())["replicas"]
    watched = [
        Watched(Cluster(cluster.folder), record["control"], "worker-0") for record in records if record["role"] == "lb"
    ]
    clients = [Client(cluster, lb, keeps) for lb in (0, 1) for keeps in (True, False)]
    delays: list[float] = []
    absences: list[tuple[str, float, float]] = []
    with hearing(cluster) as heard, running(watched), running(clients):
        wait_until(lambda: all(len(each.seen) > 5 for each in clients) and all(each.changes for each in watched))
        for number in range(1, KILLS + 1):
            since = time.time()
            assert cluster.comet("kill", "worker-0").returncode == 0
            wait_until(
                lambda number=number: (
                    (row := cluster.replicas()["worker-0"])["restarts"] == number and row["state"] == "ready"
                )
            )
            wait_until(lambda number=number: len(heard) == number, what="Docker's word")
            wait_until(
                lambda since=since: all(each.changes[-1][1] == "up" and each.changes[-1][0] > since for each in watched)
            )
            again = parse(cluster.events("replica_ready", "worker-0")[-1]["at"]) or 0.0
            for lb, each in enumerate(watched):
                out = each.change("down", since)
                assert out is not None
                absences.append((f"lb-{lb}", out, again))
                delays.append(max(0.0, out - heard[-1] - each.blind(heard[-1], out)))
    assert asked_again(cluster, clients, absences) == [], "a dead worker was asked"
    failed = [seen for client in clients for seen in client.seen if seen.status != 200]
    assert failed == []
    assert {seen.worker for client in clients for seen in client.seen} == {"worker-0", "worker-1"}
    print(f"out of a rotation after {', '.join(f'{1000 * delay:.1f}' for delay in delays)} ms")
    assert statistics.median(delays) < PROMISED
    cluster.stop()
