"""A shortage of our own (descriptors above all) ends no worker, no accepting and no control; idle clients pay for it,
oldest first.
"""

import contextlib
import errno
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from lb.interface import messages
from lb.interface.settings import Settings, UpstreamSpec
from tests.support.lb import (
    TIMEOUT,
    Balancer,
    Client,
    Worker,
    WorkerConnection,
    lb_and_workers,
    listening_socket,
    response,
)
from tests.support.waiting import wait_until
from tests.unit.lb.system.test_shortage import OURS

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok"

SERVE = """
import socket, sys
from lb.system import log
from lb.process.server import serve
from lb.interface.settings import Settings, UpstreamSpec
log.start(sys.argv[4])
settings = Settings(health_interval=float(sys.argv[5]), health_timeout=5.0, request_timeout=120.0,
                    faults=sys.argv[6] or None)
serve(settings, socket.socket(fileno=int(sys.argv[1])), (UpstreamSpec("worker-0", "127.0.0.1", int(sys.argv[2])),),
      None, socket.socket(fileno=int(sys.argv[3])))
"""


class Lb:
    """A load balancer as a process of its own with few descriptors, on the loop of uvloop or of asyncio."""

    def __init__(self, worker: Worker, folder: Path, loop: str, descriptors: int, interval: float, faults: str) -> None:
        self.log = folder / "lb.log"
        self.control = folder / "control"
        environment = dict(os.environ)
        if loop == "asyncio":
            (folder / "uvloop.py").write_text("raise ImportError\n")
            environment["PYTHONPATH"] = os.pathsep.join((str(folder), os.getcwd()))
        with listening_socket() as listener, socket.socket(socket.AF_UNIX) as control:
            self.port: int = listener.getsockname()[1]
            control.bind(str(self.control))
            control.listen(16)
            fds = (listener.fileno(), control.fileno())
            command = [sys.executable, "-c", SERVE, str(fds[0]), str(worker.port), str(fds[1]), str(self.log)]
            command += [str(interval), faults]
            self.process = subprocess.Popen(
                command,
                env=environment,
                pass_fds=fds,
                preexec_fn=lambda: limit_to(descriptors),
                stderr=subprocess.DEVNULL,
            )
        self.pid = self.process.pid

    def limit(self, descriptors: int) -> None:
        """Change the soft limit from outside, as an operator may."""
        hard = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (descriptors, hard))

    def processor_time(self) -> float:
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0]) / 1e9

    def said(self) -> str:
        return self.log.read_text()

    def says_healthy(self) -> bool:
        """What a supervisor that connects now is told about the worker."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(TIMEOUT)
            sock.connect(str(self.control))
            decoder, told = messages.Decoder(), []
            while not any(each["type"] == "health" for each in told):
                told += decoder.feed(sock.recv(65536))
        return bool(next(each for each in told if each["type"] == "health")["healthy"])

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)


@contextlib.contextmanager
def running(
    worker: Worker, folder: Path, loop: str = "uvloop", descriptors: int = 96, interval: float = 0.1, faults: str = ""
) -> Iterator[Lb]:
    lb = Lb(worker, folder, loop, descriptors, interval, faults)
    try:
        wait_until(lambda: lb.log.exists() and "accepts" in lb.said(), what="the start")
        yield lb
    finally:
        lb.close()
        worker.close()


def is_open(sock: socket.socket) -> bool:
    """Whether the other end has left this idle connection open."""
    sock.setblocking(False)
    try:
        return sock.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("used", [False, True], ids=["never used", "used once"])
def test_descriptor_shortage_closes_the_oldest_idle_clients(tmp_path: Path, loop: str, used: bool) -> None:
    held = threading.Event()

    def behave(connection: WorkerConnection, request: bytes) -> None:
        if request.startswith(b"GET /held"):
            held.wait(120)
        connection.send(response())

    with running(Worker("worker-0", behave), tmp_path, loop) as lb, contextlib.ExitStack() as crowd:
        busy = crowd.enter_context(Client(lb.port))
        busy.send(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
        idle = []
        for _ in range(300):
            idle.append(client := crowd.enter_context(Client(lb.port)))
            if used:
                assert client.ask(GET).status == 200
        before, began = lb.processor_time(), time.monotonic()
        with Client(lb.port) as late:
            assert late.ask(GET).status == 200
        assert lb.says_healthy()
        time.sleep(1.5)  # A dozen checks.
        assert lb.processor_time() - before < 2 / 3 * (time.monotonic() - began)
        assert "unhealthy" not in lb.said()
        assert lb.says_healthy()
        with Client(lb.port) as late:
            assert late.ask(POST).status == 200
        open_now = [is_open(client.sock) for client in idle]
        first = open_now.index(True)
        assert first > 200
        assert all(open_now[first:])
        held.set()
        assert busy.answer().status == 200


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_new_clients_wait_while_all_are_busy(tmp_path: Path, loop: str) -> None:
    go = threading.Event()

    def behave(connection: WorkerConnection, request: bytes) -> None:
        go.wait(120)
        connection.send(response())

    with running(Worker("worker-0", behave), tmp_path, loop) as lb, contextlib.ExitStack() as crowd:
        clients = [crowd.enter_context(Client(lb.port)) for _ in range(120)]
        for client in clients:
            client.send(GET)
        before, began = lb.processor_time(), time.monotonic()
        time.sleep(1.5)
        assert lb.processor_time() - before < 0.5 * (time.monotonic() - began)
        assert lb.says_healthy()
        go.set()
        assert [client.answer().status for client in clients] == [200] * 120
        assert "unhealthy" not in lb.said()


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_lowered_descriptor_limit_neither_spins_nor_stops(tmp_path: Path, loop: str) -> None:
    """Here each accept fails at once, whatever is reserved."""
    go = threading.Event()

    def behave(connection: WorkerConnection, request: bytes) -> None:
        if request.startswith(b"GET /held"):
            go.wait(120)
        connection.send(response())

    with running(Worker("worker-0", behave), tmp_path, loop, 400) as lb, contextlib.ExitStack() as crowd:
        clients = [crowd.enter_context(Client(lb.port)) for _ in range(60)]
        for client in clients:
            client.send(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.5)
        lb.limit(64)
        crowd.enter_context(Client(lb.port))
        time.sleep(1.5)
        before, began = lb.processor_time(), time.monotonic()
        time.sleep(1.0)
        assert lb.processor_time() - before < 0.5 * (time.monotonic() - began)
        assert "unhealthy" not in lb.said()
        lb.limit(400)
        go.set()
        assert [client.answer().status for client in clients] == [200] * 60
        with Client(lb.port) as late:
            assert late.ask(GET).status == 200
        wait_until(lb.says_healthy, what="control")


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize(
    ("free", "lasts"), [(1, False), (2, False), (2, True)], ids=["accepting", "connecting", "connecting, for long"]
)
def test_a_shortage_in_the_injector_marks_no_worker_suspect(tmp_path: Path, loop: str, free: int, lasts: bool) -> None:
    """A request through it takes three descriptors: the connection to it, its own end of that, and the connection to
    the worker.
    """
    folder = tmp_path / "faults"
    folder.mkdir()
    (folder / "worker-0.json").write_text('{"avg-delay": 300, "delay-distribution": "constant"}')
    with running(Worker("worker-0"), tmp_path, loop, 400, 600.0, str(folder)) as lb, Client(lb.port) as client:
        wait_until(lambda: "active faults of worker-0: avg-delay 300" in lb.said(), what="the fault")
        assert client.ask(GET).status == 200
        lb.limit(limit_leaving(lb, free))
        client.send(POST)
        time.sleep(0.6)
        if not lasts:
            lb.limit(400)
        answer = client.answer("POST")
        lb.limit(400)
        assert (answer.status, answer["Retry-After"]) == ((503, "1") if lasts else (200, None))
        assert lb.says_healthy()
        assert client.ask(POST).status == 200
        assert lb.said().count("\n") == 2  # That it accepts, and its faults.


def limit_leaving(lb: Lb, free: int) -> int:
    """The limit that leaves it `free` descriptors, once those of the last request are closed: the limit is one of their
    numbers.
    """
    seen: list[frozenset[int]] = []

    def calm() -> bool:
        seen.append(frozenset(map(int, os.listdir(f"/proc/{lb.pid}/fd"))))
        return len(set(seen[-100:])) == 1 and len(seen) > 100

    wait_until(calm, what="the same descriptors for half a second")
    return next(limit for limit in range(1, 1000) if limit - sum(taken < limit for taken in seen[-1]) == free)


class FailingLoop(uvloop.Loop):
    """A loop that cannot connect, to any port or to one of `ports`, while `number` is set, or so many times more."""

    number = 0
    attempts = 0
    left = -1
    ports: frozenset[int] = frozenset()

    async def create_connection(self, *arguments: Any, **keywords: Any) -> Any:
        if self.number and (not self.ports or arguments[2] in self.ports):
            self.attempts += 1
            self.left -= 1
            if not self.left:
                number, self.number = self.number, 0
                raise OSError(number, os.strerror(number))
            raise OSError(self.number, os.strerror(self.number))
        return await super().create_connection(*arguments, **keywords)


@pytest.mark.parametrize("number", OURS, ids=errno.errorcode.get)
def test_a_shortage_marks_no_worker_suspect(number: int) -> None:
    workers = [Worker("worker-0"), Worker("worker-1")]
    specs = tuple(UpstreamSpec(each.name, "127.0.0.1", each.port) for each in workers)
    loop = FailingLoop()
    lb = Balancer(specs, Settings(health_interval=0.05), loop=loop)
    try:
        loop.number = number
        answer = lb.ask(POST)
        assert (answer.status, answer["Retry-After"]) == (503, "1")
        seen = loop.attempts
        wait_until(lambda: loop.attempts > seen + 4, what="more checks")
        assert all(lb.upstream(each.name).ready and not lb.upstream(each.name).suspect for each in workers)
        assert lb.count("upstream_errors") == 0
        loop.number = 0
        assert [lb.ask(GET).status for _ in range(4)] == [200] * 4
        loop.number = number
        lb.call(lb.proxy.mark_suspect, lb.upstream("worker-0"), "a sign")
        seen = loop.attempts
        wait_until(lambda: loop.attempts > seen + 8, what="checks of the doubted one")
        assert lb.upstream("worker-0").health.healthy
    finally:
        lb.close()
        for each in workers:
            each.close()


def test_a_shortage_behind_the_injector_marks_no_suspect(tmp_path: Path) -> None:
    """Neither do requests fail that another worker can answer, nor are checks counted that could not be made."""
    workers = [Worker("worker-0"), Worker("worker-1")]
    specs = tuple(UpstreamSpec(each.name, "127.0.0.1", each.port) for each in workers)
    (tmp_path / "worker-0.json").write_text('{"avg-delay": 1}')
    loop = FailingLoop()
    lb = Balancer(specs, Settings(health_interval=0.05, faults=str(tmp_path)), loop=loop)
    try:
        wait_until(lambda: lb.upstream("worker-0").dial_address, what="the fault")
        loop.ports = frozenset({workers[0].port})
        loop.number = errno.EMFILE
        assert [lb.ask(GET).status for _ in range(4)] == [200] * 4
        answers = [lb.ask(POST) for _ in range(2)]
        assert sorted(answer.status for answer in answers) == [200, 503]
        assert {answer["Retry-After"] for answer in answers} == {None, "1"}
        seen = loop.attempts
        wait_until(lambda: loop.attempts > seen + 4, what="more checks")
        assert all(lb.upstream(each.name).ready and not lb.upstream(each.name).suspect for each in workers)
        assert lb.upstream("worker-0").health.healthy
        assert lb.count("upstream_errors") == 0
    finally:
        lb.close()
        for each in workers:
            each.close()


def test_a_short_shortage_fails_no_request() -> None:
    worker = Worker("worker-0")
    loop = FailingLoop()
    lb = Balancer((UpstreamSpec("worker-0", "127.0.0.1", worker.port),), Settings(health_interval=60.0), loop=loop)
    try:
        loop.number, loop.left = errno.EMFILE, 3
        with lb.connect() as client:
            client.send(POST)
            assert client.answer("POST").status == 200
        assert loop.attempts == 3
    finally:
        lb.close()
        worker.close()


def test_a_new_connection_takes_the_descriptor_of_an_idle_one() -> None:
    with lb_and_workers(count=2) as (lb, _), lb.connect() as idle:
        assert idle.ask(GET).status == 200
        time.sleep(0.15)
        lb.call(lb.proxy.on_shortage)
        assert idle.closed()
        assert lb.upstream("worker-0").idle
        lb.call(lb.proxy.on_shortage)
        wait_until(lambda: not lb.upstream("worker-0").connections, what="the idle connection to a worker")


SHORT_LOG: str = """
import logging, os, resource, sys
from lb.system import log
log.MAX_BYTES = 500
log.start(sys.argv[1])
logger = logging.getLogger("lb")
for n in range(6): logger.info("line %d", n)
held = []
while True:
    try: held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError: break
handler = logger.handlers[0]
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
for n in range(30): logger.info("short %d", n)
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
for fd in held: os.close(fd)
logger.info("long again")
print("to stdout", flush=True)
"""


def test_a_log_that_could_not_be_reopened_is_followed_later(tmp_path: Path) -> None:
    path = tmp_path / "lb.log"
    subprocess.run([sys.executable, "-c", SHORT_LOG, str(path)], check=True, preexec_fn=lambda: limit_to(64))
    assert path.read_text().endswith("long again\nto stdout\n")


def limit_to(descriptors: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))


def test_idle_clients_of_the_front_make_room(tmp_path: Path) -> None:
    with running(Worker("worker-0"), tmp_path, descriptors=96) as lb, contextlib.ExitStack() as stack:
        control = stack.enter_context(socket.socket(socket.AF_UNIX))
        control.connect(str(lb.control))
        control.sendall(messages.encode(messages.front({"failure": 100, "path": "/other"}, str(tmp_path))))
        wait_until(lambda: ask(lb.port, GET.replace(b" / ", b" /other ")) == 500, what="the order")
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", lb.port))) for _ in range(150)]
        wait_until(lambda: not is_open(idle[0]), what="room for the latest")
        assert [ask(lb.port, GET) for _ in range(5)] == [200] * 5
        assert len(os.listdir(f"/proc/{lb.pid}/fd")) < 64


def ask(port: int, request: bytes) -> int:
    with Client(port) as client:
        return client.ask(request).status
