"""WebSockets and the like while their cluster is rolled and stopped: `tunnel-grace`."""

import contextlib
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.cluster import TestCluster, open_cluster
from tests.support.waiting import PATIENCE, wait_until

SERVICE = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/ws":
            self.send_response(101)
            self.send_header("Connection", "Upgrade")
            self.send_header("Upgrade", "websocket")
            self.end_headers()
            while data := self.connection.recv(100):
                self.connection.sendall(data)
            self.close_connection = True
        else:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()
    def log_message(self, *arguments):
        pass

ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
"""
GRACE = 4


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    folder = tmp_path_factory.mktemp("tunnels")
    folder.chmod(0o755)
    (folder / "service.py").write_text(SERVICE)
    command = f"{sys.executable} service.py {{host}} {{port}}"
    own = {"runtime": "process", "worker_command": command, "avg_delay": None, "failure": None, "worker_threads": 2}
    with open_cluster(
        folder, worker=1, pool=1, health_path="/", shutdown_grace=1, tunnel_grace=GRACE, **own
    ) as cluster:
        cluster.start()
        yield cluster


def opened(cluster: TestCluster) -> socket.socket:
    peer = socket.create_connection(("127.0.0.1", cluster.config["load-balancer-port"]), timeout=60)
    peer.sendall(b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += peer.recv(1)
    assert head.startswith(b"HTTP/1.1 101 ")
    return peer


def alive(peer: socket.socket) -> bool:
    try:
        peer.sendall(b"ping")
        answer = b""
        while piece := peer.recv(4 - len(answer)):
            answer += piece
        return answer == b"ping"
    except ConnectionError:
        return False


def lived(peer: socket.socket, begun: float) -> float:
    """Seconds after which it was dead."""
    while alive(peer):
        assert time.monotonic() - begun < 30 * PATIENCE
        time.sleep(0.05)
    return time.monotonic() - begun


@pytest.mark.parametrize("target", ["lb", "worker"])
def test_a_tunnel_survives_a_rolling_restart_for_its_grace(running: TestCluster, target: str) -> None:
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        peers = [
            stack.enter_context(opened(running)) for _ in range(3)
        ]  # More than worker-threads: they are no requests.
        wait_until(lambda: running.replicas()["lb-0"]["tunnels"] == 3)
        begun = time.monotonic()
        rolling = pool.submit(running.comet, "restart", target)
        # The successor has to be ready first, which takes longer on a busy machine.
        assert GRACE - 1 < lived(peers[0], begun) < GRACE + 6 * PATIENCE
        assert rolling.result().returncode == 0
    with opened(running) as again:
        assert alive(again)


def test_a_stop_does_not_wait_for_tunnel_grace(running: TestCluster) -> None:
    running.write(tunnel_grace=600)
    with opened(running) as peer:
        assert running.comet("reload").returncode == 0
        begun = time.monotonic()
        running.stop()
        assert time.monotonic() - begun < 300
        assert not alive(peer)
