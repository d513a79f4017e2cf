"""The standby load balancer: its warm-up, and how it is told what to be. In this process; tests/process has
the real one.
"""

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lb.interface.settings import Settings, UpstreamSpec
from lb.process import server, standby, warm_up


def descriptors() -> set[str]:
    return {os.readlink(each) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()}


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_warm_up_serves_a_request_and_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []
    received = warm_up._Worker.data_received
    monkeypatch.setattr(warm_up._Worker, "data_received", lambda self, data: (asked.append(data), received(self, data)))
    warm_up.warm_up()  # The first time may open what stays open for good.
    before = descriptors()
    warm_up.warm_up()
    assert descriptors() <= before  # What earlier tests left may end at any moment.
    assert [head.partition(b"\r\n")[0] for head in asked] == [b"GET / HTTP/1.1"] * 2


def test_a_failed_warm_up_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    warm_up.warm_up()
    before = descriptors()

    async def refused(*where: Any) -> None:
        raise ConnectionRefusedError(*where)

    monkeypatch.setattr(asyncio, "open_connection", refused)
    with pytest.raises(ConnectionRefusedError):
        warm_up.warm_up()
    assert descriptors() <= before


@pytest.mark.slow
def test_a_standby_runs_with_the_arguments_of_its_order(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pair
    told = threading.Event()
    order: list[Any] = []
    monkeypatch.setattr(server, "run", lambda *arguments: (order.extend(arguments), told.set()))
    monkeypatch.setattr(standby, "close_inherited_fds", lambda: None)
    monkeypatch.setattr(server, "setproctitle", None)
    waiting = threading.Thread(target=standby.main, args=(theirs,), daemon=True)
    waiting.start()
    while not standby.has_warmed_up(ours):
        assert waiting.is_alive()
    table = tuple(
        UpstreamSpec(f"worker-{number}", "127.0.0.1", 6000 + number, "up") for number in range(5000)
    )  # More than a buffer holds.
    control, other = socket.socketpair()
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_server(("127.0.0.1", 0)) as controls,
        control,
        other,
    ):
        standby.send_order(ours, Settings("lb-3"), listener, table, control, controls, "counters", "log")
        assert told.wait(120)
        waiting.join(120)
        settings, heard, upstreams, theirs_too, controls_too, *paths = order
        assert (settings, upstreams, paths) == (Settings("lb-3"), table, ["counters", "log"])
        assert [heard.getsockname(), controls_too.getsockname()] == [listener.getsockname(), controls.getsockname()]
        theirs_too.sendall(b"here")
        assert other.recv(4) == b"here"
        for each in (heard, theirs_too, controls_too):
            each.close()


@pytest.mark.parametrize("sent", [b"", b"\0\0", b"\0\0\0\5abc"])
def test_a_standby_without_a_complete_order_ends(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    ours, theirs = pair
    ran: list[Any] = []
    monkeypatch.setattr(server, "run", lambda *arguments: ran.append(arguments))
    monkeypatch.setattr(standby, "close_inherited_fds", lambda: None)
    monkeypatch.setattr(server, "setproctitle", None)
    monkeypatch.setattr(warm_up, "warm_up", lambda: None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if sent:
            socket.send_fds(ours, [sent], [listener.fileno()] * 3)
        ours.shutdown(socket.SHUT_WR)
        standby.main(theirs)
    assert not ran


def test_a_standby_whose_warm_up_fails_still_waits(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise OSError("no loopback")

    ours, theirs = pair
    monkeypatch.setattr(standby, "close_inherited_fds", lambda: None)
    monkeypatch.setattr(server, "setproctitle", None)
    monkeypatch.setattr(warm_up, "warm_up", fails)
    assert not standby.has_warmed_up(ours)
    ours.shutdown(socket.SHUT_WR)
    standby.main(theirs)
    assert standby.has_warmed_up(ours)


def test_an_exception_of_the_lb_is_not_suppressed(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*arguments: Any) -> None:
        raise ConnectionResetError

    _, theirs = pair
    monkeypatch.setattr(standby, "close_inherited_fds", lambda: None)
    monkeypatch.setattr(server, "setproctitle", None)
    monkeypatch.setattr(warm_up, "warm_up", lambda: None)
    monkeypatch.setattr(standby, "_receive", lambda orders: ())
    monkeypatch.setattr(server, "run", breaks)
    with pytest.raises(ConnectionResetError):
        standby.main(theirs)


def test_an_order_to_a_dead_standby_raises(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.close()
    assert not standby.has_warmed_up(ours)
    with socket.create_server(("127.0.0.1", 0)) as each, pytest.raises(OSError, match=r"Broken pipe|reset"):
        standby.send_order(ours, Settings("lb-0"), each, (), each, each, "counters", "log")
