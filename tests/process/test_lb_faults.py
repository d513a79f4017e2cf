"""`fault-point: lb`: what the load balancers do to requests for a service that knows nothing of faults."""

import json
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.support.cluster import TestCluster, open_cluster
from tests.support.fault_orders import order
from tests.support.waiting import PATIENCE, wait_until

SERVICE = """
import os, socket, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = b"x" * 10000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Peer", str(self.client_address[1]))
        self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass

ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    """Two processes of somebody's service behind two load balancers."""
    folder = tmp_path_factory.mktemp("gate")
    folder.chmod(0o755)
    (folder / "service.py").write_text(SERVICE)
    own = {
        "runtime": "process",
        "worker_command": f"{sys.executable} service.py {{host}} {{port}}",
        "fault_point": "lb",
        "avg_delay": None,
    }
    with open_cluster(
        folder, worker=2, pool=2, health_path="/", failure=None, request_timeout=4, health_interval=1, **own
    ) as cluster:
        cluster.start()
        yield cluster


@pytest.fixture
def cluster(running: TestCluster) -> Iterator[TestCluster]:
    """Nothing is wrong before a test, nor after it."""
    yield running
    order(running, "--clear")
    wait_until(lambda: all(row["state"] == "ready" for row in running.replicas().values()))


def test_no_fault_is_injected_by_default(cluster: TestCluster) -> None:
    answers = [requests.get(cluster.lb(number % 2), timeout=60) for number in range(20)]
    assert {answer.status_code for answer in answers} == {200}
    assert max(answer.elapsed.total_seconds() for answer in answers) < 2 * PATIENCE
    with requests.Session() as session:
        peers = {session.get(cluster.lb(), timeout=60).headers["X-Peer"] for _ in range(10)}
    # Straight to the two workers, on connections that are kept.
    assert len(peers) <= 4


def test_failures_come_at_their_rate_with_their_status(cluster: TestCluster) -> None:
    order(cluster, "worker-1", "--failure", "100", "--status", "503")
    answers = [requests.get(cluster.lb(number % 2), timeout=60) for number in range(12)]
    by_worker = {(answer.headers["X-Comet-Worker"], answer.status_code) for answer in answers}
    assert by_worker == {("worker-0", 200), ("worker-1", 503)}
    assert next(answer for answer in answers if answer.status_code == 503).json() == {"error": "injected failure"}
    assert cluster.replicas()["worker-1"]["state"] == "ready"


def test_a_delay_has_its_mean_and_bodies_pass_whole(cluster: TestCluster) -> None:
    order(cluster, "all", "--avg-delay", "300", "--delay-distribution", "constant")
    answer = requests.post(cluster.lb(), data=b"y" * 300_000, timeout=60)
    assert answer.content == b"y" * 300_000
    assert answer.elapsed.total_seconds() >= 0.3


def test_a_reset_is_retried_but_a_post_is_not(cluster: TestCluster) -> None:
    order(cluster, "worker-0", "--reset", "100")
    answers = [requests.get(cluster.lb(), timeout=60) for _ in range(6)]
    assert Counter((answer.status_code, answer.headers["X-Comet-Worker"]) for answer in answers) == {
        (200, "worker-1"): 6
    }
    order(cluster, "all", "--reset", "100")
    assert requests.post(cluster.lb(), data=b"z", timeout=60).status_code == 502


def test_a_truncated_body_is_never_taken_for_complete(cluster: TestCluster) -> None:
    order(cluster, "all", "--truncate", "100")
    with socket.create_connection(("127.0.0.1", cluster.config["load-balancer-port"]), timeout=60) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        received, error = read_to_the_end(peer)
    assert isinstance(error, ConnectionResetError)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert len(received.partition(b"\r\n\r\n")[2]) == 5000


def read_to_the_end(peer: socket.socket) -> tuple[bytes, OSError | None]:
    """Everything that comes, and how it ended."""
    received = b""
    try:
        while piece := peer.recv(65536):
            received += piece
    except OSError as error:
        return received, error
    return received, None


def test_a_slow_body_takes_its_time(cluster: TestCluster) -> None:
    order(cluster, "all", "--slow-body", "10000")
    began = time.monotonic()
    assert len(requests.get(cluster.lb(), timeout=60).content) == 10000
    assert time.monotonic() - began >= 0.9


def test_a_hang_ends_by_timeout_and_at_100_checks_hang_too(cluster: TestCluster) -> None:
    order(cluster, "worker-0", "--hang", "99.9999")
    answers = [requests.get(cluster.lb(), timeout=60).status_code for _ in range(2)]
    assert sorted(answers) == [200, 504]
    order(cluster, "worker-0", "--hang", "100")
    # One load balancer may find it before the one that is asked here does.
    wait_until(lambda: not cluster.replicas()["worker-0"]["health"]["lb-0"]["healthy"], 20)
    assert cluster.events("replica_unhealthy", "worker-0")
    assert {requests.get(cluster.lb(), timeout=60).headers["X-Comet-Worker"] for _ in range(3)} == {"worker-1"}


def test_a_count_is_exact_over_all_load_balancers(cluster: TestCluster) -> None:
    order(cluster, "all", "--failure", "100", "--count", "3")
    answers = [requests.get(cluster.lb(number % 2), timeout=60) for number in range(20)]
    failed = Counter(answer.headers["X-Comet-Worker"] for answer in answers if answer.status_code == 500)
    assert failed == {"worker-0": 3, "worker-1": 3}


def test_the_rest_of_a_count_is_shown_and_its_end_is_an_event(cluster: TestCluster) -> None:
    before = len(cluster.events("faults_ended"))

    def left() -> list[int]:
        return [lease["count_left"] for lease in cluster.replicas()["worker-0"]["fault_orders"]["leases"]]

    order(cluster, "worker-0", "--failure", "100", "--count", "3")
    for rest in (3, 2, 1):
        wait_until(lambda rest=rest: left() == [rest])
        assert len(cluster.events("faults_ended")) == before
        wait_until(lambda rest=rest: requests.get(cluster.lb(rest % 2), timeout=60).status_code == 500)
    wait_until(lambda: left() == [])
    ended = wait_until(lambda: cluster.events("faults_ended")[before:])
    assert [(each["replica"], each["workers"], each["settings"]) for each in ended] == [
        ("worker-0", ["worker-0"], {"failure": 100.0})
    ]


def test_a_lease_ends_by_itself_and_is_counted(cluster: TestCluster) -> None:
    assert cluster.comet("stats", "--reset").returncode == 0

    def fails() -> bool:
        began = time.monotonic()
        order(cluster, "all", "--failure", "100", "--for", "5s")
        status = requests.get(cluster.lb(), timeout=60).status_code
        assert status == 500 or time.monotonic() - began > 5
        return status == 500

    wait_until(fails, what="a failure, from a machine that is not late by the whole lease")
    wait_until(lambda: requests.get(cluster.lb(), timeout=60).status_code == 200, 10)
    row = next(line for line in cluster.comet("stats").stdout.splitlines() if line.startswith("total"))
    assert "failure " in row
    told = json.loads(cluster.comet("stats", "--json").stdout)
    assert told["FailedRequests"][0]["total"] >= 1


@pytest.mark.parametrize("words", [["--cpu", "10"], ["--memory", "10"]])
def test_faults_that_lbs_cannot_inject_are_refused(cluster: TestCluster, words: list[str]) -> None:
    done = cluster.comet("faults", *words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "fault-point is lb" in done.stderr


def test_fault_point_lb_leaves_the_built_in_worker_alone(tmp_path: Path) -> None:
    with open_cluster(
        tmp_path, worker=1, pool=1, runtime="process", avg_delay=0, failure=100, fault_point="lb"
    ) as cluster:
        cluster.start()
        assert cluster.hello().status_code == 500
        assert requests.get(cluster.worker() + "/api/v1/hello", timeout=60).status_code == 200
