"""No client takes a response that broke off for a whole one: every cause, version and framing. What can be told by the
framing may end by FIN; what only the end of the connection tells must end by RST.
"""

import contextlib
import itertools
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import h11
import pytest

from tests.support.lb import Balancer, Client, Worker, WorkerConnection, lb_and_workers, listening_socket, response
from tests.support.waiting import PATIENCE, wait_until

CLIENTS = {
    "1.0": b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
    "1.0 keep-alive": b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
    "1.1": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "1.1 close": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
}
FRAMINGS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nhello",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "until close": b"HTTP/1.1 200 OK\r\n\r\nhello",
    "until close, 1.0": b"HTTP/1.0 200 OK\r\n\r\nhello",
}
Cause = Callable[[Balancer, WorkerConnection], None]


def resets(lb: Balancer, worker: WorkerConnection) -> None:
    worker.reset()


def ends(lb: Balancer, worker: WorkerConnection) -> None:
    """What the end of a killed worker's process looks like."""
    worker.sock.shutdown(socket.SHUT_RDWR)


def breaks_the_chunks(lb: Balancer, worker: WorkerConnection) -> None:
    worker.send(b"no size\r\n")


def stops(lb: Balancer, worker: WorkerConnection) -> None:
    lb.call(lb.server._drained)


def drains(lb: Balancer, worker: WorkerConnection) -> None:
    lb.call(lb.server._drain, 0.1)


def stalls(lb: Balancer, worker: WorkerConnection) -> None:
    """The body-timeout ends it."""


CAUSES: dict[str, Cause] = {each.__name__: each for each in (resets, ends, breaks_the_chunks, stops, drains, stalls)}


def until_the_end(sock: socket.socket) -> tuple[bytes, bool]:
    """All that came, and whether a reset ended it."""
    sock.settimeout(10 * PATIENCE)
    seen = b""
    try:
        while data := sock.recv(1 << 18):
            seen += data
    except ConnectionResetError:
        return seen, True
    return seen, False


def is_whole(data: bytes) -> bool:
    """Whether a strict client takes this, ended by FIN, for a whole response."""
    h = h11.Connection(h11.CLIENT)
    h.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    h.send(h11.EndOfMessage())
    try:
        h.receive_data(data)
        h.receive_data(b"")
        while True:
            event = h.next_event()
            if isinstance(event, h11.EndOfMessage):
                return True
            if event is h11.NEED_DATA or isinstance(event, h11.ConnectionClosed):
                return False
    except h11.RemoteProtocolError:
        return False


@contextlib.contextmanager
def begun(framing: bytes, request: bytes, **settings: float) -> Iterator[tuple[Balancer, WorkerConnection, Client]]:
    """A response of which the client has seen the first bytes."""

    def behave(connection: WorkerConnection, _: bytes) -> None:
        connection.send(framing)
        connection.worker.over.wait(10)

    with lb_and_workers(behave, **settings) as (lb, (worker,)), lb.connect() as client:
        client.send(request)
        while b"hello" not in client.buffer:
            client.buffer += client.receive()
        yield lb, worker.connections[0], client


def breaks_off(cause: str, framing: str) -> bool:
    """Whether this cause breaks a response of this framing off, rather than ending it in order."""
    return cause != "breaks_the_chunks" or framing == "chunked" if cause != "ends" else "until close" not in framing


@pytest.mark.parametrize("request_bytes", CLIENTS.values(), ids=CLIENTS.keys())
@pytest.mark.parametrize(
    ("cause", "framing"), [pair for pair in itertools.product(CAUSES, FRAMINGS) if breaks_off(*pair)]
)
def test_a_truncated_response_is_never_taken_for_complete(request_bytes: bytes, framing: str, cause: str) -> None:
    body_timeout = 0.3 if cause == "stalls" else 60.0
    with begun(FRAMINGS[framing], request_bytes, body_timeout=body_timeout) as (lb, worker, client):
        CAUSES[cause](lb, worker)
        rest, reset = until_the_end(client.sock)
        head = client.buffer.lower()
        if b"content-length" in head or b"transfer-encoding" in head:
            assert reset or not is_whole(client.buffer + rest)
        else:
            assert reset


SERVE = """
import socket, sys
from lb.process.server import serve
from lb.interface.settings import Settings, UpstreamSpec
upstream = UpstreamSpec("worker-0", "127.0.0.1", int(sys.argv[2]))
serve(Settings(shutdown_grace=0.2), socket.socket(fileno=int(sys.argv[1])), (upstream,))
"""


@pytest.mark.parametrize("request_bytes", CLIENTS.values(), ids=CLIENTS.keys())
@pytest.mark.parametrize(
    "numbers", [(signal.SIGKILL,), (signal.SIGTERM,), (signal.SIGTERM, signal.SIGTERM)], ids=["kill", "grace", "twice"]
)
def test_a_dying_lb_never_makes_a_response_look_complete(
    request_bytes: bytes, numbers: tuple[signal.Signals, ...]
) -> None:
    def behave(connection: WorkerConnection, request: bytes) -> None:
        framing = FRAMINGS[request.split(b" ")[1][1:].decode().replace("_", " ")]
        connection.send(framing)
        connection.worker.over.wait(10)

    worker = Worker("worker-0", behave)
    with listening_socket() as listener:
        port = listener.getsockname()[1]
        command = [sys.executable, "-c", SERVE, str(listener.fileno()), str(worker.port)]
        process = subprocess.Popen(command, pass_fds=(listener.fileno(),), stderr=subprocess.DEVNULL)
    try:
        with contextlib.ExitStack() as stack:
            clients = {}
            for framing in ("length", "chunked", "until_close"):
                client = clients[framing] = stack.enter_context(Client(port))
                client.send(request_bytes.replace(b" / ", b" /%s " % framing.encode()))
                while b"hello" not in client.buffer:
                    client.buffer += client.receive()
            for number in numbers:
                process.send_signal(number)
                time.sleep(0.05)
            for client in clients.values():
                rest, reset = until_the_end(client.sock)
                head = client.buffer.lower()
                framed = b"content-length" in head or b"transfer-encoding" in head
                assert reset or (framed and not is_whole(client.buffer + rest))
    finally:
        process.kill()
        process.wait(10)
        worker.close()


@pytest.mark.parametrize("size", [0, 5, 3_000_000])
@pytest.mark.parametrize("request_bytes", [CLIENTS["1.0"], CLIENTS["1.0 keep-alive"]])
def test_a_complete_close_delimited_response_ends_with_fin(size: int, request_bytes: bytes) -> None:
    def behave(connection: WorkerConnection, request: bytes) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for at in range(0, size, 100_000):
            piece = bytes(min(100_000, size - at))
            connection.send(b"%x\r\n" % len(piece) + piece + b"\r\n")
        connection.send(b"0\r\n\r\n")

    with lb_and_workers(behave) as (lb, _), lb.connect() as client:
        client.send(request_bytes)
        time.sleep(0.2)
        seen, reset = until_the_end(client.sock)
        assert not reset
        assert len(seen.partition(b"\r\n\r\n")[2]) == size


@pytest.mark.parametrize("framing", FRAMINGS)
def test_data_sent_before_a_reset_arrives_before_it(framing: str) -> None:
    """The client reads late: a reset at once would throw away what the kernel has for it."""
    volume = 600_000
    sent = FRAMINGS[framing].replace(b"1000000", b"10000000")
    body = bytes(volume)
    piece = b"%x\r\n" % volume + body + b"\r\n" if framing == "chunked" else body

    def behave(connection: WorkerConnection, request: bytes) -> None:
        connection.send(sent + piece)
        connection.wait_until_delivered()
        connection.reset()

    with lb_and_workers(behave) as (lb, _), socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        sock.connect(("127.0.0.1", lb.port))
        sock.sendall(CLIENTS["1.1"])
        wait_until(lambda: lb.count("in_flight") == 0 and lb.count("requests") == 1, what="the break")
        seen, reset = until_the_end(sock)
        assert reset
        assert seen.count(b"\0") == volume


# Slow readers.


def slow_client(lb: Balancer, request: bytes) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", lb.port))
    sock.sendall(request)
    return sock


def test_slow_but_steady_readers_get_the_whole_response() -> None:
    """Slower than the kernel asks for more: nothing reaches our own buffer's end within the body-timeout."""
    size = 6_000_000
    with (
        lb_and_workers(lambda connection, _: connection.send(response(bytes(size))), body_timeout=2.4) as (lb, _),
        contextlib.ExitStack() as stack,
    ):
        socks = [stack.enter_context(contextlib.closing(slow_client(lb, each))) for each in CLIENTS.values()]
        seen = dict.fromkeys(socks, 0)
        began = time.monotonic()
        while time.monotonic() - began < 7.0:
            time.sleep(0.05)
            for sock in socks:
                seen[sock] += len(sock.recv(16384))
        assert lb.count("connections") == len(socks)

        def read_the_rest(sock: socket.socket) -> None:
            sock.settimeout(10 * PATIENCE)
            while seen[sock] < size and (data := sock.recv(1 << 18)):
                seen[sock] += len(data)

        readers = [threading.Thread(target=read_the_rest, args=(sock,)) for sock in socks]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        assert min(seen.values()) > size


@pytest.mark.parametrize("request_bytes", CLIENTS.values(), ids=CLIENTS.keys())
def test_a_client_that_stops_reading_is_dropped_after_the_queue(request_bytes: bytes) -> None:
    size = 20_000_000
    with (
        lb_and_workers(lambda connection, _: connection.send(response(bytes(size))), body_timeout=0.6) as (lb, _),
        contextlib.closing(slow_client(lb, request_bytes)) as sock,
    ):
        wait_until(lambda: lb.count("requests") == 1 and lb.count("connections") == 0, what="the end")
        seen, reset = until_the_end(sock)
        assert not reset
        assert 100_000 < len(seen) < size
        assert not is_whole(seen)


def test_a_stalled_reader_of_an_unframed_response_is_reset() -> None:
    def pour(connection: WorkerConnection, request: bytes) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(20_000_000))

    with lb_and_workers(pour, body_timeout=0.6) as (lb, _), contextlib.closing(slow_client(lb, CLIENTS["1.0"])) as sock:
        wait_until(lambda: lb.count("requests") == 1 and lb.count("connections") == 0, what="the end")
        assert until_the_end(sock)[1]


@pytest.mark.parametrize("chunked", [False, True])
def test_an_upload_to_a_worker_that_reads_slowly_is_waited_for(chunked: bool) -> None:
    size = 3_000_000

    class Slow(Worker):
        def _serve(self, connection: WorkerConnection) -> None:
            with contextlib.suppress(OSError, EOFError), connection.sock:
                head = connection.sock.recv(4096)
                if b"comet-health" in head:
                    connection.send(response())
                    return
                began, end = time.monotonic(), b"\r\n0\r\n\r\n" if chunked else b""
                seen, tail = len(head.partition(b"\r\n\r\n")[2]), b""
                while seen < size or not tail.endswith(end):
                    if time.monotonic() - began < 7.0:
                        time.sleep(0.05)
                        data = connection.sock.recv(16384)
                    else:
                        data = connection.sock.recv(1 << 18)
                    seen += len(data)
                    tail = (tail + data)[-8:]
                connection.send(response(b"taken"))

    with lb_and_workers(Slow("worker-0"), body_timeout=2.4, request_timeout=2.4) as (lb, _), lb.connect() as client:
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
        data = b"%x\r\n" % size + bytes(size) + b"\r\n0\r\n\r\n" if chunked else bytes(size)
        sender = threading.Thread(
            target=client.sock.sendall, args=(b"POST / HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n" + data,)
        )
        sender.start()
        assert client.answer("POST").body == b"taken"
        sender.join(10)
        assert not lb.upstream("worker-0").suspect


def test_an_upload_to_a_worker_that_reads_nothing_ends_in_time() -> None:
    class Deaf(Worker):
        def _serve(self, connection: WorkerConnection) -> None:
            with connection.sock:
                self.over.wait(60)

    with lb_and_workers(Deaf("worker-0"), body_timeout=2.4, request_timeout=2.4) as (lb, _), lb.connect() as client:
        sender = threading.Thread(target=swallow, args=(client,), daemon=True)
        sender.start()
        began = time.monotonic()
        assert client.answer("POST").status == 504
        assert time.monotonic() - began < 10 * PATIENCE


def swallow(client: Client) -> None:
    with contextlib.suppress(OSError):
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8000000\r\n\r\n" + bytes(8_000_000))


@pytest.mark.parametrize("request_bytes", [CLIENTS["1.0"], CLIENTS["1.1 close"]])
def test_bytes_sent_during_the_last_response_do_not_reset_it(request_bytes: bytes) -> None:
    """RFC 9112 section 9.6."""
    size = 3_000_000
    with (
        lb_and_workers(lambda connection, _: connection.send(response(bytes(size)))) as (lb, _),
        contextlib.closing(slow_client(lb, request_bytes)) as sock,
    ):
        time.sleep(0.2)
        for _ in range(5):
            sock.sendall(CLIENTS["1.1"])
            time.sleep(0.02)
        seen, reset = 0, False
        sock.settimeout(10 * PATIENCE)
        try:
            while data := sock.recv(1 << 16):
                seen += len(data)
                if seen < size // 2:
                    sock.sendall(b"x")
        except (ConnectionResetError, BrokenPipeError):
            reset = True
        assert not reset
        assert seen > size


def test_a_client_sending_past_a_refusal_gets_the_response() -> None:
    with lb_and_workers(count=1, linger_timeout=1.5) as (lb, _), lb.connect() as client:
        client.send(b"GET / HTTP/9.1\r\nHost: a\r\n\r\n")
        for _ in range(16):
            time.sleep(0.15)
            client.send(b"more")
        assert client.answer().status == 505
        wait_until(lambda: lb.count("connections") == 0, what="the end")


# Half-close.


@pytest.mark.parametrize(
    "request_bytes", [*CLIENTS.values(), b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok"]
)
def test_a_half_closed_client_gets_its_late_response(request_bytes: bytes) -> None:
    def slow(connection: WorkerConnection, request: bytes) -> None:
        time.sleep(1.5)
        connection.send(response(b"late"))

    with lb_and_workers(slow) as (lb, _), lb.connect() as client:
        client.send(request_bytes)
        client.sock.shutdown(socket.SHUT_WR)
        seen, reset = until_the_end(client.sock)
        assert seen.endswith(b"late")
        assert not reset
        wait_until(lambda: lb.count("connections") == 0, what="the end")
        assert lb.count("aborted") == 0


def test_the_request_timeout_bounds_a_half_closed_wait() -> None:
    with (
        lb_and_workers(lambda connection, _: connection.worker.over.wait(10), request_timeout=0.5) as (lb, _),
        lb.connect() as client,
    ):
        client.send(CLIENTS["1.1"])
        client.sock.shutdown(socket.SHUT_WR)
        assert client.answer().status == 504


def test_a_half_closed_client_in_the_queue_is_served_in_turn() -> None:
    go = threading.Event()

    def slow(connection: WorkerConnection, request: bytes) -> None:
        go.wait(10)
        connection.send(response())

    with lb_and_workers(slow, max_in_flight=1) as (lb, _), lb.connect() as first, lb.connect() as second:
        first.send(CLIENTS["1.1"])
        wait_until(lambda: lb.count("in_flight") == 1)
        second.send(CLIENTS["1.1"])
        second.sock.shutdown(socket.SHUT_WR)
        wait_until(lambda: lb.count("queued") == 1)
        time.sleep(1.2)
        go.set()
        assert (first.answer().status, second.answer().status) == (200, 200)
