"""How soon a dead worker is out of the rotation: seen at the load balancers themselves, told from Docker's own word of the death."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from comet.cluster import Cluster
from lb import messages
from tests.integration.clusters import House, eventually

pytestmark = [pytest.mark.docker, pytest.mark.slow]

PROMISED = 0.050  # seconds
KILLS = 3


class Watched(threading.Thread):
    """Asks one load balancer over and over how it sees worker-0, and notes when that changes."""

    def __init__(self, cluster: Cluster, control: str) -> None:
        super().__init__(daemon=True)
        self._peer = cluster.connect(control)
        self._decoder = messages.Decoder()
        self.over = threading.Event()
        self.changes: list[tuple[float, str]] = []

    def run(self) -> None:
        with closing(self._peer):
            while not self.over.is_set():
                state = self._ask()
                if not self.changes or self.changes[-1][1] != state:
                    self.changes.append((time.time(), state))
                time.sleep(0.001)

    def _ask(self) -> str:
        self._peer.sendall(messages.encode(messages.status()))
        while True:
            for message in self._decoder.feed(self._peer.recv(65536)):
                if message["type"] == "status":
                    return str(next(each["state"] for each in message["upstreams"] if each["name"] == "worker-0"))


@contextmanager
def watching(house: House) -> Iterator[list[Watched]]:
    records = json.loads((house.folder / ".comet/state.json").read_text())["replicas"]
    cluster = Cluster(house.folder)
    watched = [Watched(cluster, record["control"]) for record in records if record["role"] == "lb"]
    for each in watched:
        each.start()
    try:
        eventually(lambda: all(each.changes for each in watched))
        yield watched
    finally:
        for each in watched:
            each.over.set()
            each.join(10)


def test_a_dead_worker_is_out_of_every_rotation_within_50_ms_of_dockers_word(make_house: Callable[..., House]) -> None:
    """Of several kills the quickest counts: a machine that does something else just then says nothing about us."""
    house = make_house(worker=2, pool=2, restart_stable=1)
    house.start()
    delays: list[float] = []
    with watching(house) as watched, house.engine() as engine:
        container = house.replicas()["worker-0"]["id"]
        for number in range(1, KILLS + 1):
            since = time.time()
            assert house.comet("kill", "worker-0").returncode == 0
            eventually(lambda number=number: (row := house.replicas()["worker-0"])["restarts"] == number and row["state"] == "ready")
            filters = {"container": container, "event": "die"}
            (died,) = engine.api.events(since=since, until=time.time(), filters=filters, decode=True)
            out = [next(at for at, state in each.changes if at > since and state == "down") for each in watched]
            delays.append(max(out) - died["timeNano"] / 1e9)
            eventually(lambda: all(each.changes[-1][1] == "up" for each in watched))
    print(f"out of every rotation after {', '.join(f'{1000 * delay:.1f}' for delay in delays)} ms")
    assert min(delays) < PROMISED
    house.stop()
