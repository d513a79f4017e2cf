"""`python -m worker_app.relay`: bytes pass unchanged both ways, and the end of one side ends both."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.waiting import PATIENCE, wait_until


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10 * PATIENCE)
        yield listener


@contextlib.contextmanager
def relay(folder: Path, port: int) -> Iterator[Path]:
    path = folder / "s"
    command = [sys.executable, "-m", "worker_app.relay", str(path), f"127.0.0.1:{port}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(path.exists, 10, "the relay's socket")
        yield path
    finally:
        process.terminate()
        process.communicate(timeout=10 * PATIENCE)
    assert process.returncode == 0


def connect(path: Path) -> socket.socket:
    def attempt() -> socket.socket | None:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(10 * PATIENCE)
        try:
            client.connect(str(path))
        except ConnectionRefusedError:  # The socket is bound, and not listened on yet.
            client.close()
            return None
        return client

    client = wait_until(attempt, 10, "the relay")
    assert client is not None
    return client


def received(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (piece := sock.recv(1 << 20)):
        data += piece
    return data


def test_bytes_pass_unchanged_both_ways(tmp_path: Path, server: socket.socket) -> None:
    sent = os.urandom(4 << 20)
    with relay(tmp_path, server.getsockname()[1]) as path, connect(path) as client:
        other, _ = server.accept()
        with other:
            for one, two in ((client, other), (other, client)):
                sender = threading.Thread(target=one.sendall, args=(sent,))
                sender.start()
                assert received(two, len(sent)) == sent
                sender.join()


@pytest.mark.parametrize("ending", ["client", "server"])
def test_the_end_of_one_side_ends_both_and_loses_nothing(tmp_path: Path, server: socket.socket, ending: str) -> None:
    with relay(tmp_path, server.getsockname()[1]) as path, connect(path) as client:
        other, _ = server.accept()
        with other:
            first, second = (client, other) if ending == "client" else (other, client)
            first.sendall(b"last")
            first.close()
            assert received(second, 5) == b"last"


def test_a_refusing_server_ends_the_connection_open_ones_too(tmp_path: Path, server: socket.socket) -> None:
    with relay(tmp_path, server.getsockname()[1]) as path:
        open_one = connect(path)
        other, _ = server.accept()
        other.sendall(b"x")
        assert open_one.recv(1) == b"x"
        server.close()
        with connect(path) as refused, contextlib.suppress(ConnectionResetError):
            assert refused.recv(1) == b""
    open_one.close()
    other.close()
