"""A log is given back byte for byte, at the cost of what is asked for, wherever it goes on."""

import json
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from comet.common.file_checks import UnsafeFile
from comet.events import exit_markers
from comet.host import files
from comet.runtimes import log_file, logs
from comet.runtimes.logs import as_json
from comet.runtimes.process import exec_launcher
from comet.state.directory import Cluster

ODD = [
    b"",
    b"\n",
    b"\n\n\n",
    b"no end",
    b"one\ntwo\nthree",
    b"cr\r\nlone\rx\r\r\n",
    b"\xff\xfe\x00\x01 no UTF-8 \xc3\n\x00\n",
    b"\x1b[31mred\x1b[0m\n",
    bytes(range(256)) * 3,
    b"L" * 200_000 + b"\nshort\n",
    b"short\n" + b"L" * (2 * log_file.BLOCK) + b"\n",
    b"x" * (log_file.BLOCK - 1) + b"\n" + b"y" * log_file.BLOCK + b"\nz",
]


def last(content: bytes, count: int) -> bytes:
    """The rule, written otherwise: what follows the end of the line before the last `count`."""
    return b"".join(_split(content)[-count:]) if count else b""


def _split(content: bytes) -> list[bytes]:
    *whole, rest = content.split(b"\n")
    return [line + b"\n" for line in whole] + ([rest] if rest else [])


@pytest.mark.parametrize("content", ODD)
def test_the_tail_is_the_end_of_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.log"
    path.write_bytes(content)
    for count in (0, 1, 2, 3, 100):
        assert b"".join(log_file.tail(path, count)) == last(content, count)


@pytest.mark.slow
def test_a_huge_log_costs_no_more_than_its_tail(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.create()
    path = cluster.path("logs", "worker-0.log")
    with path.open("wb") as log:
        log.truncate(2 << 30)  # Of no blocks on the disk, and of one line.
        log.seek(0, os.SEEK_END)
        log.write(b"\none\ntwo\n" + b"L" * (3 << 20) + b"\n")
    tracemalloc.start()
    try:
        assert b"".join(log_file.tail(path, 2))[:5] == b"two\nL"
        assert len(logs.recent(cluster, "worker-0", "process")) == logs.RECENT
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_a_line_of_any_length_is_passed_on_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "w.log"
    with path.open("wb") as log:
        log.truncate(100 << 20)
        log.seek(0, os.SEEK_END)
        log.write(b"\n")
    sizes = [len(piece) for piece in log_file.tail(path, 1)]
    assert (sum(sizes), max(sizes)) == ((100 << 20) + 1, log_file.BLOCK)
    as_objects = [len(piece) for piece in as_json("w", log_file.tail(path, 1))]
    assert max(as_objects) < 7 * log_file.BLOCK


class Followed:
    """A log that is followed, one look at a time: nobody lives who could write, until more is asked for."""

    def __init__(self, path: Path, count: int = 100) -> None:
        self._follower = log_file._Follower(path)
        self.got = b"".join(self._follower.tail(count))

    def look(self) -> None:
        self.got += b"".join(self._rest())

    def _rest(self) -> Iterator[bytes]:
        return self._follower.rest(lambda: False)


def test_a_renamed_log_is_read_to_its_end_then_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "w.log"
    with path.open("ab", buffering=0) as former:
        former.write(b"1\n")
        followed = Followed(path)
        former.write(b"2\n")
        path.rename(files.rotated_path(path))
        former.write(b"3\n")
        followed.look()
        with path.open("ab", buffering=0) as writer:
            former.write(b"4 half")
            writer.write(b" of it\n5\n")
            followed.look()
            writer.write(b"6\n")
            followed.look()
    assert followed.got == b"1\n2\n3\n4 half of it\n5\n6\n"


@pytest.mark.parametrize(
    "after", [b"", b"new\n", b"new " * 1000 + b"\n"], ids=["empty", "shorter", "longer than before"]
)
def test_nothing_that_was_copied_before_a_cut_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bytes
) -> None:
    monkeypatch.setattr(exec_launcher, "KEEP_LOG_BYTES", 800)
    path = tmp_path / "w.log"
    with path.open("ab", buffering=0) as writer:
        expected = b"".join(b"%d\n" % number for number in range(220))
        writer.write(expected)
        followed = Followed(path)
        unread = b"unread \xff line\nand half"
        writer.write(unread)
        exec_launcher.trim([path])
        writer.write(after)
        followed.look()
        writer.write(b"more\n")
        followed.look()
    assert followed.got == last(expected, 100) + unread + after + b"more\n"


def test_a_copy_before_its_cut_is_no_cut(tmp_path: Path) -> None:
    path = tmp_path / "w.log"
    path.write_bytes(b"1\n2\n")
    followed = Followed(path)
    files.rotated_path(path).write_bytes(b"2\n")
    followed.look()
    assert followed.got == b"1\n2\n"


def test_a_log_that_somebody_cut_is_followed_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "w.log"
    path.write_bytes(b"1\n2\n")
    followed = Followed(path)
    os.truncate(path, 0)
    path.write_bytes(b"3\n")
    followed.look()
    assert followed.got == b"1\n2\n3\n"


def test_only_a_regular_file_is_a_log(tmp_path: Path) -> None:
    path = tmp_path / "w.log"
    os.mkfifo(path)
    with pytest.raises(UnsafeFile):
        list(log_file.tail(path, 1))
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(UnsafeFile):
        list(log_file.tail(path, 1))


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_lines_as_objects_do_not_depend_on_read_sizes(size: int) -> None:
    content = 'ä€😀 "quoted" \\ \r\r\nlone\rone\r\n\n'.encode() + b"\xff\xc3\n\xe2\x82\nlast\r"
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    whole = b"".join(as_json("w", pieces)).decode().splitlines()
    expected = [line.decode(errors="replace").rstrip("\r\n") for line in content.split(b"\n")]
    assert [json.loads(line) for line in whole] == [{"replica": "w", "line": line} for line in expected]


def record(**fields: object) -> dict[str, object]:
    return {
        "event": "replica_exited",
        "kind": "process",
        "replica": "worker-0",
        "at": "2026-11-25T10:00:01.500Z",
        **fields,
    }


def test_the_last_lines_are_those_of_one_life(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.create()
    log = cluster.path("logs", "worker-0.log")

    def life(printed: bytes, over: bool) -> bytes:
        return exit_markers.last_life(log.read_bytes() + printed, "worker-0", over)

    log.write_bytes(b"of an earlier run\n")
    exit_markers.append_unobserved(cluster, "worker-0")
    exit_markers.append_unobserved(cluster, "worker-0")  # Once is enough.
    assert log.read_bytes().count(b"exit status unknown") == 1
    assert life(b"starting\n", over=False) == b"starting\n"
    with log.open("ab") as writer:
        writer.write(b"first\n")
    exit_markers.note(cluster, record(code=1))
    assert life(b"", over=True) == b"first\n"
    assert life(b"second\n", over=True) == b"first\n"
    assert life(b"second\nhalf", over=False) == b"second\nhalf"
    exit_markers.note(cluster, record(code=2))
    assert life(b"", over=True) == b""  # The second one printed nothing.


def test_a_new_log_has_no_life_before(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.create()
    exit_markers.append_unobserved(cluster, "worker-0")
    assert not cluster.path("logs", "worker-0.log").exists()
    assert exit_markers.last_life(b"all\n", "worker-0", is_over=True) == b"all\n"
