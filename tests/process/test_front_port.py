"""One port that all load balancers serve: a death breaks only what was on the dead one, also without a supervisor."""

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.process.test_lb_ends import Knocker
from tests.support.cluster import TestCluster, open_cluster
from tests.support.lb import Client
from tests.support.waiting import wait_until

GET = b"GET /api/v1/hello HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    folder: Path = tmp_path_factory.mktemp("front")
    with open_cluster(folder, runtime="process", worker=2, pool=2, avg_delay=0, failure=0) as made:
        made.write(front_port=made.config["load-balancer-port"] + 50)
        made.start()
        yield made


def front(cluster: TestCluster) -> Client:
    return Client.of(socket.create_connection(("127.0.0.1", cluster.config["front-port"]), timeout=60))


@contextlib.contextmanager
def connections(cluster: TestCluster) -> Iterator[dict[str, list[Client]]]:
    """Open connections until there are some on each load balancer."""
    stack = contextlib.ExitStack()
    found: dict[str, list[Client]] = {"lb-0": [], "lb-1": []}

    def one_more() -> bool:
        client = stack.enter_context(front(cluster))
        answer = client.ask(GET)
        assert answer.status == 200
        found[str(answer["X-Comet-LB"])].append(client)
        return all(len(each) >= 2 for each in found.values())

    with stack:
        wait_until(one_more, 60)
        yield found


def pid(cluster: TestCluster, name: str) -> int:
    """Its PID; 0 while it has none."""
    return int(cluster.replicas()[name]["pid"] or 0)


def test_a_killed_load_balancer_breaks_only_what_was_on_it(cluster: TestCluster) -> None:
    knockers = [Knocker(cluster.config["front-port"]) for _ in range(3)]
    for knocker in knockers:
        knocker.start()
    wait_until(lambda: all(len(knocker.seen) > 5 for knocker in knockers))
    for victim, other in (("lb-0", "lb-1"), ("lb-1", "lb-0")):
        before = pid(cluster, victim)
        with connections(cluster) as on:
            os.kill(before, signal.SIGKILL)
            assert {client.ask(GET)["X-Comet-LB"] for client in on[other]} == {other}
        wait_until(lambda victim=victim, before=before: pid(cluster, victim) not in (0, before), 60)  # type: ignore[misc]
        wait_until(lambda victim=victim: cluster.replicas()[victim]["state"] == "ready", 60)  # type: ignore[misc]
    for knocker in knockers:
        knocker.done.set()
        knocker.join(60)
    seen = [result for knocker in knockers for result in knocker.seen]
    # Each knocker has one exchange at a time, so a death breaks at most one of each.
    assert {result for result in seen if not result.startswith("broken")} == {"200"}
    assert sum(result.startswith("broken") for result in seen) <= 2 * len(knockers)


def test_it_outlives_supervisor_and_balancer_and_is_taken_over(cluster: TestCluster) -> None:
    os.kill(cluster.supervisor_pid(), signal.SIGKILL)
    wait_until(lambda: not cluster.ps()["supervisor"]["running"], 60)
    os.kill(pid(cluster, "lb-1"), signal.SIGKILL)
    wait_until(lambda: "lb-1" not in cluster.replicas(), 60)
    with front(cluster) as client:
        assert client.ask(GET)["X-Comet-LB"] == "lb-0"
        cluster.start()
        assert client.ask(GET)["X-Comet-LB"] == "lb-0"
    with connections(cluster) as on:
        assert all(on.values())


def test_a_roll_of_the_load_balancers_refuses_no_connection(cluster: TestCluster) -> None:
    knocker = Knocker(cluster.config["front-port"])
    knocker.start()
    wait_until(lambda: len(knocker.seen) > 5)
    assert cluster.comet("restart", "lb").returncode == 0
    knocker.done.set()
    knocker.join(60)
    assert set(knocker.seen) == {"200"}
    with connections(cluster) as on:
        assert all(on.values())


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=60).close()
    except ConnectionRefusedError:
        return True
    return False


def test_the_port_of_a_drained_load_balancer_refuses_at_once(cluster: TestCluster) -> None:
    """It goes on for a client that is connected; a new one must not wait for the end of that."""
    port = cluster.replicas()["lb-1"]["port"]
    with Client(port) as connected, ThreadPoolExecutor() as pool:
        assert connected.ask(GET).status == 200
        scaled = pool.submit(cluster.comet, "scale", "pool=1")
        wait_until(lambda: refuses(port))
        assert not scaled.done()
        with front(cluster) as client:
            assert client.ask(GET)["X-Comet-LB"] == "lb-0"
        assert connected.ask(GET)["Connection"] == "close"
        assert scaled.result().returncode == 0
    assert cluster.comet("scale", "pool=2").returncode == 0
    with Client(port) as client:
        assert client.ask(GET).status == 200


def test_all_ports_refuse_at_once_during_a_stop(cluster: TestCluster) -> None:
    first = cluster.config["load-balancer-port"]
    with Client(first) as connected, ThreadPoolExecutor() as pool:
        assert connected.ask(GET).status == 200
        stopped = pool.submit(cluster.comet, "stop")
        for port in (first, first + 1, cluster.config["front-port"]):
            wait_until(lambda port=port: refuses(port))  # type: ignore[misc]
        assert not stopped.done()
        assert connected.ask(GET)["Connection"] == "close"
        assert stopped.result().returncode == 0
    cluster.start()
