"""`faults` on a real cluster: in force within a second, kept by name, ended by itself."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest
import requests

from tests.integration.clusters import House, eventually

pytestmark = [pytest.mark.docker, pytest.mark.slow]


def ask(house: House, worker: int = 0) -> int:
    """The status that a worker answers, without a load balancer between."""
    return requests.get(f"{house.worker(worker)}/api/v1/hello", timeout=10).status_code


def order(house: House, *arguments: str) -> None:
    done = house.comet("faults", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def listed(house: House, *arguments: str) -> dict[str, dict[str, Any]]:
    done = house.comet("faults", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return {worker["name"]: worker for worker in json.loads(done.stdout)["workers"]}


def test_an_order_is_in_force_when_the_command_returns_and_outlives_restarts(make_house: Callable[..., House], runtime: str) -> None:
    house = make_house(worker=2, runtime=runtime)
    house.start()
    before = house.replicas()
    order(house, "worker-0", "--failure", "100", "--status", "503")
    assert [ask(house, 0), ask(house, 1)] == [503, 200]
    order(house, "worker-0", "--avg-delay", "1")
    assert ask(house) == 503
    assert {name: row["id"] for name, row in house.replicas().items()} == {name: row["id"] for name, row in before.items()}
    assert house.comet("kill", "worker-0").returncode == 0
    eventually(lambda: (row := house.replicas()["worker-0"])["restarts"] == 1 and row["state"] == "ready")
    assert ask(house) == 503
    assert house.comet("restart", "worker-0").returncode == 0
    assert ask(house) == 503
    os.kill(house.supervisor_pid(), signal.SIGKILL)
    eventually(lambda: not house.ps()["supervisor"]["running"])
    assert house.comet("faults").returncode == 3
    house.start()
    assert ask(house) == 503
    assert (
        listed(house)["worker-0"]["settings"] | {"failure": 100.0, "status": 503, "avg-delay": 1.0} == listed(house)["worker-0"]["settings"]
    )
    order(house, "all", "--clear")
    assert [ask(house, 0), ask(house, 1)] == [200, 200]
    told = [(event.get("replica"), event["settings"], event["clear"]) for event in house.events("faults_changed")]
    assert told == [
        ("worker-0", {"failure": 100.0, "status": 503}, False), ("worker-0", {"avg-delay": 1.0}, False), (None, {}, True),
    ]  # fmt: skip
    house.stop()
    house.assert_nothing_left()


def test_a_lease_ends_by_itself_also_when_the_supervisor_is_dead(make_house: Callable[..., House], runtime: str) -> None:
    house = make_house(worker=1, runtime=runtime)
    house.start()
    order(house, "--failure", "100", "--for", "6s")
    until = time.monotonic() + 6
    os.kill(house.supervisor_pid(), signal.SIGKILL)
    assert ask(house) == 500
    eventually(lambda: ask(house) == 200, 10)
    assert -1 < time.monotonic() - until < 1.5
    house.start()
    house.stop()


def test_the_next_requests_of_each_worker(make_house: Callable[..., House]) -> None:
    house = make_house(worker=2, runtime="process")
    house.start()
    order(house, "all", "--failure", "100", "--count", "2")
    assert [[ask(house, number) for _ in range(4)] for number in (0, 1)] == [[500, 500, 200, 200]] * 2
    order(house, "worker-1", "--failure", "100", "--count", "1")
    assert house.comet("kill", "worker-1").returncode == 0
    eventually(lambda: (row := house.replicas()["worker-1"])["restarts"] == 1 and row["state"] == "ready")
    assert ask(house, 1) == 200  # A worker started later ignores it.
    order(house, "worker-0", "--failure", "100", "--count", "1")
    assert house.comet("scale", "worker=1").returncode == 0
    assert [ask(house), ask(house)] == [500, 200]
    house.stop()


def test_the_listing(make_house: Callable[..., House]) -> None:
    house = make_house(worker=2, pool=1, runtime="process", faults="{worker-1: {cpu: 2}}")
    house.start()
    order(house, "worker-0", "--hang", "0.5", "--for", "60s")
    order(house, "worker-0", "--reset", "100", "--count", "3")
    order(house, "worker-0", "--slow-body", "10")
    lines = [" ".join(line.split()) for line in house.comet("faults").stdout.splitlines()]
    assert lines[0] == "WORKER SETTING VALUE FROM"
    assert "worker-0 avg-delay 5 ms config.yaml" in lines
    assert "worker-0 slow-body 10 B/s command" in lines
    assert any(line.startswith("worker-0 hang 0.5 % command, ") and line.endswith(" s left") for line in lines)
    assert any(line.startswith("worker-0 reset 100 % the first 3 requests since ") for line in lines)
    assert "worker-1 cpu 2 ms config.yaml" in lines
    assert list(listed(house, "worker-1")) == ["worker-1"]
    shown = house.comet("events").stdout
    assert "worker-0 faults: hang=0.5 for 60 s" in shown
    assert "worker-0 faults: reset=100 for the next 3 requests" in shown
    house.stop()
    house.start()
    assert all("command" not in line for line in house.comet("faults").stdout.splitlines())  # A new life begins with the config.
    house.stop()


def test_the_config_names_faults_of_single_workers_and_reload_applies_them_live(make_house: Callable[..., House], runtime: str) -> None:
    house = make_house(worker=2, runtime=runtime, faults="{worker-1: {failure: 100, status: 502}}")
    house.start()
    before = house.replicas()
    assert [ask(house, 0), ask(house, 1)] == [200, 502]
    house.write(faults="{worker-0: {failure: 100}}")
    assert house.comet("reload").stdout == "changed faults\n"
    eventually(lambda: [ask(house, 0), ask(house, 1)] == [500, 200], 1.5)
    order(house, "worker-0", "--failure", "0")
    house.write(faults="{worker-0: {failure: 50}}", failure=100)
    assert house.comet("reload").stdout == "changed failure, faults\n"
    eventually(lambda: [ask(house, 0), ask(house, 1)] == [200, 500], 1.5)  # What was ordered stays ordered.
    house.write(faults="{worker-2: {failure: 50}}")
    refused = house.comet("reload")
    assert refused.returncode == 2
    assert "faults.worker-2: no such worker (allowed: worker-0 to worker-1)" in refused.stderr
    assert {name: row["id"] for name, row in house.replicas().items()} == {name: row["id"] for name, row in before.items()}
    house.stop()


def test_a_seed_in_the_config_repeats_what_each_worker_does(make_house: Callable[..., House]) -> None:
    house = make_house(worker=2, pool=1, runtime="process", failure=50, avg_delay=0, seed=7)
    lives = []
    for _ in range(2):
        house.start()
        lives.append([[ask(house, number) for _ in range(24)] for number in (0, 1)])
        house.stop()
    assert lives[0] == lives[1]
    first, second = lives[0]
    assert set(first) == set(second) == {200, 500}
    assert first != second


def test_what_is_refused(make_house: Callable[..., House]) -> None:
    house = make_house(worker=1, pool=1, runtime="process")
    assert house.comet("faults").returncode == 3
    assert house.comet("faults", "--hang", "5").returncode == 3
    assert house.comet("faults", "--hang", "500").returncode == 2
    house.start()
    for arguments, said in [
        (["worker-7", "--hang", "5"], "faults: worker-7: no such worker (there are worker-0); nothing was changed\n"),
        (["lb-0", "--hang", "5"], "faults: lb-0: no such worker"),
        (["--hang", "-5"], "faults: hang: -5 is out of range (allowed: percent, from 0 to 100); nothing was changed\n"),
        (["--for", "5s"], "faults: no fault is named"),
        (["--hang", "5", "--for", "ever"], "faults: for: ever is not usable"),
        (["--hnag", "5"], "supervisor.py: unrecognized arguments: --hnag"),
    ]:
        done = house.comet("faults", *arguments)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert done.stderr.startswith(said)
        assert len(done.stderr.splitlines()) == 1
    assert house.events("faults_changed") == []
    house.stop()


def test_orders_at_once_from_many_hands_are_all_kept(make_house: Callable[..., House]) -> None:
    house = make_house(worker=2, pool=1, runtime="process")
    house.start()
    settings = ["--hang", "--reset", "--truncate", "--failure", "--cpu", "--memory"]
    started = [
        subprocess.Popen([*house.command, "faults", f"worker-{number}", name, "0.25"], cwd=house.folder)
        for name in settings
        for number in (0, 1)
    ]
    assert [process.wait(60) for process in started] == [0] * len(started)
    for worker in listed(house).values():
        assert {name: worker["settings"][name.removeprefix("--")] for name in settings} == dict.fromkeys(settings, 0.25)
    assert psutil.pid_exists(house.supervisor_pid())
    house.stop()
