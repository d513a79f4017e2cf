"""Load balancers are processes that share nothing: each has its own upstreams, its own turn and a single thread."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import requests

from tests.support.cluster import free_ports
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[3]


@contextmanager
def backend(name: str) -> Iterator[int]:
    """A web server that says its name; its port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(name)))
            self.end_headers()
            self.wfile.write(name.encode())

        def log_message(self, format: str, *arguments: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def lone_lb(port: int, upstream: int) -> Iterator["subprocess.Popen[bytes]"]:
    argv = [sys.executable, "-m", "lb", "--listen", f"127.0.0.1:{port}", "--upstream", f"127.0.0.1:{upstream}"]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: accepts(port), 20, "the load balancer accepts")
            yield process
        finally:
            process.kill()


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_load_balancers_share_nothing_and_have_one_thread_each() -> None:
    first = free_ports(2)
    with backend("one") as one, backend("two") as two, lone_lb(first, one) as lb_one, lone_lb(first + 1, two) as lb_two:
        answers = [requests.get(f"http://127.0.0.1:{first + number % 2}/", timeout=120).text for number in range(6)]
        assert answers == ["one", "two"] * 3
        for process in (lb_one, lb_two):
            # State that one thread alone can reach needs no lock, and none can be forgotten.
            assert len(list(Path(f"/proc/{process.pid}/task").iterdir())) == 1
