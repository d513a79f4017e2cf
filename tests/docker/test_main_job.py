"""The main job on real containers and real processes: everything that the README promises of one cluster's ordinary
life.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import psutil
import pytest
import requests

from tests.support.cluster import TestCluster, open_cluster
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    """Three workers, two load balancers, one start for all tests that only look."""
    # A check that a busy machine does not answer in time would take a worker out.
    with open_cluster(tmp_path_factory.mktemp("cluster"), worker=3, failure=0, health_timeout=20) as cluster:
        cluster.start()
        yield cluster
        cluster.stop()
        cluster.assert_nothing_left()


def test_every_worker_answers_in_turn_beginning_with_the_first(running: TestCluster) -> None:
    for balancer in (0, 1):
        answers = [running.hello(balancer).json()["message"] for _ in range(12)]
        ids = [running.replicas()[f"worker-{number}"]["id"] for number in range(3)]
        assert answers == [f"hello from container: {each}" for each in ids] * 4


def test_statistics_have_their_shape_and_count_exactly(running: TestCluster) -> None:
    before = running.counts()["total"]
    for number in range(10):
        assert running.hello(number % 2).status_code == 200
    answer = requests.get(f"{running.lb(1)}/worker/stats", timeout=60)
    stats = json.loads(answer.text)
    assert list(stats) == ["SuccessfulRequests", "FailedRequests", "TotalRequests", "AverageResponseTime"]
    assert all(
        list(entries[0]) == ["total"] and all(len(entry) == 1 for entry in entries) for entries in stats.values()
    )
    ids = {running.replicas()[f"worker-{number}"]["id"] for number in range(3)}
    assert {key for entry in stats["TotalRequests"][1:] for key in entry} == ids
    assert running.counts()["total"] - before == 10
    listed = json.loads(running.comet("stats", "--json").stdout)
    assert listed == stats


def test_ps_lists_processes_and_containers_side_by_side(running: TestCluster) -> None:
    listed = running.ps()
    assert set(listed["supervisor"]) >= {"pid", "running", "uptime_s", "version"}
    assert listed["supervisor"]["running"] is True
    assert wait_until(lambda: running.ps()["supervisor"]["cpu_percent"] is not None)
    alone = psutil.Process(listed["supervisor"]["pid"]).memory_info
    wait_until(
        lambda: running.ps()["supervisor"]["memory_bytes"] == pytest.approx(alone().rss, rel=0.2),
        what="its memory, without that of what it has started",
    )
    assert [(row["name"], row["role"], row["kind"], row["state"], row["restarts"]) for row in listed["replicas"]] == [
        ("lb-0", "lb", "process", "ready", 0), ("lb-1", "lb", "process", "ready", 0),
        ("worker-0", "worker", "container", "ready", 0), ("worker-1", "worker", "container", "ready", 0),
        ("worker-2", "worker", "container", "ready", 0),
    ]  # fmt: skip
    for row in listed["replicas"]:
        assert psutil.pid_exists(row["pid"])
        assert row["memory_bytes"] > 5_000_000
        assert row["cpu_percent"] is not None
        assert row["port"] > 0
        assert (row["id"] == str(row["pid"])) if row["kind"] == "process" else re.fullmatch(r"[0-9a-f]{12}", row["id"])
    table = running.comet("ps").stdout
    assert len(table.splitlines()) == 7
    assert re.search(r"^worker-1 +container +[0-9a-f]{12} +\d+ +\d+ +ready +ok +0 ", table, re.MULTILINE)


def test_lbs_are_processes_without_the_control_plane(running: TestCluster) -> None:
    for number in (0, 1):
        row = running.replicas()[f"lb-{number}"]
        process = psutil.Process(row["pid"])
        assert process.cmdline()[0].startswith(f"comet: lb-{number} :{row['port']}")
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        assert "psutil" not in maps
        assert "uvloop" in maps


def test_workers_are_locked_down(running: TestCluster) -> None:
    client = docker.from_env()
    for container in running.containers():
        made = client.api.inspect_container(container)
        host = made["HostConfig"]
        assert made["Config"]["User"] not in ("", "0", "root", "0:0")
        assert host["ReadonlyRootfs"] is True
        assert host["CapDrop"] == ["ALL"]
        assert "no-new-privileges" in host["SecurityOpt"]
        assert host["Memory"] == 256 * 1024**2
        assert host["PidsLimit"] > 0
        assert host["Init"] is True
        assert {binding["HostIp"] for bindings in host["PortBindings"].values() for binding in bindings} == {
            "127.0.0.1"
        }
        assert all(mount["Destination"] in ("/data", "/faults") for mount in made["Mounts"])
        assert [mount["RW"] for mount in sorted(made["Mounts"], key=lambda mount: mount["Destination"])] == [
            True,
            False,
        ]
    client.close()


def test_sqlite3_reads_the_database_where_the_config_says(running: TestCluster) -> None:
    import sqlite3

    link = running.folder / "worker-stats.db"
    assert link.is_symlink()
    assert link.resolve().parent == running.folder / ".comet/stats"
    with sqlite3.connect(f"file:{link}?mode=ro", uri=True) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_second_supervisor_is_refused_and_names_the_first(running: TestCluster) -> None:
    done = running.comet("run")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        (
            f"{running.folder}: a supervisor is running already (PID {running.supervisor_pid()}); stop it with: python "
            "supervisor.py stop"
        )
    ]


def test_a_second_cluster_on_the_same_ports_names_the_holders(
    running: TestCluster, make_cluster: Callable[..., TestCluster]
) -> None:
    other = make_cluster(worker=1, pool=1)
    other.write(load_balancer_port=running.config["load-balancer-port"], worker_port=running.config["worker-port"])
    done = other.comet("run")
    assert done.returncode == 2
    balancer, worker = sorted(done.stderr.splitlines())
    assert re.match(r"config.yaml:\d+: load-balancer-port: port \d+ is taken by .*\(PID \d+\)", balancer)
    assert re.match(r"config.yaml:\d+: worker-port: port \d+ is taken by .*\(PID \d+\)", worker)
    assert other.containers() == []
    assert other.processes() == []


def test_logs_and_events_show_both_kinds(running: TestCluster) -> None:
    for name in ("worker-0", "lb-0"):
        done = running.comet("logs", name)
        assert done.returncode == 0
        assert done.stdout.strip()
    shown = running.comet("events").stdout
    assert "worker-0 ready after " in shown
    assert "lb-1 ready after " in shown
    for event in running.events("replica_ready"):
        assert event["start_ms"] > 0
    assert running.comet("logs", "lb-9").returncode == 2


def test_load_balancers_started_only_when_all_workers_were_ready(running: TestCluster) -> None:
    events = running.events()
    order = [(event["event"], event.get("replica", "")) for event in events]
    first_lb = next(
        index for index, (name, who) in enumerate(order) if name == "replica_starting" and who.startswith("lb")
    )
    ready = {who for name, who in order[:first_lb] if name == "replica_ready"}
    assert ready == {"worker-0", "worker-1", "worker-2"}


def test_clean_is_refused_while_it_runs(running: TestCluster) -> None:
    done = running.comet("clean")
    assert done.returncode == 1
    assert "stop it first" in done.stderr
