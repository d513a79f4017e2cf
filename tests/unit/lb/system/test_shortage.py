"""A shortage of our own (descriptors above all) ends no worker, no accepting and no control; idle clients pay for it,
oldest first.
"""

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from lb.process.admission import room_for_clients
from lb.system.shortage import is_local_shortage

OURS = [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL]


def test_which_errors_are_a_local_shortage() -> None:
    group = ExceptionGroup("", [ConnectionRefusedError(errno.ECONNREFUSED, ""), OSError(errno.EMFILE, "")])
    ours = [*(OSError(number, "") for number in OURS), MemoryError(), socket.gaierror(socket.EAI_SYSTEM, ""), group]
    theirs = [
        ConnectionRefusedError(errno.ECONNREFUSED, ""),
        TimeoutError(),
        OSError("several"),
        socket.gaierror(socket.EAI_NONAME, ""),
    ]
    assert all(map(is_local_shortage, ours))
    assert not any(map(is_local_shortage, theirs))


@pytest.mark.parametrize(
    ("limit", "taken", "injected", "room"),
    [(96, 20, False, 38), (96, 20, True, 19), (20000, 20, False, 15884), (4, 20, False, 1), (0, 0, True, 1)],
)
def test_how_many_descriptors_clients_may_have(limit: int, taken: int, injected: bool, room: int) -> None:
    assert room_for_clients(limit, taken, fault_injection=injected) == room


def test_access_lines_wait_for_a_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lb.proxy.access_log import AccessLog

    opening: Callable[..., int] = os.open
    failing = [OSError(errno.EMFILE, "Too many open files")]

    def open_(*arguments: Any) -> int:
        if failing:
            raise failing.pop()
        return opening(*arguments)

    log = AccessLog(uvloop.new_event_loop(), str(tmp_path / "access"))
    monkeypatch.setattr("lb.proxy.access_log.os.open", open_)
    log.write({"n": 1})
    log.flush()
    log.write({"n": 2})
    log.flush()
    monkeypatch.undo()
    assert (tmp_path / "access").read_text() == '{"n":1}\n{"n":2}\n'
