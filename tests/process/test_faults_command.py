"""`faults` on a real cluster: in force within a second, kept by name, ended by itself."""

import json
import os
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
import requests

from tests.support.cluster import TestCluster
from tests.support.fault_orders import order
from tests.support.shared import SharedCluster
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def life(share_cluster: Callable[..., SharedCluster]) -> SharedCluster:
    return share_cluster(worker=2, pool=1, runtime="process", health_interval=1)


@pytest.fixture
def running(life: SharedCluster) -> TestCluster:
    """A cluster of two processes that has the faults of its config; it runs on for the next test."""
    return life.lend()


def ask(cluster: TestCluster, worker: int = 0) -> int:
    """The status that a worker answers, without a load balancer between."""
    return requests.get(f"{cluster.worker(worker)}/api/v1/hello", timeout=10).status_code


def listed(cluster: TestCluster, *arguments: str) -> dict[str, dict[str, Any]]:
    done = cluster.comet("faults", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return {worker["name"]: worker for worker in json.loads(done.stdout)["workers"]}


def test_a_fault_order_is_effective_at_once_and_kept(make_cluster: Callable[..., TestCluster], runtime: str) -> None:
    cluster = make_cluster(worker=2, runtime=runtime)
    cluster.start()
    before = cluster.replicas()
    order(cluster, "worker-0", "--failure", "100", "--status", "503")
    assert [ask(cluster, 0), ask(cluster, 1)] == [503, 200]
    order(cluster, "worker-0", "--avg-delay", "1")
    assert ask(cluster) == 503
    assert {name: row["id"] for name, row in cluster.replicas().items()} == {
        name: row["id"] for name, row in before.items()
    }
    assert cluster.comet("kill", "worker-0").returncode == 0
    wait_until(lambda: (row := cluster.replicas()["worker-0"])["restarts"] == 1 and row["state"] == "ready")
    assert ask(cluster) == 503
    assert cluster.comet("restart", "worker-0").returncode == 0
    assert ask(cluster) == 503
    os.kill(cluster.supervisor_pid(), signal.SIGKILL)
    wait_until(lambda: not cluster.ps()["supervisor"]["running"])
    assert cluster.comet("faults").returncode == 3
    cluster.start()
    assert ask(cluster) == 503
    assert (
        listed(cluster)["worker-0"]["settings"] | {"failure": 100.0, "status": 503, "avg-delay": 1.0}
        == listed(cluster)["worker-0"]["settings"]
    )
    order(cluster, "all", "--clear")
    assert [ask(cluster, 0), ask(cluster, 1)] == [200, 200]
    told = [(event.get("replica"), event["settings"], event["clear"]) for event in cluster.events("faults_changed")]
    assert told == [
        ("worker-0", {"failure": 100.0, "status": 503}, False), ("worker-0", {"avg-delay": 1.0}, False), (None, {},
        True),
    ]  # fmt: skip
    cluster.stop()
    cluster.assert_nothing_left()
    for arguments, code in (((), 3), (("--hang", "5"), 3), (("--hang", "500"), 2)):
        assert cluster.comet("faults", *arguments).returncode == code


def test_a_lease_ends_by_itself_also_when_the_supervisor_is_dead(running: TestCluster) -> None:
    began = time.monotonic()
    order(running, "--failure", "100", "--for", "6s")
    os.kill(running.supervisor_pid(), signal.SIGKILL)
    assert ask(running) == 500 or time.monotonic() - began > 6
    wait_until(lambda: ask(running) == 200, 10)
    assert time.monotonic() - began > 6
    wait_until(lambda: not running.ps()["supervisor"]["running"])
    running.start()


def test_the_next_requests_of_each_worker(running: TestCluster) -> None:
    cluster = running
    restarts = cluster.replicas()["worker-1"]["restarts"]
    order(cluster, "all", "--failure", "100", "--count", "2")
    assert [[ask(cluster, number) for _ in range(4)] for number in (0, 1)] == [[500, 500, 200, 200]] * 2
    order(cluster, "worker-1", "--failure", "100", "--count", "1")
    assert cluster.comet("kill", "worker-1").returncode == 0
    wait_until(lambda: (row := cluster.replicas()["worker-1"])["restarts"] == restarts + 1 and row["state"] == "ready")
    assert ask(cluster, 1) == 200  # A worker started later ignores it.
    order(cluster, "worker-0", "--failure", "100", "--count", "1")
    assert cluster.comet("scale", "worker=1").returncode == 0
    assert [ask(cluster), ask(cluster)] == [500, 200]
    assert cluster.comet("scale", "worker=2").returncode == 0


def test_the_rest_of_a_count_is_shown_and_its_end_is_an_event(running: TestCluster) -> None:
    cluster, before = running, len(running.events("faults_ended"))

    def left(name: str = "worker-0") -> list[int | None]:
        return [lease["count_left"] for lease in cluster.replicas()[name]["fault_orders"]["leases"]]

    order(cluster, "all", "--failure", "100", "--count", "3")
    wait_until(lambda: (left("worker-0"), left("worker-1")) == ([3], [3]))
    assert ask(cluster) == 500
    wait_until(lambda: left() == [2])
    assert [lease["count_left"] for lease in listed(cluster)["worker-0"]["leases"]] == [2]
    shown = [" ".join(line.split()) for line in cluster.comet("faults").stdout.splitlines()]
    assert "worker-0 failure 100 % 2 of 3 requests left" in shown
    assert len(cluster.events("faults_ended")) == before
    assert [ask(cluster), ask(cluster), ask(cluster)] == [500, 500, 200]
    wait_until(lambda: left() == [])
    assert left("worker-1") == [3]
    assert cluster.comet("kill", "worker-1").returncode == 0  # A worker started later ignores it.
    wait_until(lambda: left("worker-1") == [])
    ended = wait_until(lambda: found if len(found := cluster.events("faults_ended")[before:]) >= 2 else None)
    assert [(each["replica"], each["workers"], each["settings"]) for each in ended] == [
        (name, [name], {"failure": 100.0}) for name in ("worker-0", "worker-1")
    ]
    wait_until(lambda: cluster.replicas()["worker-1"]["state"] == "ready")


def test_the_listing(running: TestCluster) -> None:
    cluster = running
    cluster.write(faults="{worker-1: {cpu: 2}}")
    assert cluster.comet("reload").returncode == 0
    order(cluster, "worker-0", "--hang", "0.5", "--for", "60s")
    order(cluster, "worker-0", "--reset", "100", "--count", "3")
    order(cluster, "worker-0", "--slow-body", "10")
    assert cluster.replicas()["worker-0"]["faults"]["slow-body"] == 10  # At once, not a second later.
    lines = [" ".join(line.split()) for line in cluster.comet("faults").stdout.splitlines()]
    assert lines[0] == "WORKER SETTING VALUE FROM"
    assert "worker-0 avg-delay 5 ms config.yaml" in lines
    assert "worker-0 slow-body 10 B/s command" in lines
    assert any(line.startswith("worker-0 hang 0.5 % command, ") and line.endswith(" s left") for line in lines)
    # Until the worker has said how many are left of them.
    reset = r"worker-0 reset 100 % (the first 3 requests since .*|3 of 3 requests left)"
    assert any(re.fullmatch(reset, line) for line in lines), lines
    assert "worker-1 cpu 2 ms config.yaml" in lines
    assert list(listed(cluster, "worker-1")) == ["worker-1"]
    shown = cluster.comet("events").stdout
    assert "worker-0 faults: hang=0.5 for 60 s" in shown
    assert "worker-0 faults: reset=100 for the next 3 requests" in shown
    cluster.stop()
    cluster.start()
    assert all(
        "command" not in line for line in cluster.comet("faults").stdout.splitlines()
    )  # A new life begins with the config.


def test_faults_of_single_workers_in_the_config_reload_live(running: TestCluster) -> None:
    cluster = running
    before = cluster.replicas()
    cluster.write(faults="{worker-1: {failure: 100, status: 502}}")
    assert cluster.comet("reload").stdout == "changed faults\n"
    wait_until(lambda: [ask(cluster, 0), ask(cluster, 1)] == [200, 502], 5)
    cluster.write(faults="{worker-0: {failure: 100}}")
    assert cluster.comet("reload").stdout == "changed faults\n"
    wait_until(lambda: [ask(cluster, 0), ask(cluster, 1)] == [500, 200], 5)
    order(cluster, "worker-0", "--failure", "0")
    cluster.write(faults="{worker-0: {failure: 50}}", failure=100)
    assert cluster.comet("reload").stdout == "changed failure 0 → 100, faults\n"
    wait_until(lambda: [ask(cluster, 0), ask(cluster, 1)] == [200, 500], 5)  # What was ordered stays ordered.
    cluster.write(faults="{worker-2: {failure: 50}}")
    refused = cluster.comet("reload")
    assert refused.returncode == 2
    assert "faults.worker-2: no such worker (allowed: worker-0 to worker-1, or front)" in refused.stderr
    assert {name: row["id"] for name, row in cluster.replicas().items()} == {
        name: row["id"] for name, row in before.items()
    }
    cluster.write(faults=None, failure=0)
    assert cluster.comet("reload").returncode == 0


def test_a_seed_in_the_config_repeats_what_each_worker_does(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=2, pool=1, runtime="process", failure=50, avg_delay=0, seed=7)
    lives = []
    for _ in range(2):
        cluster.start()
        lives.append([[ask(cluster, number) for _ in range(24)] for number in (0, 1)])
        cluster.stop()
    assert lives[0] == lives[1]
    first, second = lives[0]
    assert set(first) == set(second) == {200, 500}
    assert first != second


def test_what_is_refused(running: TestCluster) -> None:
    cluster, before = running, running.events("faults_changed")
    for arguments, said in [
        (
            ["worker-7", "--hang", "5"],
            "faults: worker-7: no such worker (there are worker-0, worker-1); nothing was changed\n",
        ),
        (["lb-0", "--hang", "5"], "faults: lb-0: no such worker"),
        (["--hang", "-5"], "faults: hang: -5 is out of range (allowed: percent, from 0 to 100); nothing was changed\n"),
        (["--for", "5s"], "faults: no fault is named"),
        (["--hang", "5", "--for", "ever"], "faults: for: ever is not usable"),
        (["--hnag", "5"], "supervisor.py: unrecognized arguments: --hnag"),
    ]:
        done = cluster.comet("faults", *arguments)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert done.stderr.startswith(said)
        assert len(done.stderr.splitlines()) == 1
    assert cluster.events("faults_changed") == before


def test_orders_at_once_from_many_hands_are_all_kept(running: TestCluster) -> None:
    settings = ["--hang", "--reset", "--truncate", "--failure", "--cpu", "--memory"]
    orders = [(f"worker-{number}", name, "0.25") for name in settings for number in (0, 1)]
    with ThreadPoolExecutor(len(orders)) as hands:
        done = list(hands.map(lambda each: running.comet("faults", *each).returncode, orders))
    assert done == [0] * len(orders)
    for worker in listed(running).values():
        assert {name: worker["settings"][name.removeprefix("--")] for name in settings} == dict.fromkeys(settings, 0.25)
    assert psutil.pid_exists(running.supervisor_pid())
