"""Idle and slow connections to the admin server shut nobody else out: each user has a share, the cluster's user a
reserve.
"""

import contextlib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from waitress import wasyncore  # type: ignore[import-untyped]

from comet.admin import connections
from comet.admin.connections import ALL_STRANGERS, OWNER_CONNECTIONS, STRANGER_CONNECTIONS, admit
from tests.support.user_clients import ALICE, BOB

OWNERS = {0, 1000}


@dataclass
class Held:
    uid: int | None
    served_at: float = 0.0
    busy: bool = False


def many(uid: int | None, count: int, busy: bool = False) -> list[Held]:
    return [Held(uid, float(at), busy) for at in range(count)]


def test_beyond_a_users_limit_the_slowest_connection_ends() -> None:
    held = many(ALICE, STRANGER_CONNECTIONS)
    assert admit(held[1:], ALICE, OWNERS) == (True, None)
    assert admit(held, ALICE, OWNERS) == (True, held[0])
    assert admit(held, BOB, OWNERS) == (True, None)
    assert admit(held, 1000, OWNERS) == (True, None)
    mine = many(1000, OWNER_CONNECTIONS)
    assert admit(mine + held, 1000, OWNERS) == (True, mine[0])
    assert admit(mine + held, 0, OWNERS) == (True, None)


def test_a_user_with_many_uids_gets_the_strangers_share_only() -> None:
    held = [Held(100_000 + number, float(number)) for number in range(ALL_STRANGERS - 3)] + many(ALICE, 3)
    accepted, dropped = admit(held, BOB, OWNERS)
    assert accepted
    assert dropped is not None
    assert (dropped.uid, dropped.served_at) == (ALICE, 0.0)
    assert admit(held, 1000, OWNERS) == (True, None)


def test_unknown_users_are_strangers() -> None:
    held = many(None, STRANGER_CONNECTIONS)
    assert admit(held, None, OWNERS) == (True, held[0])


def test_one_that_works_is_not_dropped() -> None:
    held = [*many(ALICE, STRANGER_CONNECTIONS - 1, busy=True), Held(ALICE, 99.0)]
    assert admit(held, ALICE, OWNERS) == (True, held[-1])
    assert admit(many(ALICE, STRANGER_CONNECTIONS, busy=True), ALICE, OWNERS) == (False, None)


def test_few_descriptors_leave_smaller_shares() -> None:
    held = many(ALICE, 4)
    assert admit(held, ALICE, OWNERS, share=4 / STRANGER_CONNECTIONS) == (True, held[0])
    assert admit(held[:1], ALICE, OWNERS, share=0.0001) == (True, held[0])


def test_a_dropped_connection_does_not_end_its_successor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A descriptor is given again as soon as it is closed, and the loop may still hold an event of it."""
    monkeypatch.setattr(connections, "OWNER_CONNECTIONS", 1)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        made = connections.Server(respond, listener, {os.getuid()})
        stack.callback(made.close)

        def connected() -> socket.socket:
            return stack.enter_context(socket.create_connection(listener.getsockname(), 5))

        def turn() -> None:
            wasyncore.loop(0.1, use_poll=True, map=made._map, count=1)

        first = connected()
        turn()
        assert len(made.active_channels) == 1
        first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        first.close()
        connected()
        last = connected()
        turn()  # Its events: two clients, each of which costs the one before, and the reset of the first.
        last.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        last.setblocking(False)
        answer = b""
        while not answer.endswith(b"well"):
            turn()
            with contextlib.suppress(BlockingIOError):
                received = last.recv(65536)
                assert received, "the connection was closed"
                answer += received
        while made.active_channels or made._dropped:
            turn()
        made.task_dispatcher.shutdown()
        made.strangers_dispatcher.shutdown()


def respond(environ: object, start_response: Callable[..., object]) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "4")])
    return [b"well"]
