"""The load balancer in waiting: its rehearsal, and how it is told what to be. In this process; tests/integration has the real one."""

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lb import rehearsal, server, standby
from lb.settings import Settings, UpstreamSpec


def descriptors() -> set[str]:
    return {os.readlink(each) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()}


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_rehearsal_serves_a_request_and_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []
    received = rehearsal._Worker.data_received
    monkeypatch.setattr(rehearsal._Worker, "data_received", lambda self, data: (asked.append(data), received(self, data)))
    rehearsal.rehearse()  # The first time may open what stays open for good.
    before = descriptors()
    rehearsal.rehearse()
    assert descriptors() == before
    assert [head.partition(b"\r\n")[0] for head in asked] == [b"GET / HTTP/1.1"] * 2


def test_a_rehearsal_that_fails_leaves_nothing_open_either(monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsal.rehearse()
    before = descriptors()

    async def refused(*where: Any) -> None:
        raise ConnectionRefusedError(*where)

    monkeypatch.setattr(asyncio, "open_connection", refused)
    with pytest.raises(ConnectionRefusedError):
        rehearsal.rehearse()
    assert descriptors() == before


def test_it_is_what_the_order_says(pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pair
    told = threading.Event()
    order: list[Any] = []
    monkeypatch.setattr(server, "run", lambda *arguments: (order.extend(arguments), told.set()))
    monkeypatch.setattr(standby, "let_go", lambda: None)
    monkeypatch.setattr(server, "setproctitle", None)
    waiting = threading.Thread(target=standby.main, args=(theirs,), daemon=True)
    waiting.start()
    while not standby.has_rehearsed(ours):
        assert waiting.is_alive()
    table = tuple(UpstreamSpec(f"worker-{number}", "127.0.0.1", 6000 + number, "up") for number in range(5000))  # More than a buffer holds.
    control, other = socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0)) as controls, control, other:
        standby.give(ours, Settings("lb-3"), listener, table, control, controls, "counters", "log")
        assert told.wait(10)
        waiting.join(10)
        settings, heard, upstreams, theirs_too, controls_too, *paths = order
        assert (settings, upstreams, paths) == (Settings("lb-3"), table, ["counters", "log"])
        assert [heard.getsockname(), controls_too.getsockname()] == [listener.getsockname(), controls.getsockname()]
        theirs_too.sendall(b"here")
        assert other.recv(4) == b"here"
        for each in (heard, theirs_too, controls_too):
            each.close()


@pytest.mark.parametrize("sent", [b"", b"\0\0", b"\0\0\0\5abc"])
def test_without_a_whole_order_it_ends(pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    ours, theirs = pair
    monkeypatch.setattr(server, "run", lambda *arguments: pytest.fail("it was told nothing"))
    monkeypatch.setattr(standby, "let_go", lambda: None)
    monkeypatch.setattr(server, "setproctitle", None)
    monkeypatch.setattr(rehearsal, "rehearse", lambda: None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if sent:
            socket.send_fds(ours, [sent], [listener.fileno()] * 3)
        ours.shutdown(socket.SHUT_WR)
        standby.main(theirs)


def test_one_that_cannot_rehearse_waits_all_the_same(pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise OSError("no loopback")

    ours, theirs = pair
    monkeypatch.setattr(standby, "let_go", lambda: None)
    monkeypatch.setattr(server, "setproctitle", None)
    monkeypatch.setattr(rehearsal, "rehearse", fails)
    assert not standby.has_rehearsed(ours)
    ours.shutdown(socket.SHUT_WR)
    standby.main(theirs)
    assert standby.has_rehearsed(ours)


def test_what_breaks_off_a_load_balancer_is_no_end_in_order(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*arguments: Any) -> None:
        raise ConnectionResetError

    _, theirs = pair
    monkeypatch.setattr(standby, "let_go", lambda: None)
    monkeypatch.setattr(server, "setproctitle", None)
    monkeypatch.setattr(rehearsal, "rehearse", lambda: None)
    monkeypatch.setattr(standby, "_receive", lambda orders: ())
    monkeypatch.setattr(server, "run", breaks)
    with pytest.raises(ConnectionResetError):
        standby.main(theirs)


def test_an_order_to_a_dead_one_is_an_error(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.close()
    assert not standby.has_rehearsed(ours)
    with socket.create_server(("127.0.0.1", 0)) as each, pytest.raises(OSError, match=r"Broken pipe|reset"):
        standby.give(ours, Settings("lb-0"), each, (), each, each, "counters", "log")
