"""Measures when a dead worker is out of the rotation of every load balancer, from Docker's own report of the death."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

from comet.engine import connection as engine
from comet.state.directory import Cluster
from lb.interface import messages
from scripts.bench.proc import BenchError, wait_for


class Watched(threading.Thread):
    """Polls one load balancer for its view of a worker, and records changes: `changes` has wall-clock times and words,
    `looks` the times of all polls.
    """

    def __init__(self, cluster: Cluster, control: str, worker: str) -> None:
        super().__init__(daemon=True)
        self._peer = cluster.connect(control)
        self._worker = worker
        self._decoder = messages.Decoder()
        self.over = threading.Event()
        self.changes: list[tuple[float, str]] = []
        self.looks: list[float] = []

    def run(self) -> None:
        with closing(self._peer):
            while not self.over.is_set():
                state = self._ask()
                self.looks.append(time.time())
                if not self.changes or self.changes[-1][1] != state:
                    self.changes.append((self.looks[-1], state))
                time.sleep(0.001)

    def _ask(self) -> str:
        self._peer.sendall(messages.encode(messages.status()))
        while True:
            data = self._peer.recv(65536)
            if not data:
                raise BenchError("the load balancer closed the connection")
            for message in self._decoder.feed(data):
                if message["type"] == "status":
                    return str(next(each["state"] for each in message["upstreams"] if each["name"] == self._worker))

    def change(self, state: str, after: float) -> float | None:
        """Return when this state was first seen after that time; None if not yet."""
        return next((at for at, each in self.changes if at > after and each == state), None)

    def blind(self, begin: float, end: float) -> float:
        """Return the longest time without a poll between two times: a delay of the machine affects the load balancer
        too.
        """
        looks = [begin, *(at for at in self.looks if begin < at < end), end]
        return max(later - earlier for earlier, later in pairwise(looks))


@contextmanager
def watching(folder: Path, worker: str) -> Iterator[list[Watched]]:
    """Watch a worker through every load balancer of the cluster in a folder."""
    records = json.loads((folder / ".comet" / "state.json").read_text())["replicas"]
    cluster = Cluster(folder)
    watched = [Watched(cluster, record["control"], worker) for record in records if record["role"] == "lb"]
    for each in watched:
        each.start()
    try:
        wait_for(lambda: all(each.changes for each in watched), 10, "every load balancer has been asked")
        yield watched
    finally:
        for each in watched:
            each.over.set()
            each.join(10)


def out_after(watched: list[Watched], container: str, since: float) -> float | None:
    """Return the seconds from Docker's die event after `since` until the last load balancer had the worker out of its
    rotation.

    Infinite if one did not. None if Docker reports no death.
    """
    out = [each.change("down", since) for each in watched]
    with closing(engine.connect()) as client:
        filters = {"container": container, "event": "die"}
        died: list[dict[str, Any]] = list(
            client.api.events(since=since, until=time.time(), filters=filters, decode=True)
        )
    if not died:
        return None
    return max(inf if at is None else at for at in out) - died[0]["timeNano"] / 1e9
