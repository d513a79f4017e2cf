"""The LB as the supervisor runs it: forked by a forkserver that was started from elsewhere, killed, succeeded,
drained.
"""

import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lb.interface import counters, messages
from lb.interface.settings import Settings, UpstreamSpec
from lb.process.server import run
from lb.system import log
from tests.support.cluster import free_ports
from tests.support.lb import TIMEOUT, Client, Worker, listening_socket
from tests.support.waiting import PATIENCE, wait_until

GET = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
FOREIGN = ("comet", "docker", "psutil", "flask", "requests", "yaml", "sqlalchemy", "worker_app", "http.server")


def context() -> Any:
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["lb.process.server"])
    return made


@contextlib.contextmanager
def worker() -> Iterator[Worker]:
    made = Worker("worker-0")
    yield made
    made.close()


class Lb:
    """An LB process on a listener that the test holds."""

    def __init__(self, listener: socket.socket, upstream: Worker, tmp_path: Path, **settings: Any) -> None:
        self.counters = tmp_path / "lb-0.counters"
        self.log = tmp_path / "lb-0.log"
        self.control, theirs = socket.socketpair()
        specs = (UpstreamSpec("worker-0", "127.0.0.1", upstream.port),)
        arguments = (Settings(**settings), listener, specs, theirs, None, str(self.counters), str(self.log))
        self.process = context().Process(target=run, args=arguments)
        self.process.start()
        theirs.close()
        self.control.settimeout(TIMEOUT)

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    def ready(self) -> "Lb":
        assert messages.decode(self.control.recv(4096).split(b"\n")[0])["type"] == "ready"
        return self

    def end(self) -> None:
        self.control.close()
        if self.process.is_alive():
            self.process.kill()
        self.process.join(10)
        self.process.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with listening_socket() as sock:
        yield sock


def backlog(port: int) -> int:
    """Return the accept queue's limit as the kernel tells it."""
    out = subprocess.run(["ss", "-Hltn", f"src 127.0.0.1:{port}"], capture_output=True, text=True, check=True).stdout
    return int(out.split()[2])


def test_the_preload_imports_only_the_projects_own_modules(tmp_path: Path) -> None:
    """DESIGN section 8: the preload is skipped silently when sys.path does not reach it; a child then has to import all
    itself.
    """
    script = tmp_path / "start.py"
    script.write_text(
        "import multiprocessing, sys\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('forkserver')\n"
        "    context.set_forkserver_preload(['lb.process.preload'])\n"
        "    report = 'import sys; open(%r, \"w\").write(chr(10).join(sys.modules))' % sys.argv[1]\n"
        "    child = context.Process(target=exec, args=(report,))\n"
        "    child.start(); child.join(); sys.exit(child.exitcode)\n"
    )
    report = tmp_path / "modules"
    subprocess.run([sys.executable, str(script), str(report)], cwd=tmp_path, check=True)
    loaded = report.read_text().split("\n")
    assert not [name for name in loaded if name in FOREIGN]
    for needed in ("lb.process.server", "lb.proxy.dispatcher", "uvloop", "setproctitle"):
        assert needed in loaded


def test_an_lb_process_has_title_backlog_and_own_session(listener: socket.socket, tmp_path: Path) -> None:
    with worker() as upstream:
        lb = Lb(listener, upstream, tmp_path, name="lb-0").ready()
        try:
            port = listener.getsockname()[1]
            with Client(port) as client:
                assert client.ask(GET).body == b"worker-0"
            assert Path(f"/proc/{lb.pid}/cmdline").read_bytes().startswith(b"comet: lb-0 :%d" % port)
            assert backlog(port) == 4096
            assert os.getsid(lb.pid) == lb.pid
            os.kill(lb.pid, signal.SIGINT)
            os.kill(lb.pid, signal.SIGHUP)
            with Client(port) as client:
                assert client.ask(GET).status == 200
            assert "accepts on port" in lb.log.read_text()
        finally:
            lb.end()


def test_a_killed_lbs_successor_keeps_socket_and_counters(listener: socket.socket, tmp_path: Path) -> None:
    with worker() as upstream:
        port = listener.getsockname()[1]
        first = Lb(listener, upstream, tmp_path).ready()
        with Client(port) as client:
            for _ in range(5):
                assert client.ask(GET).status == 200
        refused, answered, stop = [], [], threading.Event()

        def knock() -> None:
            while not stop.is_set():
                try:
                    with Client(port) as client:
                        answered.append(client.ask(GET).status)
                except ConnectionRefusedError:
                    refused.append(1)
                except (OSError, AssertionError, Exception):
                    time.sleep(0.001)  # A connection of the killed one: reset, not refused.

        knocker = threading.Thread(target=knock, daemon=True)
        knocker.start()
        wait_until(lambda: len(answered) > 5)
        os.kill(first.pid, signal.SIGKILL)
        first.process.join(TIMEOUT)
        before = counters.read_counters(first.counters).totals()
        seen = len(answered)
        second = Lb(listener, upstream, tmp_path).ready()
        try:
            wait_until(lambda: len(answered) > seen + 5)
            stop.set()
            knocker.join(10)
            assert refused == []
            assert before["requests"] >= 5 + seen
            assert counters.read_counters(second.counters).totals()["requests"] > before["requests"]
            wait_until(lambda: counters.read_counters(second.counters).totals()["in_flight"] == 0)
        finally:
            first.end()
            second.end()


@pytest.mark.parametrize("signals", [1, 2])
def test_sigterm_drains_and_exits_0_a_second_one_at_once(listener: socket.socket, tmp_path: Path, signals: int) -> None:
    with worker() as upstream:
        lb = Lb(listener, upstream, tmp_path, shutdown_grace=30.0 if signals == 2 else 0.3).ready()
        try:
            with Client(listener.getsockname()[1]) as client:
                assert client.ask(GET).status == 200
                for _ in range(signals):
                    os.kill(lb.pid, signal.SIGTERM)
                    # Signals of one kind that nobody has taken yet are one signal.
                    wait_until(lambda: "draining" in lb.log.read_text(), what="the drain")
                lb.process.join(5 * PATIENCE)
                assert lb.process.exitcode == 0
        finally:
            lb.end()


def test_who_connects_in_the_moment_of_a_drain_is_answered(listener: socket.socket, tmp_path: Path) -> None:
    with worker() as upstream:
        lb = Lb(listener, upstream, tmp_path, shutdown_grace=5.0).ready()
        successor: Lb | None = None
        try:
            os.kill(lb.pid, signal.SIGSTOP)  # A busy machine: both are there when it runs again.
            with Client(listener.getsockname()[1]) as client:
                client.send(GET)
                lb.control.sendall(messages.encode(messages.drain(5.0)))
                os.kill(lb.pid, signal.SIGCONT)
                successor = Lb(listener, upstream, tmp_path).ready()
                assert client.answer().status == 200
        finally:
            lb.end()
            if successor is not None:
                successor.end()


def test_an_lb_outlives_its_supervisors_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with worker() as upstream, listening_socket() as listener, socket.socket(socket.AF_UNIX) as door:
        monkeypatch.chdir(tmp_path)
        door.bind("control")
        door.listen()
        specs = (UpstreamSpec("worker-0", "127.0.0.1", upstream.port),)
        process = context().Process(
            target=run, args=(Settings(), listener, specs, None, door, None, str(tmp_path / "log"))
        )
        process.start()
        try:
            for _ in range(2):
                with socket.socket(socket.AF_UNIX) as peer:
                    peer.settimeout(TIMEOUT)
                    peer.connect("control")
                    assert b'"ready"' in peer.recv(4096)
            with Client(listener.getsockname()[1]) as client:
                assert client.ask(GET).status == 200
        finally:
            process.kill()
            process.join(10)
            process.close()


def test_memory_for_idle_connections_is_small(listener: socket.socket, tmp_path: Path) -> None:
    """Under 4 KiB each. A small count here; the kernel's buffers are not the LB's."""

    def rss(pid: int) -> int:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096

    with worker() as upstream:
        lb = Lb(listener, upstream, tmp_path).ready()
        port, clients = listener.getsockname()[1], []
        try:
            for _ in range(100):  # warm
                clients.append(Client(port))
                clients[-1].ask(GET)
            before = rss(lb.pid)
            for _ in range(400):
                clients.append(Client(port))
                clients[-1].ask(GET)
            assert (rss(lb.pid) - before) / 400 < 4096
        finally:
            for client in clients:
                client.sock.close()
            lb.end()


def test_the_log_is_rotated_and_followed(tmp_path: Path) -> None:
    script = (
        "import logging, sys, os\nfrom lb.system import log\nlog.MAX_BYTES = 2000\nlog.start(sys.argv[1])\n"
        "for n in range(200): logging.getLogger('lb').info('line %d', n)\nprint('to stdout', flush=True)\n"
    )
    path = tmp_path / "lb.log"
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["lb.log", "lb.log.1", "lb.log.2"]
    assert path.read_text().endswith("to stdout\n")
    assert log.BACKUPS == 2


# python -m lb


@contextlib.contextmanager
def command(*arguments: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    port = free_ports(1)
    process = subprocess.Popen(
        [sys.executable, "-m", "lb", "--listen", f"127.0.0.1:{port}", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stderr
        assert "accepts" in process.stderr.readline()
        yield port, process
    finally:
        process.kill()
        process.communicate()


def test_a_standalone_lb_serves() -> None:
    with (
        worker() as upstream,
        command("--upstream", f"127.0.0.1:{upstream.port}", "--name", "lb-5", "--shutdown-grace", "0.2") as (
            port,
            process,
        ),
    ):
        with Client(port) as client:
            answer = client.ask(GET)
            assert (answer["X-Comet-LB"], answer["X-Comet-Worker"]) == ("lb-5", "worker-0")
        process.send_signal(signal.SIGINT)
        assert process.wait(10 * PATIENCE) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "--listen"),
        (["--listen", "127.0.0.1:0", "--upstream", "nonsense"], 2, "is not HOST:PORT"),
        (["--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1", "--balance", "luck"], 2, "invalid choice"),
        (["--listen", "203.0.113.7:80", "--upstream", "127.0.0.1:1"], 1, "cannot listen on 203.0.113.7:80"),
    ],
)
def test_bad_usage_is_one_clear_line(arguments: list[str], code: int, message: str) -> None:
    done = subprocess.run([sys.executable, "-m", "lb", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
