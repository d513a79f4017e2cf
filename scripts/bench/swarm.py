"""`bench.sh swarm`: what the death of a node costs clients, beside the time that the swarm itself takes to notice it and to start its tasks
elsewhere; and what reading the swarm's manager costs.

Three machines in network namespaces, an engine in each (`tests/swarm/hosts.py`). A crowd of clients asks both load balancers on the first
one while one of the others is powered off: its engine, its containers and its network are gone at once, so nothing is refused or reset;
whoever waits for it waits in vain. Four workers at least, so that the victim has one.
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

from comet import base_image, image
from comet.cluster import Cluster
from comet.drivers.manager import Manager
from comet.wallclock import parse
from scripts.bench.chart import Chart
from scripts.bench.proc import BenchError
from scripts.bench.report import RESULTS, Report, finish, say
from scripts.bench.table import Table
from tests.integration.clusters import House, eventually, house
from tests.swarm.crowd import CLIENTS, Crowd
from tests.swarm.evidence import kept_where_it_fails
from tests.swarm.hosts import Hosts, hosts

IMAGE = "comet-bench:swarm"
WORKERS = 4
READINGS = 50
PATIENCE = 120.0
"""Seconds for whatever has to come about."""


@dataclass(frozen=True)
class Outcome:
    """One death. Seconds from the power's end: until no load balancer sent requests to the victim any more, until the swarm called the
    node down, until all workers were ready elsewhere. `longest_s` is what one request took at most, `lost` those not answered with 200."""

    out_s: float
    down_s: float
    back_s: float
    longest_s: float
    requests: int
    lost: dict[str, int]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="deaths at each heartbeat; default 3")
    parser.add_argument(
        "--heartbeats", type=float, nargs="+", default=[5.0, 1.0], metavar="S", help="the swarm's dispatcher heartbeat, s; default 5 1"
    )


def run(options: argparse.Namespace) -> int:
    if options.rounds < 1 or min(options.heartbeats) <= 0:
        raise BenchError("rounds and heartbeats must be above zero")
    report = Report("swarm", settings={"machines": 3, "workers": WORKERS, "clients": CLIENTS, "rounds": options.rounds})
    found: dict[float, list[Outcome]] = {}
    readings: list[list[Any]] = []
    with machines() as lab, tempfile.TemporaryDirectory(prefix="comet-bench-") as folder:
        manager = lab.swarm(options.heartbeats[0])
        with (
            cluster(lab, Path(folder)) as made,
            kept_where_it_fails(lab, RESULTS / "swarm-failed.txt", made.folder / ".comet/events.jsonl"),
        ):
            for heartbeat in options.heartbeats:
                _beat(manager, heartbeat)
                for number in range(options.rounds):
                    say(f"heartbeat {heartbeat:g} s, death {number + 1} of {options.rounds}")
                    found.setdefault(heartbeat, []).append(death(lab, made))
            for count in (WORKERS, 3 * WORKERS):
                _ask(made, "scale", f"worker={count}")
                readings.append([count, *reading(manager, made)])
            made.stop()
    _tell(report, found, readings)
    return finish(report, options.json)


@contextlib.contextmanager
def machines() -> Iterator[Hosts]:
    """Three machines with the worker's image on each."""
    source = docker.from_env()
    with contextlib.closing(source), tempfile.TemporaryDirectory() as folder:
        Cluster(Path(folder)).create()
        wanted = [image.ensure_image(source, Path(folder), say)]
        base = base_image.present(source)
        with hosts(3) as lab:
            lab.load(source, [*wanted, *([base.reference] if base is not None else [])])
            for number in lab.numbers:
                lab.client(number).images.get(wanted[0]).tag(*IMAGE.split(":"))
            yield lab


@contextlib.contextmanager
def cluster(lab: Hosts, folder: Path) -> Iterator[House]:
    """The worker as a service of one's own, without delay and faults: its counts lie in its task, and nobody asks for them."""
    command = "['--listen', '0.0.0.0:{port}', '--identity', 'container', '--no-faults']"
    own = {"worker_image": IMAGE, "worker_target_port": 8080, "worker_command": command, "avg_delay": None, "failure": None}
    environment = "{COMET_DATABASE: 'sqlite:////tmp/stats.db'}"
    with house(folder, runtime="swarm", worker=WORKERS, worker_environment=environment, **own) as made:
        made.command = (*lab.enter(1), *made.command)
        made.environment = {"DOCKER_HOST": lab.socket(1)}
        made.start()
        yield made


def death(lab: Hosts, made: House) -> Outcome:
    """Power off a node under load, and turn it on again."""
    _ask(made, "restart", "worker")  # Nothing else spreads tasks over a node that has come back.
    eventually(lambda: _well(made), PATIENCE, "all workers are well")
    victim = next(row["node"] for row in made.replicas().values() if row["role"] == "worker" and row["node"] != "h1")
    lost = {row["name"] for row in made.replicas().values() if row["node"] == victim}
    first = made.config["load-balancer-port"]
    seen, downs = len(made.events()), len(made.events("node_down"))
    with Crowd(lab, 1, [first, first + 1]) as clients:
        eventually(lambda: clients.answers["200"] > 100, PATIENCE)
        at, began = time.time(), time.monotonic()
        lab.power_off(int(victim[1:]))
        eventually(lambda: len(made.events("node_down")) > downs, PATIENCE, "the node is down")
        eventually(lambda: _left(made, victim) and _well(made), PATIENCE, "all workers are well elsewhere")
        time.sleep(0.5)
    since = [event for event in made.events()[seen:] if event.get("replica") in lost]
    # Where its successor serves before the load balancers are sure that it is dead, a worker just moves.
    out = [event for event in since if event["event"] in ("replica_unhealthy", "replica_exited", "replica_moved")]
    back = [event for event in since if event["event"] in ("replica_ready", "replica_moved")]
    down = made.events("node_down")[downs]
    lab.start(int(victim[1:]))
    eventually(lambda: len(made.events("node_ready")) > downs, PATIENCE, "the node is back")
    waits = [took for ended, took, _ in clients.moments if ended > began]
    return Outcome(_s(out[0], at), _s(down, at), max(_s(each, at) for each in back), max(waits), clients.answers.total(), clients.failures)


def reading(manager: docker.DockerClient, made: House) -> tuple[float, float]:
    """Median milliseconds of one look at service, tasks and nodes, and the CPU milliseconds that it takes here."""
    asked = Manager(manager, made.cluster_id or "")
    times, cpu = [], time.thread_time()
    for _ in range(READINGS):
        began = time.perf_counter()
        asked.read({})
        times.append(time.perf_counter() - began)
    return median(times) * 1000, (time.thread_time() - cpu) / READINGS * 1000


def _beat(manager: docker.DockerClient, heartbeat: float) -> None:
    manager.swarm.reload()
    manager.swarm.update(dispatcher_heartbeat_period=round(heartbeat * 1e9), task_history_retention_limit=5)
    # Nodes hear of another period with the answer to their next heartbeat.
    threading.Event().wait(10)


def _ask(made: House, *words: str) -> None:
    done = made.comet(*words)
    if done.returncode:
        raise BenchError(f"{' '.join(words)}: {done.stderr.strip()}")


def _well(made: House) -> bool:
    listed = made.ps()
    rows = [row for row in listed["replicas"] if row["role"] == "worker"]
    return all(row["state"] == "ready" for row in rows) and all(edge["healthy"] for edge in listed["edges"])


def _left(made: House, node: str) -> bool:
    return all(row["node"] not in (node, None) for row in made.replicas().values() if row["role"] == "worker")


def _s(event: dict[str, Any], since: float) -> float:
    return (parse(event["at"]) or since) - since


def _tell(report: Report, found: dict[float, list[Outcome]], readings: list[list[Any]]) -> None:
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
        times = [median(getattr(each, name) for each in outcomes) for name in ("out_s", "down_s", "back_s", "longest_s")]
        lost = sum(sum(each.lost.values()) for each in outcomes)
        table.rows.append([heartbeat, len(outcomes), *times, sum(each.requests for each in outcomes), lost])
    report.tables.append(table)
    report.tables.append(Table("One look at the manager", ["tasks", "ms", "CPU ms"], readings))
    every = [each for outcomes in found.values() for each in outcomes]
    lost = sum(sum(each.lost.values()) for each in every)
    report.passed = lost == 0
    report.notes.append(f"{lost} of {sum(each.requests for each in every):,} safe requests lost (goal: none)")
    report.data = {f"{heartbeat:g}": [vars(each) for each in outcomes] for heartbeat, outcomes in found.items()} | {"readings": readings}
    names = [f"heartbeat {heartbeat:g} s" for heartbeat in found]
    rows = [[row[2], row[3], row[4]] for row in table.rows]
    title = "A node powered off: seconds until it is out of rotation, down, replaced (median)"
    report.charts.append(Chart(title, "less is better", ["out of rotation", "node down", "ready elsewhere"], names, rows))
