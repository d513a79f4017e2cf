"""What scripted workers do, and the other end of a load balancer's control connection."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from lb.interface import messages
from lb.interface.messages import Message
from lb.interface.settings import Settings, UpstreamSpec
from tests.support.lb import TIMEOUT, Balancer, Behave, Worker, WorkerConnection, response

GET = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
PUT = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"


def close(connection: WorkerConnection, request: bytes) -> None:
    connection.sock.close()


def hang(connection: WorkerConnection, request: bytes) -> None:
    connection.worker.over.wait(TIMEOUT)


def after(seconds: float) -> Behave:
    def behave(connection: WorkerConnection, request: bytes) -> None:
        time.sleep(seconds)
        connection.send(response(connection.worker.name.encode()))

    return behave


def once(event: threading.Event) -> Behave:
    """Answer once the event is there."""

    def behave(connection: WorkerConnection, request: bytes) -> None:
        assert event.wait(60)
        connection.send(response(connection.worker.name.encode()))

    return behave


def full(connection: WorkerConnection, request: bytes) -> None:
    connection.send(response(b"full", "503 Service Unavailable", b"Retry-After: 1", b"X-Comet-Full: 1"))


@contextlib.contextmanager
def deaf_port() -> Iterator[int]:
    """A port that takes no connection, and does not say so: its accept queue is full, further SYNs are dropped."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        yield full.getsockname()[1]


class Supervisor:
    """The other end of the control socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(TIMEOUT)
        self._decoder = messages.Decoder()
        self._waiting: list[Message] = []

    def send(self, message: Message) -> None:
        self.sock.sendall(messages.encode(message))

    def receive(self, kind: str) -> Message:
        """Return the next message of a kind, dropping others."""
        while True:
            while self._waiting:
                message = self._waiting.pop(0)
                if message["type"] == kind:
                    return message
            data = self.sock.recv(65536)
            if not data:
                raise EOFError
            self._waiting = self._decoder.feed(data)


@contextlib.contextmanager
def supervised(*behaviours: Worker | Behave | None, **settings: Any) -> Any:
    workers = [each if isinstance(each, Worker) else Worker(f"worker-{n}", each) for n, each in enumerate(behaviours)]
    specs = [UpstreamSpec(worker.name, "127.0.0.1", worker.port) for worker in workers]
    ours, theirs = socket.socketpair()
    settings.setdefault("health_interval", 60.0)
    lb = Balancer(tuple(specs), Settings(**settings), theirs)
    try:
        yield lb, workers, specs, Supervisor(ours)
    finally:
        ours.close()
        lb.close()
        for worker in workers:
            worker.close()


def silent() -> Worker:
    """A machine that is gone: connections to it stay open, and nothing comes on them."""
    made = Worker("worker-0", hang, health=lambda: 200 if made.over.wait(TIMEOUT) else 0)
    return made
