"""kill, scale, restart and reload under load: what replaces is ready before what it replaces is retired, and no request
fails.
"""

import itertools
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.process.test_crashes import clients
from tests.support.cluster import TestCluster, free_ports
from tests.support.shared import SharedCluster
from tests.support.waiting import wait_until

IN_FLIGHT = 200 if os.environ.get("COMET_TEST_FULL") else 24
ROUNDS = 20 if os.environ.get("COMET_TEST_FULL") else 1


def names(cluster: TestCluster) -> list[str]:
    return list(cluster.replicas())


def answers_from(cluster: TestCluster, count: int) -> bool:
    """Whether each load balancer sends requests to so many workers."""
    told = [
        {cluster.hello(number).headers["X-Comet-Worker"] for _ in range(3 * count)}
        for number in range(cluster.config["pool"])
    ]
    return all(len(each) == count for each in told)


COMMANDS = ["scale worker=4 pool=3", "restart all", "restart worker-1", "restart lb", "reload"]
OF_CONTAINERS = ["scale worker=4 pool=3", "restart all", "reload"]
CASES = [
    *(pytest.param("docker", each.split(), marks=pytest.mark.docker, id=f"docker-{each}") for each in OF_CONTAINERS),
    *(pytest.param("process", each.split(), id=f"process-{each}") for each in COMMANDS),
]


@pytest.fixture(scope="module")
def loaded(share_cluster: Callable[..., SharedCluster]) -> dict[str, SharedCluster]:
    """Two workers of either kind behind two load balancers."""
    config = {"worker": 2, "pool": 2, "avg_delay": 50}
    return {runtime: share_cluster(runtime=runtime, **config) for runtime in ("docker", "process")}


@pytest.fixture(scope="module")
def life(share_cluster: Callable[..., SharedCluster]) -> SharedCluster:
    return share_cluster(worker=1, pool=1, runtime="process")


@pytest.fixture
def single(life: SharedCluster) -> TestCluster:
    """A small cluster of processes, which has its config again for the next test."""
    return life.lend()


MEGABYTES = itertools.count(200)


@pytest.mark.parametrize(("runtime", "command"), CASES)
def test_no_request_fails_while_replicas_change(
    loaded: dict[str, SharedCluster], runtime: str, command: list[str]
) -> None:
    running = loaded[runtime].lend()
    for _ in range(ROUNDS):
        before = running.replicas()
        if command == ["reload"]:  # It has to roll the workers for this.
            running.write(worker_memory=f"{next(MEGABYTES)}m")
        with clients(running, IN_FLIGHT) as strict:
            wait_until(lambda strict=strict: all(client.good for client in strict), what="answers to every client")
            done = running.comet(*command)
            assert done.returncode == 0, done.stderr
            if command[0] == "scale":
                assert names(running) == ["lb-0", "lb-1", "lb-2", "worker-0", "worker-1", "worker-2", "worker-3"]
                wait_until(lambda: answers_from(running, 4), what="answers from all four")
                assert running.hello(2).status_code == 200
                assert running.comet("scale", "worker=2", "pool=2").returncode == 0
            seen = [client.good for client in strict]
            wait_until(
                lambda strict=strict, seen=seen: all(
                    client.good > count for client, count in zip(strict, seen, strict=True)
                )
            )
        assert [client.bad for client in strict] == [[]] * IN_FLIGHT
        after = running.replicas()
        assert sorted(after) == ["lb-0", "lb-1", "worker-0", "worker-1"]
        assert {name: row["port"] for name, row in after.items()} == {name: row["port"] for name, row in before.items()}
        assert all(row["state"] == "ready" and row["restarts"] == 0 for row in after.values())
        wait_until(lambda: answers_from(running, 2), what="answers from both")
        changed = {name for name in after if after[name]["id"] != before[name]["id"]}
        workers, balancers = {"worker-0", "worker-1"}, {"lb-0", "lb-1"}
        target = {"all": workers | balancers, "lb": balancers, "worker-1": {"worker-1"}, "reload": workers}.get(
            command[-1], set()
        )
        assert changed == target


def test_scale_refuses_impossible_numbers(single: TestCluster) -> None:
    cluster = single
    for arguments, code, said in [
        (
            ["worker=201"],
            2,
            "worker: 201 is out of range (allowed: a whole number from 0 to 200); nothing was changed",
        ),
        (["pool=0"], 2, "pool: 0 is out of range"),
        (["worker=two"], 2, "scale: worker=two: not understood"),
        (["lbs=2"], 2, "scale: lbs=2: not understood"),
        (["pool=11"], 1, "worker-port: "),
    ]:
        done = cluster.comet("scale", *arguments)
        assert (done.returncode, done.stderr.startswith(said)) == (code, True), done.stderr
    with socket.create_server(("127.0.0.1", cluster.config["worker-port"] + 1)):
        done = cluster.comet("scale", "worker=2")
    assert done.returncode == 1
    assert "is taken by" in done.stderr
    assert names(cluster) == ["lb-0", "worker-0"]


def test_a_scale_outlives_the_supervisor_until_a_config_change(single: TestCluster) -> None:
    cluster = single
    assert cluster.comet("scale", "worker=2").returncode == 0
    os.kill(cluster.supervisor_pid(), 9)
    wait_until(lambda: not cluster.ps()["supervisor"]["running"])
    cluster.start()
    assert names(cluster) == ["lb-0", "worker-0", "worker-1"]
    cluster.write(pool=2)
    done = cluster.comet("reload")
    assert (done.returncode, done.stdout.startswith("changed pool ")) == (0, True)
    assert names(cluster) == ["lb-0", "lb-1", "worker-0", "worker-1"]  # What was not changed stays as it was scaled.
    cluster.write(pool=1)
    assert cluster.comet("reload").returncode == 0
    cluster.write(worker=3)
    assert cluster.comet("reload").returncode == 0
    assert names(cluster) == ["lb-0", "worker-0", "worker-1", "worker-2"]
    cluster.stop()
    assert cluster.comet("scale", "worker=2").returncode == 3
    cluster.write(worker=1)
    cluster.start()
    assert names(cluster) == ["lb-0", "worker-0"]


@pytest.mark.docker
def test_reload_applies_live_what_can_be_and_rolls_the_rest(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=2, pool=2, avg_delay=5)
    cluster.start()
    before = cluster.replicas()
    with clients(cluster, 8) as strict:
        cluster.write(failure=100, request_timeout=7)
        done = cluster.comet("reload")
        assert re.fullmatch(r"changed failure .* → 100, request-timeout .* → 7\n", done.stdout), done.stdout
        wait_until(
            lambda: all(cluster.hello(number).status_code == 500 for number in (0, 1, 0, 1)),
            5,
            "injected failures everywhere",
        )
        cluster.write(failure=0)
        assert cluster.comet("reload").returncode == 0
        for number in (0, 1):
            url = f"{cluster.worker(number)}/api/v1/hello"
            wait_until(lambda url=url: requests.get(url, timeout=60).status_code == 200, 5, "no more failures")
        # What each client asked before that has its answer when it has got one more.
        asked = [client.good + len(client.bad) for client in strict]
        wait_until(
            lambda: all(client.good + len(client.bad) > count for client, count in zip(strict, asked, strict=True)),
            what="answers to what was asked before",
        )
        assert {name: row["id"] for name, row in cluster.replicas().items()} == {
            name: row["id"] for name, row in before.items()
        }
        for client in strict:
            client.bad.clear()
        cluster.write(worker_memory="200m")
        done = cluster.comet("reload")
        assert re.fullmatch(r"changed worker-memory .*; restarted worker-0, worker-1\n", done.stdout)
    assert [client.bad for client in strict] == [[]] * 8
    after = cluster.replicas()
    assert after["lb-0"]["pid"] == before["lb-0"]["pid"]
    assert after["worker-0"]["id"] != before["worker-0"]["id"]
    cluster.stop()
    cluster.assert_nothing_left()


def test_limits_on_clients_are_changed_live(single: TestCluster) -> None:
    cluster = single
    port = cluster.replicas()["lb-0"]["port"]
    large = f"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\nA: {'x' * 1200}\r\n\r\n".encode()

    def status(*pieces: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", port), 10) as sock:
            for piece in pieces:
                sock.sendall(piece)
            return sock.recv(12)

    assert [status(large) for _ in range(3)] == [b"HTTP/1.1 200"] * 3
    cluster.write(limits={"max-head": 1024, "head-timeout": 0.2})
    assert re.fullmatch(r"changed head-timeout .* → .*, max-head .* → .*\n", cluster.comet("reload").stdout)
    wait_until(lambda: status(large) == b"HTTP/1.1 431", 5, "the smaller limit")
    assert [status(large) for _ in range(3)] == [b"HTTP/1.1 431"] * 3
    assert status(b"GET / HTTP/1.1\r\n") == b"HTTP/1.1 408"


def test_a_bad_config_is_refused_and_the_old_one_stays(single: TestCluster) -> None:
    cluster = single
    before, refused = cluster.replicas(), len(cluster.events("reload_refused"))
    cluster.write(worker="many")
    done = cluster.comet("reload")
    assert done.returncode == 2
    assert done.stderr.startswith("config.yaml:1: worker: 'many' is not a whole number")
    cluster.write(worker=1, load_balancer_port=free_ports(2))
    done = cluster.comet("reload")
    assert done.returncode == 2
    assert "load-balancer-port: cannot change while the cluster runs" in done.stderr
    assert len(cluster.events("reload_refused")) == refused + 2
    cluster.write(
        load_balancer_port=before["lb-0"]["port"], health_path="/nothing-here", start_timeout=2, worker_threads=3
    )
    done = cluster.comet("reload")
    assert done.returncode == 1
    assert "the replacement does not become ready" in done.stderr
    assert {name: (row["pid"], row["state"]) for name, row in cluster.replicas().items()} == {
        name: (row["pid"], "ready") for name, row in before.items()
    }
    assert cluster.hello().status_code == 200


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"worker_user": "nobody-of-this-name"}, "there is no user nobody-of-this-name"),
        ({"worker_volumes": "['./no-such-folder:/x']"}, "worker-volumes"),
        ({"worker_command": "/no/such/program {port}"}, "/no/such/program"),
    ],
)
def test_a_refused_reload_changes_nothing_for_what_comes_later(
    make_cluster: Callable[..., TestCluster], wrong: dict[str, str], said: str
) -> None:
    """What cannot be rendered is refused before it is in effect: the next orders are about the config that is."""
    command = f"'{sys.executable} -m http.server {{port}} --bind {{host}}'"
    cluster = make_cluster(
        runtime="process", worker=1, pool=1, worker_command=command, health_path="/", avg_delay=None, failure=None
    )
    cluster.start()
    good = (cluster.folder / "config.yaml").read_text()
    cluster.write(**wrong)
    refused = cluster.comet("reload")
    assert refused.returncode in (1, 2)
    assert said in refused.stderr
    (cluster.folder / "config.yaml").write_text(good)
    for words in (["reload"], ["restart", "all"], ["scale", "pool=2", "worker=2"]):
        done = cluster.comet(*words)
        assert done.returncode == 0, (words, done.stderr)
    assert {row["state"] for row in cluster.replicas().values()} == {"ready"}


def test_a_replaced_load_balancer_keeps_its_count_of_restarts(single: TestCluster) -> None:
    cluster, before = single, single.replicas()["lb-0"]
    assert cluster.comet("kill", "lb-0").returncode == 0
    wait_until(lambda: (row := cluster.replicas()["lb-0"])["state"] == "ready" and row["pid"] != before["pid"])
    assert cluster.comet("restart", "lb").returncode == 0
    row = cluster.replicas()["lb-0"]
    assert row["restarts"] == before["restarts"] + 1
    assert row["last_exit"]["code"] == 0


def test_kill_is_like_a_crash_with_and_without_a_supervisor(single: TestCluster) -> None:
    cluster = single
    for name in ("lb-0", "worker-0"):
        restarts = cluster.replicas()[name]["restarts"] + 1
        assert cluster.comet("kill", name).returncode == 0

        def back(name: str = name, restarts: int = restarts) -> dict[str, Any] | None:
            row = cluster.replicas()[name]
            return row if row["restarts"] == restarts and row["state"] == "ready" else None

        row = wait_until(back, what=f"{name} is back")
        assert row is not None
        assert row["last_exit"]["signal"] == "SIGKILL"
    assert cluster.comet("kill", "lb-7").returncode == 2
    assert cluster.comet("kill", "lb-0", "--signal", "NONSENSE").returncode == 2
    os.kill(cluster.supervisor_pid(), 9)
    wait_until(lambda: not cluster.ps()["supervisor"]["running"])
    assert {row["last_exit"]["signal"] for row in cluster.replicas().values()} == {"SIGKILL"}
    assert cluster.comet("kill", "lb-0").returncode == 0
    wait_until(lambda: "lb-0" not in cluster.replicas())
    cluster.start()
    assert cluster.hello().status_code == 200


def test_no_worker_gets_more_at_a_time_than_its_threads(make_cluster: Callable[..., TestCluster]) -> None:
    """The load balancers queue what is more, and nobody is refused."""
    cluster = make_cluster(
        worker=2,
        pool=2,
        runtime="process",
        worker_threads=4,
        avg_delay=100,
        delay_distribution="constant",
        queue_timeout=60,
    )
    cluster.start()
    began = time.monotonic()
    with ThreadPoolExecutor(80) as pool:
        answers = list(pool.map(lambda number: cluster.hello(number % 2).status_code, range(80)))
    assert answers == [200] * 80
    # 80 requests of 100 ms on 2 workers of 4 threads: ten rounds, never fewer.
    assert time.monotonic() - began >= 0.99
    cluster.stop()
