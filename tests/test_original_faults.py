"""Faults of the original program that are answered by how Comet is built, rather than by one of its parts."""

import re
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

from comet.cli import parser
from comet.commands import COMMANDS
from comet.config import KEYS
from tests.integration.clusters import eventually, free_ports

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


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
            eventually(lambda: accepts(port), 20, "the load balancer accepts")
            yield process
        finally:
            process.kill()


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def first_cells(table: str) -> list[str]:
    """The first cells of a Markdown table's rows, its head aside."""
    return [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| `")]


@pytest.mark.slow
def test_load_balancers_share_nothing_and_have_one_thread_each_f4_f5_f14() -> None:
    first = free_ports(2)
    with backend("one") as one, backend("two") as two, lone_lb(first, one) as lb_one, lone_lb(first + 1, two) as lb_two:
        answers = [requests.get(f"http://127.0.0.1:{first + number % 2}/", timeout=10).text for number in range(6)]
        assert answers == ["one", "two"] * 3
        for process in (lb_one, lb_two):
            # State that one thread alone can reach needs no lock, and none can be forgotten.
            assert len(list(Path(f"/proc/{process.pid}/task").iterdir())) == 1


def test_the_readme_claims_what_there_is_f40() -> None:
    config_table = README.split("## config.yaml")[1].split("\n## ")[0]
    keys = {key for cell in first_cells(config_table) for key in re.findall(r"`([a-z-]+)`", cell)}
    assert keys == set(KEYS)
    command_table = README.split("## Commands")[1].split("\n## ")[0]
    commands = {word for cell in first_cells(command_table) for word in re.findall(r"`([a-z]+)", cell)}
    assert commands == set(COMMANDS)
    assert set(COMMANDS) <= set(re.findall(r"^    ([a-z]+) ", parser().format_help(), re.MULTILINE))
