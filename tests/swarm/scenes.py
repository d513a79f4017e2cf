"""What the tests in a swarm of their own share: a cluster on one of its machines, and looks at it."""

import contextlib
import json
import socket
from collections.abc import Callable
from typing import Any

from tests.support.cluster import TestCluster
from tests.support.waiting import wait_until
from tests.swarm.closed_model import ClosedModel
from tests.swarm.hosts import Hosts

IMAGE = "comet-test:1"
OWN = {
    "runtime": "swarm",
    "worker_image": IMAGE,
    "worker_target_port": 8080,
    "worker_command": "['--listen', '0.0.0.0:{port}', '--identity', 'container']",
    "worker_environment": "{COMET_DATABASE: 'sqlite:////tmp/stats.db'}",
    "avg_delay": None,
    "failure": None,
}
"""The same application, as somebody's own service."""


PAUSE = 0.1
"""Seconds between a client's answer and its next request: three machines share the processors with them."""


def on_machine(lab: Hosts, cluster: TestCluster, number: int = 1) -> TestCluster:
    """Everything of this cluster happens on that machine."""
    cluster.command = (*lab.enter(number), *cluster.command[-2:])
    cluster.environment = {"DOCKER_HOST": lab.socket(number)}
    return cluster


def listens(lab: Hosts, address: str) -> bool:
    """Whether somebody takes connections at HOST:PORT, as seen from h1."""
    host, _, port = address.partition(":")

    def connects() -> bool:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=5):
            return True
        return False

    return lab.within(1, connects)


def nothing_runs_on(lab: Hosts, number: int) -> bool:
    """Whether that machine has no running container. `containers.list` of the SDK asks for each one that it was told
    of, and fails where one has gone in between.
    """
    return not lab.client(number).api.containers()


def workers(cluster: TestCluster) -> dict[str, dict[str, Any]]:
    return {name: row for name, row in cluster.replicas().items() if row["role"] == "worker"}


def start_everywhere(cluster: TestCluster) -> None:
    """Start it, with a worker on every machine."""
    cluster.start()
    spread(cluster)


def spread(cluster: TestCluster, nodes: frozenset[str] = frozenset({"h1", "h2", "h3"})) -> None:
    """Wait until every one of these nodes has a worker.

    A start places one on each node that the manager hears of in time, and moves nothing back afterwards. A restart or
    a rolling reload starts each new task next to the old ones, so that it may leave a node without one: about one in
    ten does. Another restart places them again.
    """

    def everywhere() -> bool:
        if nodes <= {row["node"] for row in workers(cluster).values()}:
            return True
        done = cluster.comet("restart", "worker")
        assert done.returncode == 0, done.stderr
        return False

    wait_until(everywhere, 120, f"a worker on each of {', '.join(sorted(nodes))}")


def all_ready(cluster: TestCluster, count: int = 3) -> Callable[[], bool]:
    """Whether all workers are ready, each on a task of its own, and every load balancer finds them healthy."""

    def poll() -> bool:
        listed = cluster.ps()
        rows = [row for row in listed["replicas"] if row["role"] == "worker"]
        well = [edge["healthy"] for edge in listed["edges"]]
        return (
            len({row["id"] for row in rows if row["state"] == "ready"}) == count
            and len(well) == 2 * count
            and all(well)
        )

    return poll


def clients_of(lab: Hosts, cluster: TestCluster, number: int = 1) -> ClosedModel:
    """Clients of both load balancers, on the machine on which these are."""
    first = cluster.config["load-balancer-port"]
    return ClosedModel(lab, number, [first, first + 1], pause=PAUSE)


def total_requests(cluster: TestCluster) -> int:
    """TotalRequests over all workers."""
    return int(json.loads(cluster.comet("stats", "--json").stdout)["TotalRequests"][0]["total"])


def error_line(cluster: TestCluster, *arguments: str) -> str:
    """The one line of a command that fails, without the progress (indented) of one that takes long."""
    done = cluster.comet(*arguments)
    assert done.returncode in (1, 2), done.stdout
    (line,) = [line for line in done.stderr.strip("\n").splitlines() if not line.startswith("  ")]
    return line
