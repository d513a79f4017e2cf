"""Reads a replica's log file, byte for byte: its last lines, and what is appended later.

The last lines are found from the end, block by block, so that the tail of a log of any size costs no more than the
tail. A log is bounded while it grows. At a start the file is renamed to NAME.log.1. While its process writes, its end
is copied to that name and the file truncated. The follower handles both: output that it has not read yet is in the
renamed file, or in the copy behind the bytes that it read last.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from comet.common.file_checks import UnsafeFile
from comet.host import files

BLOCK = 64 << 10
"""Bytes read at a time; also how many of the last bytes are kept to find the position in a copy."""

POLL_PAUSE = 0.2
"""Seconds between two polls of a file that is followed."""


def tail_start(descriptor: int, size: int, count: int) -> tuple[int, int]:
    """Return the offset of the last `count` lines in the first `size` bytes, and the number of lines found.

    An unfinished line counts as a line.
    """
    if size == 0 or count <= 0:
        return size, 0
    found = 0
    end = size - (os.pread(descriptor, 1, size - 1) == b"\n")
    while end > 0:
        start = max(0, end - BLOCK)
        block = os.pread(descriptor, end - start, start)
        while (at := block.rfind(b"\n")) >= 0:
            found += 1
            if found == count:
                return start + at + 1, count
            block = block[:at]
        end = start
    return 0, found + 1


def tail(path: Path, count: int) -> Iterator[bytes]:
    """Yield the last `count` lines, including those in the rotated part.

    FileNotFoundError where nothing was logged.
    """
    yield from _Follower(path).tail(count)


def follow(path: Path, count: int, alive: Callable[[], bool]) -> Iterator[bytes]:
    """Yield the last `count` lines, then new output until no process that could write is `alive`."""
    follower = _Follower(path)
    yield from follower.tail(count)
    yield from follower.rest(alive)


@dataclass(frozen=True)
class _FileVersion:
    """Identity, size and time of change of the file at a path."""

    inode: int
    size: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> "_FileVersion | None":
        found = files.lstat(path)
        return None if found is None else cls(found.st_ino, found.st_size, found.st_mtime_ns)


class _Follower:
    """Reads one log across rotations and truncations."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = files.open_read(path)
        self._position = 0
        self._recent = b""
        self._rotated_version = _FileVersion.of(files.rotated_path(path))

    def __del__(self) -> None:
        descriptor = getattr(self, "_descriptor", None)
        if descriptor is not None:
            os.close(descriptor)

    def tail(self, count: int) -> Iterator[bytes]:
        size = os.fstat(self._descriptor).st_size
        start, found = tail_start(self._descriptor, size, count)
        if start == 0 and count > 0:
            yield from self._tail_of_rotated(count - found, continues=size > 0)
        self._position = start
        self._recent = os.pread(self._descriptor, min(start, BLOCK), start - min(start, BLOCK))
        while self._position < size:
            yield self._read(size - self._position)

    def rest(self, alive: Callable[[], bool]) -> Iterator[bytes]:
        while True:
            is_running = alive()
            while piece := self._read():
                yield piece
            if self._was_replaced():
                while piece := self._read():
                    yield piece
                self._reopen()
            elif self._was_truncated():
                yield from self._rest_of_copy()
                self._position = 0
            elif not is_running:
                return
            else:
                time.sleep(POLL_PAUSE)

    def _read(self, limit: int = BLOCK) -> bytes:
        piece = os.pread(self._descriptor, min(limit, BLOCK), self._position)
        self._position += len(piece)
        self._recent = (self._recent + piece)[-BLOCK:]
        return piece

    def _tail_of_rotated(self, count: int, continues: bool) -> Iterator[bytes]:
        """Yield the last lines of the rotated part.

        It is one line more where the last one is unfinished and `continues` in the file.
        """
        try:
            descriptor = files.open_read(files.rotated_path(self._path))
        except (FileNotFoundError, UnsafeFile):
            return
        try:
            size = os.fstat(descriptor).st_size
            is_unfinished = continues and size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            position, _ = tail_start(descriptor, size, count + is_unfinished)
            while position < size and (piece := os.pread(descriptor, BLOCK, position)):
                position += len(piece)
                yield piece
        finally:
            os.close(descriptor)

    def _was_replaced(self) -> bool:
        there = _FileVersion.of(self._path)
        return there is not None and there.inode != os.fstat(self._descriptor).st_ino

    def _reopen(self) -> None:
        os.close(self._descriptor)
        self._descriptor = files.open_read(self._path)
        self._position, self._recent, self._rotated_version = 0, b"", _FileVersion.of(files.rotated_path(self._path))

    def _was_truncated(self) -> bool:
        """Return whether the file was truncated.

        It was if it is shorter than what was read, or if since a copy was made it has other bytes there.
        """
        if os.fstat(self._descriptor).st_size < self._position:
            return True
        if _FileVersion.of(files.rotated_path(self._path)) == self._rotated_version or not self._recent:
            return False
        return os.pread(self._descriptor, len(self._recent), self._position - len(self._recent)) != self._recent

    def _rest_of_copy(self) -> Iterator[bytes]:
        """Yield what was written between the last poll and the truncation."""
        copy = _FileVersion.of(files.rotated_path(self._path))
        if copy == self._rotated_version or not self._recent:
            return
        self._rotated_version = copy
        try:
            content = files.read(files.rotated_path(self._path))
        except OSError:
            return
        at = content.rfind(self._recent)
        if at >= 0 and (piece := content[at + len(self._recent) :]):
            yield piece
        self._recent = b""
