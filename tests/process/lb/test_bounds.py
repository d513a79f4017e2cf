"""What is scarce stays bounded: file descriptors, and memory under bodies far larger than it (full size:
COMET_TEST_FULL=1).
"""

import contextlib
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.cluster import free_ports
from tests.support.lb import Client, Worker, WorkerConnection, raw, response
from tests.support.waiting import wait_until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
SIZE = (500 if os.environ.get("COMET_TEST_FULL") else 64) << 20
PIECE = bytes(1 << 20)
BOUND = 8 << 20  # of growth: a few buffers, and what the allocator keeps


@contextlib.contextmanager
def balancer(worker: Worker, descriptors: int | None = None) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run `python -m lb` as a process of its own, with a limit on its descriptors if given."""

    def limit() -> None:
        if descriptors is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    port = free_ports(1)
    command = [sys.executable, "-m", "lb", "--listen", f"127.0.0.1:{port}", "--upstream", f"127.0.0.1:{worker.port}"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, preexec_fn=limit)
    try:
        wait_until(lambda: answers(port), what="the first answer")
        yield port, process
    finally:
        process.terminate()
        try:
            process.wait(15)
        finally:
            process.kill()
            worker.close()


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0) as sock:
        sock.sendall(GET)
        return sock.recv(100).startswith(b"HTTP/1.1 200")
    return False


def is_served(sock: socket.socket) -> bool:
    """Whether an answer has come, which stays unread."""
    with contextlib.suppress(OSError):
        return sock.recv(100, socket.MSG_PEEK | socket.MSG_DONTWAIT).startswith(b"HTTP/1.1 200")
    return False


def resident(process: subprocess.Popen[bytes]) -> int:
    """Return the process's memory in bytes."""
    with open(f"/proc/{process.pid}/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def processor_time(process: subprocess.Popen[bytes]) -> float:
    with open(f"/proc/{process.pid}/schedstat") as schedstat:
        return int(schedstat.read().split()[0]) / 1e9


def test_a_truncated_response_under_fd_shortage_is_incomplete() -> None:
    """RFC 9112 section 8: to an HTTP/1.0 client an orderly end would say that the body is complete."""
    full = threading.Event()

    def cut(connection: WorkerConnection, request: bytes) -> None:
        if not request.startswith(b"GET /cut "):
            connection.send(response())
            return
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        full.wait(20)
        connection.sock.close()

    with (
        balancer(Worker("worker-0", cut), descriptors=48) as (port, process),
        contextlib.ExitStack() as crowd,
        Client(port) as client,
    ):
        client.send(b"GET /cut HTTP/1.0\r\nHost: a\r\n\r\n")
        seen = b""
        while not seen.endswith(b"hello"):
            seen += client.receive()
        for _ in range(60):
            crowd.enter_context(socket.create_connection(("127.0.0.1", port)))
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (3, 48))
        full.set()
        with pytest.raises(ConnectionResetError):
            client.receive()


def test_descriptor_shortage_sheds_load_and_recovers() -> None:
    """Those it has are served, nobody spins, and all is well again when they are gone."""
    with balancer(Worker("worker-0"), descriptors=48) as (port, process), contextlib.ExitStack() as crowd:
        socks = []
        for _ in range(120):
            socks.append(sock := crowd.enter_context(socket.create_connection(("127.0.0.1", port))))
            sock.settimeout(0.05)
            with contextlib.suppress(OSError):
                sock.sendall(GET)
                sock.recv(1, socket.MSG_PEEK)
        wait_until(lambda: sum(is_served(sock) for sock in socks) >= 10, what="those that it has room for")
        before, began = processor_time(process), time.monotonic()
        time.sleep(0.5)
        assert processor_time(process) - before < 0.5 * (time.monotonic() - began)
        assert process.poll() is None
        crowd.close()
        wait_until(lambda: answers(port), what="recovery")


def test_a_large_download_to_a_paused_reader_is_not_buffered() -> None:
    def pour(connection: WorkerConnection, request: bytes) -> None:
        if request.startswith(b"GET /large"):
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
            for _ in range(SIZE // len(PIECE)):
                connection.send(PIECE)
        else:
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with balancer(Worker("worker-0", pour)) as (port, process), Client(port) as client:
        before, highest, received, pauses = resident(process), 0, 0, 0
        client.send(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        while data := client.sock.recv(1 << 20):
            received += len(data)
            if received > pauses * SIZE // 4:
                pauses += 1
                time.sleep(0.3)
            highest = max(highest, resident(process))
        assert SIZE < received < SIZE + 1000
        assert highest - before < BOUND


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_upload_to_a_worker_that_pauses_is_not_buffered(chunked: bool) -> None:
    worker = Worker("worker-0", raw)
    taken: list[int] = []

    def swallow(connection: WorkerConnection, request: bytes) -> None:
        if b" /large" not in request:
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            return
        size, pauses = len(connection.buffer), 0
        while size < SIZE or (chunked and not connection.buffer.endswith(b"\r\n0\r\n\r\n")):
            piece = connection.receive()
            size += len(piece)
            connection.buffer = connection.buffer[-7:] + piece
            if size > pauses * SIZE // 4:
                pauses += 1
                time.sleep(0.3)
        taken.append(size)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    worker.behave_after_head(swallow)
    with balancer(worker) as (port, process), Client(port) as client:
        before, highest = resident(process), 0

        def upload() -> None:
            framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % SIZE
            client.send(b"PUT /large HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n")
            for _ in range(SIZE // len(PIECE)):
                client.send(b"%x\r\n" % len(PIECE) + PIECE + b"\r\n" if chunked else PIECE)
            if chunked:
                client.send(b"0\r\n\r\n")

        sender = threading.Thread(target=upload, daemon=True)
        sender.start()
        while sender.is_alive():
            highest = max(highest, resident(process))
            sender.join(0.02)
        assert client.answer("PUT").status == 200
        assert taken[0] >= SIZE - 64
        assert highest - before < BOUND
