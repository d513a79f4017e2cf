"""When a service answers again after a kill, as its clients see it."""

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from scripts.bench import kills
from scripts.bench.kills import QUICK_ANSWER, ask, first_200

ANSWER = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made
        made.shutdown(socket.SHUT_RDWR)


def serve(listener: socket.socket, *answers: bytes | None, pause: float = 0.0) -> list[socket.socket]:
    """Answer one connection after the other, each after a pause; None: keep it and say nothing. All later ones, of
    which a busy machine sees some, get the last answer. Returns those that were kept.
    """
    kept = []

    def one_by_one() -> None:
        for answer in itertools.chain(answers, itertools.repeat(answers[-1])):
            peer, _ = listener.accept()
            if answer is None:
                kept.append(peer)
                continue
            time.sleep(pause)
            with peer, contextlib.suppress(ConnectionError):
                peer.recv(1000)
                peer.sendall(answer)

    def until_it_is_closed() -> None:
        with contextlib.suppress(OSError):
            one_by_one()

    threading.Thread(target=until_it_is_closed, daemon=True).start()
    return kept


def test_a_connection_never_answered_delays_no_other_probe(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kills, "ANSWER_TIMEOUT", 120.0)
    kept = serve(listener, None, None, ANSWER)
    began = time.monotonic()
    answered, met = first_200(listener.getsockname()[1], "/", 600)
    assert (answered is not None, met) == (True, {})
    assert time.monotonic() - began < 120  # Two of them would have taken twice ANSWER_TIMEOUT.
    for peer in kept:
        peer.close()


def test_an_answer_that_is_not_quick_is_seen(listener: socket.socket) -> None:
    serve(listener, ANSWER, pause=3 * QUICK_ANSWER)
    answered, met = first_200(listener.getsockname()[1], "/", 60)
    assert (answered is not None, met) == (True, {})


def test_what_else_attempts_met_is_counted(listener: socket.socket) -> None:
    serve(listener, b"", b"HTTP/1.1 503 No\r\n\r\n", b"HTTP/1.1 200 OK\r\n", ANSWER)
    # On a busy machine attempts overlap, and the good answer may be seen before the others.
    answered, met = first_200(listener.getsockname()[1], "/", 120, wait_for_all=True)
    assert answered is not None
    assert met == {"broken": 2, "503": 1}


def test_nobody_there_is_refused_until_time_is_up() -> None:
    with socket.socket() as reserved:  # Nobody listens there, and nobody else can.
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        assert ask(port, "/") == "refused"
        answered, met = first_200(port, "/", 0.5)
    assert answered is None
    assert met.keys() <= {"refused"}
