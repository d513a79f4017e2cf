"""kill, scale, restart and reload under load: what replaces is ready before what it replaces is retired, and no request fails."""

import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.integration.clusters import House, eventually, free_ports
from tests.integration.test_supervision import clients

pytestmark = [pytest.mark.docker, pytest.mark.slow]

IN_FLIGHT = 200 if os.environ.get("COMET_TEST_FULL") else 24
ROUNDS = 20 if os.environ.get("COMET_TEST_FULL") else 1


def names(house: House) -> list[str]:
    return list(house.replicas())


def answers_from(house: House, count: int) -> bool:
    """Whether each load balancer sends requests to so many workers."""
    told = [{house.hello(number).headers["X-Comet-Worker"] for _ in range(3 * count)} for number in range(house.config["pool"])]
    return all(len(each) == count for each in told)


COMMANDS = ["scale worker=4 pool=3", "restart all", "restart worker-1", "restart lb", "reload"]


@pytest.mark.parametrize("command", [each.split() for each in COMMANDS], ids=[each.replace(" ", "-") for each in COMMANDS])
def test_no_request_fails_while_replicas_change(make_house: Callable[..., House], runtime: str, command: list[str]) -> None:
    house = make_house(worker=2, pool=2, runtime=runtime, avg_delay=50)
    house.start()
    for number in range(ROUNDS):
        before = house.replicas()
        house.write(worker_memory=f"{200 + number}m")  # What `reload` is to find; it has to roll the workers for it.
        with clients(house, IN_FLIGHT) as strict:
            eventually(lambda strict=strict: all(client.good for client in strict), what="answers to every client")
            done = house.comet(*command)
            assert done.returncode == 0, done.stderr
            if command[0] == "scale":
                assert names(house) == ["lb-0", "lb-1", "lb-2", "worker-0", "worker-1", "worker-2", "worker-3"]
                eventually(lambda: answers_from(house, 4), what="answers from all four")
                assert house.hello(2).status_code == 200
                assert house.comet("scale", "worker=2", "pool=2").returncode == 0
            seen = [client.good for client in strict]
            eventually(lambda strict=strict, seen=seen: all(client.good > count for client, count in zip(strict, seen, strict=True)))
        assert [client.bad for client in strict] == [[]] * IN_FLIGHT
        after = house.replicas()
        assert sorted(after) == ["lb-0", "lb-1", "worker-0", "worker-1"]
        assert {name: row["port"] for name, row in after.items()} == {name: row["port"] for name, row in before.items()}
        assert all(row["state"] == "ready" and row["restarts"] == 0 for row in after.values())
        eventually(lambda: answers_from(house, 2), what="answers from both")
        changed = {name for name in after if after[name]["id"] != before[name]["id"]}
        workers, balancers = {"worker-0", "worker-1"}, {"lb-0", "lb-1"}
        target = {"all": workers | balancers, "lb": balancers, "worker-1": {"worker-1"}, "reload": workers}.get(command[-1], set())
        assert changed == target
    house.stop()
    house.assert_nothing_left()


def test_scale_refuses_what_cannot_be_and_changes_nothing(make_house: Callable[..., House]) -> None:
    house = make_house(worker=1, pool=1, runtime="process")
    assert house.comet("scale", "worker=2").returncode == 3
    house.start()
    with requests.Session():
        for arguments, code, said in [
            (["worker=201"], 2, "worker: 201 is out of range (allowed: a whole number from 0 to 200); nothing was changed"),
            (["pool=0"], 2, "pool: 0 is out of range"),
            (["worker=two"], 2, "scale: worker=two: not understood"),
            (["lb=2"], 2, "scale: lb=2: not understood"),
            (["pool=11"], 1, "worker-port: "),
        ]:
            done = house.comet("scale", *arguments)
            assert (done.returncode, done.stderr.startswith(said)) == (code, True), done.stderr
    other = make_house(worker=1, pool=1, runtime="process")
    other.write(load_balancer_port=house.config["worker-port"] + 1)
    other.start()
    done = house.comet("scale", "worker=2")
    assert done.returncode == 1
    assert "is taken by" in done.stderr
    assert names(house) == ["lb-0", "worker-0"]
    other.stop()
    house.stop()


def test_a_scale_outlives_the_supervisor_until_the_config_says_otherwise(make_house: Callable[..., House]) -> None:
    house = make_house(worker=1, pool=1, runtime="process")
    house.start()
    assert house.comet("scale", "worker=2").returncode == 0
    os.kill(house.supervisor_pid(), 9)
    eventually(lambda: not house.ps()["supervisor"]["running"])
    house.start()
    assert names(house) == ["lb-0", "worker-0", "worker-1"]
    house.write(pool=2)
    done = house.comet("reload")
    assert (done.returncode, done.stdout) == (0, "changed pool\n")
    assert names(house) == ["lb-0", "lb-1", "worker-0", "worker-1"]  # What was not changed stays as it was scaled.
    house.write(pool=1)
    assert house.comet("reload").returncode == 0
    house.write(worker=3)
    assert house.comet("reload").returncode == 0
    assert names(house) == ["lb-0", "worker-0", "worker-1", "worker-2"]
    house.stop()
    house.write(worker=1)
    house.start()
    assert names(house) == ["lb-0", "worker-0"]
    house.stop()


def test_reload_applies_live_what_can_be_and_rolls_the_rest(make_house: Callable[..., House]) -> None:
    house = make_house(worker=2, pool=2, avg_delay=5)
    house.start()
    before = house.replicas()
    with clients(house, 8) as strict:
        house.write(failure=100, request_timeout=7)
        done = house.comet("reload")
        assert (done.returncode, done.stdout) == (0, "changed failure, request-timeout\n")
        eventually(lambda: all(house.hello(number).status_code == 500 for number in (0, 1, 0, 1)), 5, "injected failures everywhere")
        house.write(failure=0)
        assert house.comet("reload").returncode == 0
        eventually(lambda: all(house.hello(number).status_code == 200 for number in (0, 1, 0, 1)), 5, "no more failures")
        assert {name: row["id"] for name, row in house.replicas().items()} == {name: row["id"] for name, row in before.items()}
        for client in strict:
            client.bad.clear()
        house.write(worker_memory="200m")
        done = house.comet("reload")
        assert done.stdout == "changed worker-memory; restarted worker-0, worker-1\n"
    assert [client.bad for client in strict] == [[]] * 8
    after = house.replicas()
    assert after["lb-0"]["pid"] == before["lb-0"]["pid"]
    assert after["worker-0"]["id"] != before["worker-0"]["id"]
    house.stop()
    house.assert_nothing_left()


def test_limits_on_clients_are_changed_live(make_house: Callable[..., House]) -> None:
    house = make_house(worker=1, pool=1, runtime="process")
    house.start()
    port = house.replicas()["lb-0"]["port"]
    large = f"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\nA: {'x' * 1200}\r\n\r\n".encode()

    def status(*pieces: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", port), 10) as sock:
            for piece in pieces:
                sock.sendall(piece)
            return sock.recv(12)

    assert [status(large) for _ in range(3)] == [b"HTTP/1.1 200"] * 3
    house.write(max_head=1024, head_timeout=0.2)
    assert house.comet("reload").stdout == "changed head-timeout, max-head\n"
    eventually(lambda: status(large) == b"HTTP/1.1 431", 5, "the smaller limit")
    assert [status(large) for _ in range(3)] == [b"HTTP/1.1 431"] * 3
    assert status(b"GET / HTTP/1.1\r\n") == b"HTTP/1.1 408"
    house.stop()


def test_a_bad_config_is_refused_and_the_old_one_stays_in_force(make_house: Callable[..., House]) -> None:
    house = make_house(worker=1, pool=1, runtime="process")
    house.start()
    before = house.replicas()
    house.write(worker="many")
    done = house.comet("reload")
    assert done.returncode == 2
    assert done.stderr.startswith("config.yaml:1: worker: 'many' is not a whole number")
    house.write(worker=1, load_balancer_port=free_ports(2))
    done = house.comet("reload")
    assert done.returncode == 2
    assert "load-balancer-port: cannot change while the cluster runs" in done.stderr
    assert len(house.events("reload_refused")) == 2
    house.write(load_balancer_port=before["lb-0"]["port"], health_path="/nothing-here", start_timeout=2, worker_threads=3)
    done = house.comet("reload")
    assert done.returncode == 1
    assert "the replacement does not become ready" in done.stderr
    assert {name: (row["pid"], row["state"]) for name, row in house.replicas().items()} == {
        name: (row["pid"], "ready") for name, row in before.items()
    }
    assert house.hello().status_code == 200
    house.stop()
    house.assert_nothing_left()


def test_kill_kills_as_a_crash_would_with_and_without_a_supervisor(make_house: Callable[..., House], runtime: str) -> None:
    house = make_house(worker=1, pool=1, runtime=runtime)
    house.start()
    for name in ("lb-0", "worker-0"):
        assert house.comet("kill", name).returncode == 0
        row = eventually(lambda name=name: (row := house.replicas()[name])["restarts"] == 1 and row["state"] == "ready" and row)
        assert row["last_exit"]["signal"] == "SIGKILL"
    assert house.comet("kill", "lb-7").returncode == 2
    assert house.comet("kill", "lb-0", "--signal", "NONSENSE").returncode == 2
    os.kill(house.supervisor_pid(), 9)
    eventually(lambda: not house.ps()["supervisor"]["running"])
    assert {row["last_exit"]["signal"] for row in house.replicas().values()} == {"SIGKILL"}
    assert house.comet("kill", "lb-0").returncode == 0
    eventually(lambda: "lb-0" not in house.replicas())
    house.start()
    assert house.hello().status_code == 200
    house.stop()
    house.assert_nothing_left()


def test_no_worker_gets_more_at_a_time_than_its_threads(make_house: Callable[..., House]) -> None:
    """The load balancers queue what is more, and nobody is refused."""
    house = make_house(worker=2, pool=2, runtime="process", worker_threads=4, avg_delay=100, delay_distribution="constant")
    house.start()
    began = time.monotonic()
    with ThreadPoolExecutor(80) as pool:
        answers = list(pool.map(lambda number: house.hello(number % 2).status_code, range(80)))
    assert answers == [200] * 80
    # 80 requests of 100 ms on 2 workers of 4 threads: ten rounds, never fewer.
    assert time.monotonic() - began >= 0.99
    house.stop()
