"""What replicas print stays bounded while they run, is followed all the same, and tells how each life ended."""

import contextlib
import re
import shutil
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import docker
import pytest

from comet.engine.log_stream import Message
from comet.events import exit_markers
from comet.runtimes import log_file, logs
from comet.runtimes.process.exec_launcher import KEEP_LOG_BYTES, trim
from comet.runtimes.swarm import log as swarm_log
from comet.runtimes.swarm.manager import Manager, engine_errors
from comet.state.directory import Cluster
from tests.support.fake_engine import listening


def lines_of(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole


@pytest.mark.slow
def test_a_grown_log_is_trimmed_while_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "POLL_PAUSE", 0.01)
    path = tmp_path / "worker-0.log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"first\n")
        follower = lines_of(log_file.follow(path, 10, lambda: True))
        assert next(follower) == b"first"
        trim([path, tmp_path / "nobody.log"])
        assert path.read_bytes() == b"first\n"
        writer.write(b"x" * KEEP_LOG_BYTES + b"\nlast\n")
        assert [len(next(follower)), next(follower)] == [KEEP_LOG_BYTES, b"last"]
        trim([path])
        writer.write(b"after\n")
        assert next(follower) == b"after"
    assert path.read_bytes() == b"after\n"
    kept = (tmp_path / "worker-0.log.1").read_bytes()
    assert (len(kept), kept[-5:]) == (KEEP_LOG_BYTES, b"last\n")


END = re.compile(r"-- (?P<name>\S+) exited (?P<how>.+) at (?P<at>[0-9TZ:.-]+) --")


def record(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "at": "2026-11-25T10:00:01.500Z",
        "event": "replica_exited",
        "number": number,
        "replica": "worker-0",
        "kind": "process",
        **fields,
    }


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"code": -9, "signal": "SIGKILL", "died_at": "2026-11-25T10:00:01.000Z"},
            "-- worker-0 exited by SIGKILL at 2026-11-25T10:00:01.000Z --",
        ),
        (
            {"code": 137, "signal": "SIGKILL", "oom": True},
            "-- worker-0 exited by SIGKILL (out of memory) at 2026-11-25T10:00:01.500Z --",
        ),
        ({"code": 3, "signal": None}, "-- worker-0 exited with code 3 at 2026-11-25T10:00:01.500Z --"),
        ({"code": None, "signal": None}, "-- worker-0 exited at 2026-11-25T10:00:01.500Z, exit status unknown --"),
    ],
)
def test_how_a_life_ended_is_one_line(fields: dict[str, Any], line: str) -> None:
    assert exit_markers.text(record(1, **fields)) == line


def test_a_process_exit_is_a_line_of_its_own_in_the_log(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.create()
    log = cluster.path("logs", "worker-0.log")
    exit_markers.note(cluster, record(1, code=1, signal=None))
    log.write_bytes(log.read_bytes() + b"half a li")
    exit_markers.note(cluster, record(2, code=2, signal=None))
    exit_markers.note(cluster, record(3, code=3, signal=None, kind="container"))
    exit_markers.note(cluster, {**record(4), "event": "replica_ready"})
    assert [END.sub(r"\g<how>", line) for line in log.read_text().splitlines()] == [
        "with code 1",
        "half a li",
        "with code 2",
    ]
    shutil.rmtree(cluster.path("logs"))
    exit_markers.note(cluster, record(5, code=1, signal=None))  # It cannot be written: nothing happens.


@pytest.mark.slow
def test_following_yields_whole_lines_written_from_now_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "POLL_PAUSE", 0.01)
    path = tmp_path / "worker-0.log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"past\n")
        follower = lines_of(log_file.follow(path, 0, lambda: True))
        writer.write(b"")
        threading.Timer(
            0.1, lambda: (writer.write(b"half "), threading.Timer(0.1, lambda: writer.write(b"and half\n")).start())
        ).start()
        assert next(follower) == b"half and half"


@pytest.mark.slow
def test_followed_output_is_neither_lost_nor_told_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of two streams in another order than they are kept, several messages of a time, a long line of pieces."""
    streams = ((1, 11), (2, 12), (1, 13), (2, 13), (1, 13), (2, 15), (1, 14), (2, 15))
    kept = [
        Message(f"2026-11-25T10:00:{second}.000000000Z", stream, b"%d\n" % number)
        for number, (stream, second) in enumerate(streams)
    ]
    kept += [Message("2026-11-25T10:00:16.000000000Z", 1, piece) for piece in (b"x" * (16 << 10), b"y\n")]
    told = [message.data for message in kept]

    class Tasks:
        read = 0

        def log(self, task: str, follow: bool, tail: int | str) -> list[Message]:
            past = kept if follow else kept[: self.read]
            return past[-tail:] if isinstance(tail, int) else past

    monkeypatch.setattr(swarm_log, "_task_of", lambda *_: "t1")
    monkeypatch.setattr(swarm_log.engine, "connect_manager", mock.Mock)
    monkeypatch.setattr(swarm_log.manager, "Manager", lambda *_: Tasks())
    for Tasks.read in range(1, len(kept) + 1):
        followed = b"".join(logs.pieces(Cluster(tmp_path), "worker-0", "task", 1, follow=True))
        assert followed == b"".join(told[min(Tasks.read - 1, 8) :])


def test_a_manager_lost_during_a_log_is_an_engine_error() -> None:
    piece = b"2026-01-01T00:00:00.000000000Z one\n"
    framed = b"\x01\0\0\0" + len(piece).to_bytes(4, "big") + piece
    broken = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n50\r\nhalf" % (len(framed), framed)
    with (
        listening(broken) as path,
        contextlib.closing(docker.DockerClient(base_url=f"unix://{path}", version="1.41")) as client,
    ):
        read = Manager(client, "c1").log("t1", follow=True, tail="all")
        assert next(read) == Message("2026-01-01T00:00:00.000000000Z", 1, b"one\n")
        with pytest.raises(engine_errors()):
            next(read)
