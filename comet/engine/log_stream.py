"""Reads a container's log from its engine and restores it byte for byte.

An engine keeps a log as messages, each with its time and the stream it came from. They are read from the engine's
socket frame by frame, and stay in the order in which the engine keeps them: those of one stream as they were written,
those of two streams as the engine happened to read them.

Docker: a message is a line, or a piece of 16 KiB of a longer one. All pieces of a line have the same time, in
nanoseconds. So a line of any length costs no more memory than a piece. Between the pieces of a line of one stream there
may be lines of the other stream; these wait until the line ends. The driver `local`, which is the one that keeps every
byte, omits the end of a line that it kept in pieces.

Podman: a message is what was written at a time, up to 8 KiB, and only its end says whether the line goes on. Its time
is in whole seconds. Its `tail` counts messages in one way and joins them in another, so the log is read whole.
"""

import contextlib
import http.client
import json
import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from comet.common.clock import parse
from comet.common.errors import UserError
from comet.engine import traits as engine_traits
from comet.engine.connection import CALL_TIMEOUT, PING_TIMEOUT, UnixConnection, chosen_by, ping, socket_path
from comet.engine.own_containers import without_copies
from comet.engine.traits import EngineTraits

CHUNK_BYTES = 16 << 10
"""Bytes of a line that the engine keeps as one message."""

MAX_HELD_BYTES = 1 << 20
"""Maximum bytes of the other stream that wait for the end of a line."""

MAX_DISORDER = 1.0
"""Seconds by which the times of messages may contradict their order.

The engine reads the two streams of a container independently. It may give a message its time, and keep one of the other
stream before it.
"""

FOLLOW_TIMEOUT = 10.0
"""Seconds of silence after which a followed log is asked for again."""


@dataclass(frozen=True)
class Message:
    """One message of a log; `stamp` is the engine's time, of a width that lets it be compared as text."""

    stamp: str
    stream: int
    data: bytes


class ContainerGone(Exception):
    """The container does not exist any more, or is about to be removed."""


class Silent(UserError):
    """The engine has sent nothing for as long as it was waited for."""


@dataclass
class _StreamPosition:
    """How far one stream was read: `read` messages that have the time of the latest one.

    `repeated` of them were met since the log is being read again.
    """

    latest: Message | None = None
    read: int = 0
    repeated: int = 0


class LogPosition:
    """How far a log was read, which may then be read again from a little before.

    Only within a stream the times are in order, so each stream has a position of its own. Several messages of it may
    have the same time: the pieces of a long line, or with `coarse` times all messages of a second.
    """

    def __init__(self, coarse: bool) -> None:
        self._coarse = coarse
        self._streams = defaultdict[int, _StreamPosition](_StreamPosition)

    @property
    def since(self) -> float:
        """The time, in seconds since the epoch, from which on everything is either new or known to `is_new`."""
        newest = max((_seconds(each.latest) for each in self._streams.values() if each.latest is not None), default=0.0)
        return max(1.0, newest - MAX_DISORDER)

    def expect_repeats(self) -> None:
        """Expect the log to be read again, from `since` on."""
        for reached in self._streams.values():
            reached.repeated = 0

    def is_new(self, message: Message) -> bool:
        """Return whether this message is new, and count it as read."""
        reached = self._streams[message.stream]
        if reached.latest is None or message.stamp > reached.latest.stamp:
            reached.latest, reached.read, reached.repeated = message, 1, 1
            return True
        if message.stamp < reached.latest.stamp:
            return False
        if reached.repeated < reached.read:
            reached.repeated += 1
            return False
        if not self._coarse and message == reached.latest and message.data.endswith(b"\n"):
            return False  # When it rotates a log, an engine may repeat its last line.
        reached.latest, reached.read = message, reached.read + 1
        reached.repeated = reached.read
        return True


@dataclass(frozen=True)
class LogTail:
    """The last lines of a log, each with its messages.

    `unfinished` are those that may still go on, at most one of each stream, and later than all others. `messages` were
    read from `oldest` (seconds since the epoch) to `position`.
    """

    position: LogPosition
    lines: Sequence[list[Message]] = ()
    unfinished: Sequence[list[Message]] = ()
    messages: int = 0
    oldest: float = 0.0


class Joiner:
    """Turns messages into bytes where only the end of a message says whether its line goes on.

    A stream's line waits until it is complete.
    """

    def __init__(self) -> None:
        self._open: dict[int, bytes] = {}

    def feed(self, message: Message) -> Iterator[bytes]:
        data = self._open.pop(message.stream, b"") + message.data
        if data.endswith(b"\n") or len(data) > MAX_HELD_BYTES:
            yield data
        else:
            self._open[message.stream] = data

    def end(self) -> Iterator[bytes]:
        """Yield what still waits: lines of two streams, which have to remain two."""
        waiting, self._open = [*self._open.values()], {}
        for data in waiting[:-1]:
            yield data + b"\n"
        yield from waiting[-1:]


class Assembler:
    """Turns messages into bytes where a long line comes in pieces of one size and time."""

    def __init__(self, adds_newlines: bool) -> None:
        """Create the assembler; `adds_newlines` says that the engine omits the ends of split lines."""
        self._adds_newlines = adds_newlines
        self._split: dict[int, str] = {}
        self._open: int | None = None
        self._held: deque[tuple[int, bytes]] = deque()

    def feed(self, message: Message) -> Iterator[bytes]:
        data, stream = message.data, message.stream
        continues = self._split.pop(stream, None) == message.stamp
        if _is_chunk(message):
            self._split[stream] = message.stamp
        elif continues and self._adds_newlines and _lacks_newline(message):
            data += b"\n"
        yield from self._yield_or_hold(stream, data)

    def end(self) -> Iterator[bytes]:
        """Yield what still waits."""
        yield from self._yield_held()
        self._open, self._split = None, {}

    def _yield_or_hold(self, stream: int, data: bytes) -> Iterator[bytes]:
        if self._open not in (None, stream):
            self._held.append((stream, data))
            if sum(len(each) for _, each in self._held) > MAX_HELD_BYTES:
                yield from self._yield_held()
            return
        yield data
        self._open = stream if stream in self._split else None
        if self._open is None:
            yield from self._yield_held()

    def _yield_held(self) -> Iterator[bytes]:
        """Yield what waits for the end of a line; if that has not come, the line is cut there."""
        if self._held and self._open is not None:
            yield b"\n"
        while self._held:
            stream, data = self._held.popleft()
            yield data
            self._open = stream if stream in self._split else None


def traits() -> EngineTraits:
    """Return the traits of the engine; EngineError where it does not answer, which is not waited for as for a call."""
    ping(socket_path(os.environ), PING_TIMEOUT, chosen_by(os.environ))
    return engine_traits.read(_get_json("/info"), _get_json("/version"))


def assembler(traits: EngineTraits, log_driver: str) -> Assembler | Joiner:
    return Joiner() if traits.log_is_as_written else Assembler(log_driver == "local")


def container_of(cluster_id: str, replica: str) -> tuple[str, str] | None:
    """Return the replica's container, whatever its name, and its log driver; None where there is none."""
    filters = json.dumps({"label": [f"comet.cluster={cluster_id}", f"comet.replica={replica}"]})
    listed = without_copies(
        _get_json("/containers/json?" + urlencode({"all": 1, "filters": filters})), _labels_of_image
    )
    if not listed:
        return None
    container = str(max(listed, key=lambda entry: entry.get("Created", 0))["Id"])
    try:
        return container, str(_get_json(f"/containers/{container}/json")["HostConfig"]["LogConfig"]["Type"])
    except ContainerGone:
        return None


def _labels_of_image(image: str) -> dict[str, str]:
    try:
        return _get_json(f"/images/{image}/json")["Config"].get("Labels") or {}
    except ContainerGone:
        return {}


def messages(container: str, follow: bool, tail: int | str = "all", since: float | None = None) -> Iterator[Message]:
    """Yield the last `tail` messages of a container's log.

    ContainerGone: the container does not exist any more. UserError: its log cannot be read. Silent: a followed log had
    nothing new for FOLLOW_TIMEOUT seconds.
    """
    asked: dict[str, Any] = {"stdout": 1, "stderr": 1, "timestamps": 1, "follow": int(follow), "tail": tail}
    if since is not None:
        asked["since"] = f"{since:.9f}"
    with _get(f"/containers/{container}/logs?{urlencode(asked)}", FOLLOW_TIMEOUT if follow else CALL_TIMEOUT) as answer:
        yield from framed(answer.read)


def framed(read: Callable[[int], bytes]) -> Iterator[Message]:
    """Yield the messages of an engine's answer with times, of which `read` returns the given number of bytes."""
    while len(head := read(8)) == 8:
        stamp, _, data = read(int.from_bytes(head[4:], "big")).partition(b" ")
        yield Message(stamp.decode(errors="replace"), head[0], data)


def last_lines(read: Callable[[int | str], Iterable[Message]], count: int, as_written: bool) -> LogTail:
    """Return the last `count` lines and the line before them; `read` takes a number of last messages, or "all".

    To the engine each piece of a long line is a message. What is read therefore begins early enough to have all
    pieces of the lines, and all that a follower gets again.
    """
    if as_written:
        return _read_tail(read("all"), count, as_written)
    asked = count + 1
    while True:
        tail = _read_tail(read(asked), count, as_written)
        shown = [*tail.lines[max(0, len(tail.lines) - count) :], *tail.unfinished]
        begin = min([tail.position.since, *(_seconds(line[0]) for line in shown)])
        if tail.messages < asked or (len(tail.lines) > count and tail.oldest < begin - MAX_DISORDER):
            return tail
        asked *= 8


def _read_tail(read: Iterable[Message], count: int, as_written: bool) -> LogTail:
    """Return the last lines of these messages, in the order in which a follower gets them.

    A Joiner gives a line when it ends, an Assembler from its beginning on.
    """
    position, lines, latest = (
        LogPosition(as_written),
        deque[list[Message]](maxlen=count + 3),
        dict[int, list[Message]](),
    )
    is_open = _lacks_newline if as_written else _is_chunk
    messages, oldest = 0, 0.0
    for message in read:
        position.is_new(message)
        messages, oldest = messages + 1, oldest if messages else _seconds(message)
        line = latest.get(message.stream, [])
        if not line or not is_open(line[-1]) or not (as_written or line[-1].stamp == message.stamp):
            line = latest[message.stream] = []
            if not as_written:
                lines.append(line)
        line.append(message)
        if as_written and not is_open(message):
            lines.append(line)
    # A line of pieces that was not continued for so long is of a life that ended within it.
    begun = 0.0 if as_written else position.since
    unfinished = [line for line in latest.values() if is_open(line[-1]) and _seconds(line[0]) >= begun]
    ended = [line for line in lines if not any(line is each for each in unfinished)]
    return LogTail(position, ended, unfinished, messages, oldest)


def _lacks_newline(message: Message) -> bool:
    return not message.data.endswith(b"\n")


def _is_chunk(message: Message) -> bool:
    """Return whether Docker kept this as a piece of a line, and not as its last one."""
    return len(message.data) == CHUNK_BYTES and _lacks_newline(message)


def _seconds(message: Message) -> float:
    return parse(message.stamp) or 0.0


@contextlib.contextmanager
def _get(path: str, timeout: float) -> Iterator[http.client.HTTPResponse]:
    connection = UnixConnection(socket_path(os.environ), timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        if answer.status in (http.HTTPStatus.NOT_FOUND, http.HTTPStatus.CONFLICT):  # A conflict: it is being removed.
            raise ContainerGone
        if answer.status >= 300:
            raise UserError(_refusal_reason(answer.read(CHUNK_BYTES)))
        yield answer
    except TimeoutError as error:
        raise Silent(str(error)) from None
    except (OSError, http.client.HTTPException) as error:
        raise UserError(" ".join(str(error).split()) or type(error).__name__) from None
    finally:
        connection.close()


def _get_json(path: str) -> Any:
    with _get(path, CALL_TIMEOUT) as answer:
        return json.loads(answer.read())


def _refusal_reason(body: bytes) -> str:
    try:
        return " ".join(str(json.loads(body)["message"]).split())
    except (ValueError, KeyError, TypeError):
        return "the Docker engine refuses"
