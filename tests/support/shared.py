"""A cluster that the tests of a file take in turn: each finds it as it was made, also after a test that failed.

A start costs more than most tests do. What a test changes on purpose (faults, config, a supervisor that it killed) is
set right before the next one; a cluster that does not come back to what it was is ended, and another takes its place.
"""

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from comet.faults.files import orders
from comet.state.directory import Cluster
from tests.support.cluster import TestCluster, open_cluster
from tests.support.fault_orders import order
from tests.support.waiting import wait_until

COMES_BACK_WITHIN = 2.5
"""Seconds of a quiet machine that the end of a restart, a backoff or a drain may take; another cluster takes little
longer.
"""


class SharedCluster:
    """One started cluster after another, all of one config, each for as long as the tests leave it sound."""

    def __init__(self, make_folder: Callable[[], Path], config: dict[str, Any]) -> None:
        self._make_folder, self._config = make_folder, config
        self._ends = contextlib.ExitStack()
        self._cluster: TestCluster | None = None
        self._file = b""
        self._written: dict[str, Any] = {}
        self._names: set[str] = set()
        self._reloads = 0

    def lend(self) -> TestCluster:
        """Return the cluster, running with all of its replicas ready, with its config and without faults."""
        if self._cluster is None or not self._is_restored(self._cluster):
            self._ends.close()
            self._cluster = None  # Also where the next one does not start.
            made = self._ends.enter_context(open_cluster(self._make_folder(), **self._config))
            made.start()
            self._cluster, self._names, self._reloads = made, set(made.replicas()), 0
            self._file = (made.folder / "config.yaml").read_bytes()
            self._written = dict(made.config)
        return self._cluster

    def _is_restored(self, cluster: TestCluster) -> bool:
        file = cluster.folder / "config.yaml"
        try:
            reloads = len(cluster.events("reloaded"))
            is_changed = file.read_bytes() != self._file or reloads > self._reloads
            file.write_bytes(self._file)
            cluster.config = dict(self._written)
            if not cluster.ps()["supervisor"]["running"]:
                cluster.start()
            elif is_changed and cluster.comet("reload").returncode:
                return False
            self._reloads = len(cluster.events("reloaded"))
            # The file, as a supervisor that has just started does not show the faults yet.
            ordered = orders(Cluster(cluster.folder))
            if any(each.settings or each.leases for each in ordered.values()):
                order(cluster, "all", "--clear")
            if not _is_calm(cluster.ps()):
                return False
            wait_until(lambda: self._is_ready(cluster.replicas()), COMES_BACK_WITHIN, "it is as it was made")
        except (AssertionError, OSError, subprocess.TimeoutExpired):
            return False
        return True

    def _is_ready(self, rows: dict[str, dict[str, Any]]) -> bool:
        return set(rows) == self._names and {row["state"] for row in rows.values()} == {"ready"}

    def close(self, after_a_failure: bool) -> None:
        """End it. Where no test has failed, a stop leaves nothing of it."""
        with self._ends:
            if self._cluster is not None and not after_a_failure and self._cluster.ps()["supervisor"]["running"]:
                self._cluster.stop()
                self._cluster.assert_nothing_left()


def _is_calm(seen: dict[str, Any]) -> bool:
    """Nobody has ordered a pause or a drain, which only an order ends."""
    return not seen["total"]["paused"] and not any(row["drained"] for row in seen["replicas"])


@contextlib.contextmanager
def shared_cluster(
    request: pytest.FixtureRequest, make_folder: Callable[[], Path], **config: Any
) -> Iterator[SharedCluster]:
    """A shared cluster for a fixture of a module, made when the first test takes it."""
    failed = request.session.testsfailed
    shared = SharedCluster(make_folder, config)
    try:
        yield shared
    finally:
        shared.close(request.session.testsfailed > failed)
