"""Merges what several replicas print into lines with the time and the replica's name before them.

Past lines are ordered by the times that they begin with, or that stand in an exit marker; a line without a time follows
the line before it in its own log. While logs are followed, a line without a time has that of its arrival.
"""

import heapq
import queue
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from comet.common.clock import parse
from comet.common.errors import UserError

BACKLOG_SPAN = 1.0
"""Seconds from the start in which a followed log yields what was printed before; its time is not known."""

MAX_LINE = 1 << 20
"""Bytes of a line that are held; a longer one is shown in parts."""

_TIME = re.compile(rb"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)([.,]\d{1,9})?(Z)?")


@dataclass(frozen=True, order=True)
class Line:
    """A line of a log; `at` is in seconds since the epoch. `dated`: the time is the line's own."""

    at: float
    name: str
    text: bytes
    dated: bool


def line_time(text: bytes) -> float | None:
    """Return the time in a line's beginning or in an exit marker, None where there is none."""
    found = _TIME.match(text) or (_TIME.search(text) if text.startswith(b"-- ") and text.endswith(b" --") else None)
    if found is None:
        return None
    day, clock, fraction = (part.decode() for part in (found[1], found[2], found[3] or b".0"))
    if found[4]:
        return parse(f"{day}T{clock}.{fraction[1:]}Z")
    try:
        return time.mktime(time.strptime(f"{day} {clock}", "%Y-%m-%d %H:%M:%S")) + float(f"0.{fraction[1:]}")
    except (ValueError, OverflowError):
        return None


def lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of a log without their ends."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
        if len(rest) > MAX_LINE:
            yield rest
            rest = b""
    if rest:
        yield rest


def past(name: str, pieces: Iterable[bytes]) -> Iterator[Line]:
    """Yield the past lines of one replica, with times that never decrease."""
    at = 0.0
    for text in lines(pieces):
        own = line_time(text)
        at = max(at, own or 0.0)
        yield Line(at, name, text, own is not None)


def merged(logs: Mapping[str, Iterable[bytes]]) -> Iterator[Line]:
    """Yield the past lines of several replicas by their times."""
    yield from heapq.merge(*(past(name, pieces) for name, pieces in logs.items()), key=lambda line: line.at)


def followed(logs: Mapping[str, Iterator[bytes]]) -> Iterator[Line]:
    """Yield the lines of several replicas as they arrive, until all logs have ended."""
    arrived: queue.SimpleQueue[Line | None] = queue.SimpleQueue()

    begun = time.monotonic()

    def read(name: str, pieces: Iterator[bytes]) -> None:
        try:
            for text in lines(pieces):
                own, is_new = line_time(text), time.monotonic() - begun > BACKLOG_SPAN
                arrived.put(Line(own or time.time(), name, text, own is not None or is_new))
        except UserError as error:
            arrived.put(Line(time.time(), name, error.message.encode(), True))
        finally:
            arrived.put(None)

    for name, pieces in logs.items():
        threading.Thread(target=read, args=(name, pieces), name=f"log of {name}", daemon=True).start()
    left = len(logs)
    while left:
        line = arrived.get()
        if line is None:
            left -= 1
        else:
            yield line


def shown(line: Line, width: int) -> bytes:
    """Return a line for people: local time of day, name, text; blanks for a time that is not known."""
    clock = time.strftime("%H:%M:%S", time.localtime(line.at)) + f".{int(line.at * 1000) % 1000:03d}"
    stamp = clock if line.dated else " " * len(clock)
    return f"{stamp}  {line.name:<{width}}  ".encode() + line.text + b"\n"
