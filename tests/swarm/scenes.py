"""What the tests in a swarm of their own share: a cluster on one of its machines, and looks at it."""

import json
from collections.abc import Callable
from typing import Any

from tests.integration.clusters import House
from tests.swarm.crowd import Crowd
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


def at(lab: Hosts, made: House, number: int = 1) -> House:
    """Everything of this cluster happens on that machine."""
    made.command = (*lab.enter(number), *made.command[-2:])
    made.environment = {"DOCKER_HOST": lab.socket(number)}
    return made


def workers(made: House) -> dict[str, dict[str, Any]]:
    return {name: row for name, row in made.replicas().items() if row["role"] == "worker"}


def settled(made: House, count: int = 3) -> Callable[[], bool]:
    """Whether all workers are ready, each on a task of its own, and every load balancer finds them well."""

    def look() -> bool:
        listed = made.ps()
        rows = [row for row in listed["replicas"] if row["role"] == "worker"]
        well = [edge["healthy"] for edge in listed["edges"]]
        return len({row["id"] for row in rows if row["state"] == "ready"}) == count and len(well) == 2 * count and all(well)

    return look


def crowd(lab: Hosts, made: House, number: int = 1) -> Crowd:
    """Clients of both load balancers, on the machine on which these are."""
    first = made.config["load-balancer-port"]
    return Crowd(lab, number, [first, first + 1])


def counted(made: House) -> int:
    """TotalRequests over all workers."""
    return int(json.loads(made.comet("stats", "--json").stdout)["TotalRequests"][0]["total"])


def told(made: House, *arguments: str) -> str:
    """The one line of a command that fails."""
    done = made.comet(*arguments)
    assert done.returncode in (1, 2), done.stdout
    (line,) = done.stderr.strip().splitlines()
    return line
