"""`bench.sh swarm`: measures the cost of a node's death to clients, next to the time that the swarm takes to notice it
and to start the tasks elsewhere; and the cost of reading the swarm's manager.

Three machines in network namespaces, with an engine in each (`tests/swarm/hosts.py`). Clients send requests to both
load balancers on the first machine while one of the others is powered off: its engine, its containers and its network
disappear at once, so nothing is refused or reset; requests to it wait in vain. There are at least four workers, so that
the victim has one.
"""

import argparse
import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import docker

from comet.common.clock import parse
from comet.images import base_image, worker_image
from comet.report.model import Bars, Table
from comet.runtimes.swarm.manager import Manager
from comet.state.directory import Cluster
from scripts.bench.proc import BenchError
from scripts.bench.report import RESULTS, Result, begin, finish, say
from tests.support.cluster import TestCluster, open_cluster
from tests.support.waiting import wait_until
from tests.swarm.closed_model import CLIENTS, ClosedModel
from tests.swarm.evidence import save_evidence_on_failure
from tests.swarm.hosts import Hosts, hosts

IMAGE = "comet-bench:swarm"
WORKERS = 4
READINGS = 50
WAIT_TIMEOUT = 120.0
"""Seconds to wait for any change."""


@dataclass(frozen=True)
class Outcome:
    """One death.

    Seconds from the power-off until no load balancer sent requests to the victim, until the swarm reported the node
    down, until all workers were ready elsewhere. `longest_s` is the longest duration of a request, `lost` counts those
    not answered with 200.
    """

    out_s: float
    down_s: float
    back_s: float
    longest_s: float
    requests: int
    lost: dict[str, int]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="deaths at each heartbeat; default 3")
    parser.add_argument(
        "--heartbeats",
        type=float,
        nargs="+",
        default=[5.0, 1.0],
        metavar="S",
        help="the swarm's dispatcher heartbeat, s; default 5 1",
    )


def run(options: argparse.Namespace) -> int:
    if options.rounds < 1 or min(options.heartbeats) <= 0:
        raise BenchError("rounds and heartbeats must be above zero")
    report = begin("swarm")
    report.settings = {"machines": 3, "workers": WORKERS, "clients": CLIENTS, "rounds": options.rounds}
    found: dict[float, list[Outcome]] = {}
    readings: list[list[Any]] = []
    with machines() as lab, tempfile.TemporaryDirectory(prefix="comet-bench-") as folder:
        manager = lab.swarm(options.heartbeats[0])
        with (
            temporary_cluster(lab, Path(folder)) as test_cluster,
            save_evidence_on_failure(lab, RESULTS / "swarm-failed.txt", test_cluster.folder / ".comet/events.jsonl"),
        ):
            for heartbeat in options.heartbeats:
                _set_heartbeat(manager, heartbeat)
                for number in range(options.rounds):
                    say(f"heartbeat {heartbeat:g} s, death {number + 1} of {options.rounds}")
                    found.setdefault(heartbeat, []).append(death(lab, test_cluster))
            for count in (WORKERS, 3 * WORKERS):
                _run_command(test_cluster, "scale", f"worker={count}")
                readings.append([count, *reading(manager, test_cluster)])
            test_cluster.stop()
    _fill(report, found, readings)
    return finish(report, options.json)


@contextlib.contextmanager
def machines() -> Iterator[Hosts]:
    """Run three machines with the worker's image on each."""
    source = docker.from_env()
    with contextlib.closing(source), tempfile.TemporaryDirectory() as folder:
        Cluster(Path(folder)).create()
        wanted = [worker_image.ensure_image(source, Path(folder), say)]
        base = base_image.present(source)
        with hosts(3) as lab:
            lab.load(source, [*wanted, *([base.reference] if base is not None else [])])
            for number in lab.numbers:
                lab.client(number).images.get(wanted[0]).tag(*IMAGE.split(":"))
            yield lab


@contextlib.contextmanager
def temporary_cluster(lab: Hosts, folder: Path) -> Iterator[TestCluster]:
    """Run the worker as a custom service, without delay and faults; nothing reads its counts, which are in its task."""
    command = "['--listen', '0.0.0.0:{port}', '--identity', 'container', '--no-faults']"
    own = {
        "worker_image": IMAGE,
        "worker_target_port": 8080,
        "worker_command": command,
        "avg_delay": None,
        "failure": None,
    }
    environment = "{COMET_DATABASE: 'sqlite:////tmp/stats.db'}"
    with open_cluster(folder, runtime="swarm", worker=WORKERS, worker_environment=environment, **own) as cluster:
        cluster.command = (*lab.enter(1), *cluster.command)
        cluster.environment = {"DOCKER_HOST": lab.socket(1)}
        cluster.start()
        yield cluster


def death(lab: Hosts, cluster: TestCluster) -> Outcome:
    """Power off a node under load, and turn it on again."""
    _run_command(cluster, "restart", "worker")  # Nothing else spreads tasks over a node that has come back.
    wait_until(lambda: _all_ready(cluster), WAIT_TIMEOUT, "all workers are well")
    victim = next(row["node"] for row in cluster.replicas().values() if row["role"] == "worker" and row["node"] != "h1")
    lost = {row["name"] for row in cluster.replicas().values() if row["node"] == victim}
    first = cluster.config["load-balancer-port"]
    seen, downs = len(cluster.events()), len(cluster.events("node_down"))
    with ClosedModel(lab, 1, [first, first + 1]) as clients:
        wait_until(lambda: clients.answers["200"] > 100, WAIT_TIMEOUT)
        at, began = time.time(), time.monotonic()
        lab.power_off(int(victim[1:]))
        wait_until(lambda: len(cluster.events("node_down")) > downs, WAIT_TIMEOUT, "the node is down")
        wait_until(
            lambda: _has_no_tasks_on(cluster, victim) and _all_ready(cluster),
            WAIT_TIMEOUT,
            "all workers are well elsewhere",
        )
        time.sleep(0.5)
    since = [event for event in cluster.events()[seen:] if event.get("replica") in lost]
    # Where its successor serves before the load balancers are sure that it is dead, a worker just moves.
    out = [event for event in since if event["event"] in ("replica_unhealthy", "replica_exited", "replica_moved")]
    back = [event for event in since if event["event"] in ("replica_ready", "replica_moved")]
    down = cluster.events("node_down")[downs]
    lab.start(int(victim[1:]))
    wait_until(lambda: len(cluster.events("node_ready")) > downs, WAIT_TIMEOUT, "the node is back")
    waits = [took for ended, took, _ in clients.moments if ended > began]
    return Outcome(
        _seconds_since(out[0], at),
        _seconds_since(down, at),
        max(_seconds_since(each, at) for each in back),
        max(waits),
        clients.answers.total(),
        clients.failures,
    )


def reading(manager: docker.DockerClient, cluster: TestCluster) -> tuple[float, float]:
    """Return the median milliseconds of reading service, tasks and nodes once, and the CPU milliseconds that it costs
    here.
    """
    asked = Manager(manager, cluster.cluster_id or "")
    times, cpu = [], time.thread_time()
    for _ in range(READINGS):
        began = time.perf_counter()
        asked.read({})
        times.append(time.perf_counter() - began)
    return median(times) * 1000, (time.thread_time() - cpu) / READINGS * 1000


def _set_heartbeat(manager: docker.DockerClient, heartbeat: float) -> None:
    manager.swarm.reload()
    manager.swarm.update(dispatcher_heartbeat_period=round(heartbeat * 1e9), task_history_retention_limit=5)
    # Nodes learn of another period with the answer to their next heartbeat.
    threading.Event().wait(10)


def _run_command(cluster: TestCluster, *words: str) -> None:
    done = cluster.comet(*words)
    if done.returncode:
        raise BenchError(f"{' '.join(words)}: {done.stderr.strip()}")


def _all_ready(cluster: TestCluster) -> bool:
    listed = cluster.ps()
    rows = [row for row in listed["replicas"] if row["role"] == "worker"]
    return all(row["state"] == "ready" for row in rows) and all(edge["healthy"] for edge in listed["edges"])


def _has_no_tasks_on(cluster: TestCluster, node: str) -> bool:
    return all(row["node"] not in (node, None) for row in cluster.replicas().values() if row["role"] == "worker")


def _seconds_since(event: dict[str, Any], since: float) -> float:
    return (parse(event["at"]) or since) - since


def _fill(report: Result, found: dict[float, list[Outcome]], readings: list[list[Any]]) -> None:
    columns = [
        "swarm's heartbeat s",
        "deaths",
        "out of rotation s",
        "node down s",
        "ready elsewhere s",
        "longest request s",
        "requests",
        "lost",
    ]
    table = Table("A node powered off under load (medians; lost: all)", columns)
    for heartbeat, outcomes in found.items():
        times = [
            median(getattr(each, name) for each in outcomes) for name in ("out_s", "down_s", "back_s", "longest_s")
        ]
        lost = sum(sum(each.lost.values()) for each in outcomes)
        table.rows.append([heartbeat, len(outcomes), *times, sum(each.requests for each in outcomes), lost])
    report.parts.append(table)
    report.parts.append(Table("One look at the manager", ["tasks", "ms", "CPU ms"], readings))
    every = [each for outcomes in found.values() for each in outcomes]
    lost = sum(sum(each.lost.values()) for each in every)
    report.passed = lost == 0
    report.notes.append(f"{lost} of {sum(each.requests for each in every):,} safe requests lost (goal: none)")
    report.data = {f"{heartbeat:g}": [vars(each) for each in outcomes] for heartbeat, outcomes in found.items()} | {
        "readings": readings
    }
    names = [f"heartbeat {heartbeat:g} s" for heartbeat in found]
    rows = [[row[2], row[3], row[4]] for row in table.rows]
    title = "A node powered off: seconds until it is out of rotation, down, replaced (median)"
    report.parts.append(Bars(title, "less is better", ["out of rotation", "node down", "ready elsewhere"], names, rows))
