"""When a service answers again after a kill, as its clients see it."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from scripts.bench.kills import ask, first_200

pytestmark = pytest.mark.slow

ANSWER = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def serve(listener: socket.socket, *answers: bytes | None) -> list[socket.socket]:
    """Answer one connection after the other; None: keep it and say nothing. Returns those that were kept."""
    kept = []

    def one_by_one() -> None:
        for answer in answers:
            peer, _ = listener.accept()
            peer.recv(1000)
            if answer is None:
                kept.append(peer)
                continue
            with peer:
                peer.sendall(answer)

    threading.Thread(target=one_by_one, daemon=True).start()
    return kept


def test_a_connection_that_is_accepted_and_never_answered_keeps_nobody_behind_it_waiting(listener: socket.socket) -> None:
    kept = serve(listener, None, None, ANSWER)
    began = time.monotonic()
    answered, met = first_200(listener.getsockname()[1], "/", 30)
    assert (answered is not None, met) == (True, {})
    assert time.monotonic() - began < 8  # Two of them would have taken twice PATIENCE.
    for peer in kept:
        peer.close()


def test_what_else_attempts_met_is_counted(listener: socket.socket) -> None:
    serve(listener, b"", b"HTTP/1.1 503 No\r\n\r\n", b"HTTP/1.1 200 OK\r\n", ANSWER)
    answered, met = first_200(listener.getsockname()[1], "/", 30)
    assert answered is not None
    assert met == {"broken": 2, "503": 1}


def test_nobody_there_is_refused_until_time_is_up(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()
    assert ask(port, "/") == "refused"
    answered, met = first_200(port, "/", 0.2)
    assert answered is None
    assert met.keys() == {"refused"}
