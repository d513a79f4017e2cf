"""What the LB's tests share: a scripted worker, an LB on a thread of this process, a client that sees raw bytes.

All on real loopback sockets with ports from the OS. Workers record every request byte for byte, so that a test can say
what an upstream saw and, as important, what it never saw.
"""

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
import termios
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import h11

from lb.interface.counters import Counters
from lb.interface.settings import Settings, UpstreamSpec
from lb.process.event_loop import new_event_loop
from lb.process.server import Server
from tests.support.waiting import PATIENCE, wait_until

TIMEOUT = 10.0 * PATIENCE


def listening_socket(at: tuple[str, int] = ("127.0.0.1", 0)) -> socket.socket:
    listener = socket.create_server(at, backlog=4096)
    listener.settimeout(None)
    return listener


def kept_port(port: int, host: str) -> int:
    """A descriptor that keeps a port from others after its listener is gone: it is bound, and does not listen."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind((host, port))
        return holder.detach()


def response(body: bytes = b"hello", status: str = "200 OK", *fields: bytes) -> bytes:
    """Return a response as most workers send it: dated, so that it takes the LB's common path."""
    lines = [
        b"HTTP/1.1 " + status.encode(),
        b"Date: Mon, 23 Nov 2026 10:00:00 GMT",
        b"Content-Length: %d" % len(body),
        *fields,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class WorkerConnection:
    """One accepted connection: reads requests whole, writes what the script says."""

    def __init__(self, worker: "Worker", sock: socket.socket) -> None:
        self.worker = worker
        self.sock = sock
        self.buffer = b""
        self.eof = threading.Event()

    def receive(self) -> bytes:
        data = self.sock.recv(1 << 18)
        if not data:
            self.eof.set()
            raise EOFError
        return data

    def read_head(self) -> bytes:
        while b"\r\n\r\n" not in self.buffer:
            self.buffer += self.receive()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        return head + b"\r\n\r\n"

    def read_request(self) -> bytes:
        """Return head and body as they came; the body must be framed as the LB frames it."""
        head = self.read_head()
        lower = head.lower()
        if b"\r\ntransfer-encoding: chunked\r\n" in lower:
            while not (
                self.buffer.endswith(b"0\r\n\r\n")
                or (b"\r\n0\r\n" in self.buffer and self.buffer.endswith(b"\r\n\r\n"))
            ):
                self.buffer += self.receive()
            body, self.buffer = self.buffer, b""
            return head + body
        length = 0
        for line in lower.split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        while len(self.buffer) < length:
            self.buffer += self.receive()
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return head + body

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def wait_until_delivered(self) -> None:
        """Wait until the LB's kernel has all that was sent: a reset discards what is still on its way."""

        def unsent() -> int:
            queued = fcntl.ioctl(self.sock, termios.TIOCOUTQ, struct.pack("i", 0))
            return int(struct.unpack("i", queued)[0])

        wait_until(lambda: not unsent(), what="the delivery of what was sent")

    def read_to_end(self) -> bytes:
        """What comes until the LB ends this connection, in whatever way. TimeoutError: it does not."""
        self.sock.settimeout(TIMEOUT)
        found = self.buffer
        try:
            while data := self.sock.recv(65536):
                found += data
        except ConnectionResetError:
            pass
        return found

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.sock.close()


Behave = Callable[[WorkerConnection, bytes], None]


class Worker:
    """A scripted upstream. `behave(connection, request)` answers; health checks are answered apart, by `health`."""

    def __init__(
        self,
        name: str,
        behave: Behave | None = None,
        health: Callable[[], int] | None = None,
        at: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        self.name = name
        self.requests: list[bytes] = []
        self.probes = 0
        self.connections: list[WorkerConnection] = []
        self._behave: Behave = behave or (lambda connection, request: connection.send(response(self.name.encode())))
        self.over = threading.Event()
        self._heads_only = behave is raw
        self._health = health or (lambda: 200)
        self._listener = socket.create_server(at, backlog=4096, reuse_port=True)
        self.port = self._listener.getsockname()[1]
        # A connection that a test wants refused must not reach who else is given this port meanwhile.
        self.release_port = weakref.finalize(self, os.close, kept_port(self.port, at[0]))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection = WorkerConnection(self, sock)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: WorkerConnection) -> None:
        recorded = False
        with contextlib.suppress(OSError, EOFError), connection.sock:
            while True:
                request = connection.read_head() if self._heads_only else connection.read_request()
                if b"comet-health" in request:
                    self.probes += 1
                    connection.send(response(b"", f"{self._health()} Health"))
                    return
                if not recorded:
                    self.connections.append(connection)
                    recorded = True
                self.requests.append(request)
                self._behave(connection, request)

    def behave_after_head(self, behave: Behave) -> None:
        """Answer by `behave` once the head is there; it reads the body itself."""
        self._behave = behave

    def stop_listening(self) -> None:
        """Refuse connections from now on."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def close(self) -> None:
        """End it; its port stays taken until `release_port`."""
        self.over.set()
        self.stop_listening()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)


def raw(connection: WorkerConnection, request: bytes) -> None:
    """Read no body: the test speaks for the worker, whose thread only waits for the connection's end."""
    connection.worker.over.wait(TIMEOUT)


class Balancer:
    """An LB whose loop runs on a thread of this process."""

    def __init__(
        self,
        specs: tuple[UpstreamSpec, ...],
        settings: Settings,
        control: socket.socket | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        at: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        self.listener = listening_socket(at)
        self.port: int = self.listener.getsockname()[1]
        self.counters = Counters()
        self.loop = loop or new_event_loop()
        self.errors: list[dict[str, Any]] = []
        started = threading.Event()

        def main() -> None:
            asyncio.set_event_loop(self.loop)
            self.server = Server(self.loop, settings, self.listener, self.counters)
            self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
            self.loop.run_until_complete(self.server.start(specs, control, None))
            started.set()
            self.loop.run_until_complete(self.server.ended)
            self.loop.run_until_complete(self._settled())
            self.loop.close()

        self._thread = threading.Thread(target=main, daemon=True)
        self._thread.start()
        assert started.wait(TIMEOUT)
        self.proxy = self.server.proxy

    async def _settled(self) -> None:
        """Let transports finish closing: the loop must not be closed over them."""
        for _ in range(200):
            await asyncio.sleep(0.005)
            if not self.proxy.clients and not self.proxy._opening and len(asyncio.all_tasks()) == 1:
                break
        await asyncio.sleep(0.005)

    def call(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.loop.call_soon_threadsafe(function, *arguments)

    def settle(self) -> None:
        """Let the loop end what it is at: a client may have its answer before the LB has counted it."""
        if threading.current_thread() is self._thread:
            return
        done, end = threading.Event(), time.monotonic() + TIMEOUT
        with contextlib.suppress(RuntimeError):  # The loop is closed.
            self.call(done.set)
            while not done.wait(0.05) and self._thread.is_alive():
                assert time.monotonic() < end, "the loop is blocked"

    def count(self, name: str) -> int:
        self.settle()
        return self.counters.as_dict()[name]

    def upstream(self, name: str) -> Any:
        self.settle()
        return next(each for each in self.proxy.pool.order if each.name == name)

    def rest(self, name: str, seconds: float) -> None:
        """Have the idle connections to a worker been idle for so long; less than nothing: they stay as if just used."""
        for each in self.upstream(name).idle:
            each.idle_since = time.monotonic() - seconds

    def close(self) -> None:
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):
                self.call(self.server._drained)
        self._thread.join(TIMEOUT)
        assert self.errors == [], self.errors
        assert not self._thread.is_alive()

    def connect(self) -> "Client":
        return Client(self.port)

    def ask(self, request: bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") -> "Answer":
        with self.connect() as client:
            return client.ask(request)


class Answer:
    """One response as the client saw it."""

    def __init__(self, status: int, fields: list[tuple[bytes, bytes]], body: bytes, interim: list[int]) -> None:
        self.status = status
        self.fields = fields
        self.body = body
        self.interim = interim

    def __getitem__(self, name: str) -> str | None:
        values = [value.decode("latin-1") for key, value in self.fields if key == name.lower().encode()]
        return ", ".join(values) if values else None


class Client:
    """A raw connection to an LB; responses are read by h11, which must agree with us on framing."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    @classmethod
    def of(cls, sock: socket.socket) -> "Client":
        """A client on a connection that the test made."""
        made = cls.__new__(cls)
        made.sock = sock
        made.sock.settimeout(TIMEOUT)
        made.buffer = b""
        return made

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive(self, size: int = 65536) -> bytes:
        """What comes next; never nothing, so that no loop waits for what a connection that has ended cannot bring any
        more.
        """
        data = self.sock.recv(size)
        assert data, "the connection has ended"
        return data

    def ask(self, request: bytes, method: str | None = None) -> Answer:
        self.send(request)
        return self.answer(method or request.split(b" ", 1)[0].decode())

    def answer(self, method: str = "GET") -> Answer:
        """Read one response. h11.RemoteProtocolError: malformed or truncated."""
        h = h11.Connection(h11.CLIENT)
        h.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
        h.send(h11.EndOfMessage())
        if self.buffer:
            h.receive_data(self.buffer)
        status, fields, body, interim = 0, [], bytearray(), []
        while True:
            event = h.next_event()
            if event is h11.NEED_DATA:
                h.receive_data(self.sock.recv(1 << 18))
            elif isinstance(event, h11.InformationalResponse):
                interim.append(event.status_code)
                if event.status_code == 101:
                    break
            elif isinstance(event, h11.Response):
                status, fields = event.status_code, list(event.headers)
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            elif event is h11.PAUSED:
                status, fields = 101, []
                break
            else:
                raise AssertionError(event)
        self.buffer = h.trailing_data[0]
        return Answer(status, fields, bytes(body), interim)

    def read_to_end(self) -> bytes:
        """Read until the LB closes."""
        data, self.buffer = self.buffer, b""
        while chunk := self.sock.recv(1 << 18):
            data += chunk
        return data

    def closed(self) -> bool:
        """Say whether the LB has closed and nothing is left to read."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True


@contextlib.contextmanager
def lb_and_workers(
    *workers: Worker | Behave | None, count: int = 0, **settings: Any
) -> Iterator[tuple[Balancer, list[Worker]]]:
    """Run an LB before scripted workers; `count` adds workers that answer with their own name."""
    settings.setdefault("health_interval", 60.0)
    pool = [each if isinstance(each, Worker) else Worker(f"worker-{n}", each) for n, each in enumerate(workers)]
    pool += [Worker(f"worker-{n}") for n in range(len(pool), len(pool) + count)]
    specs = tuple(UpstreamSpec(f"worker-{n}", "127.0.0.1", each.port) for n, each in enumerate(pool))
    balancer = Balancer(specs, Settings(**settings))
    try:
        yield balancer, pool
    finally:
        try:
            balancer.close()
        finally:
            for each in pool:
                each.close()
                each.release_port()
