"""Puts how each life of a replica ended (`comet.events.exit_markers`) between the lines that an engine has kept."""

from collections.abc import Iterable, Iterator
from math import inf

from comet.common.clock import parse
from comet.engine.log_stream import Assembler, Joiner, LogPosition, LogTail, Message
from comet.events.exit_markers import ExitMarkers

RESTART_POLL_PAUSE = 0.2
"""Seconds between two polls for the next life of what has ended."""


class MarkedOutput:
    """Puts the markers of ended lives between the printed lines."""

    def __init__(self, ends: ExitMarkers) -> None:
        self._ends = ends
        self._is_unfinished = False

    def tail(self, lines: list[tuple[str, bytes]], count: int) -> Iterator[bytes]:
        """Yield the last `count` of `lines`, with the markers of ended lives between and after them.

        `lines` holds one line more, if the log has more. If it has no more, the markers include how the life ended
        whose output is gone with its container.
        """
        shown = lines[-count:] if count else []
        first = parse(shown[0][0]) if shown else None
        self._ends.skip_before(inf if first is None else first, keep_last=len(lines) <= count)
        for stamp, line in shown:
            yield from self.at(stamp)
            yield from self.plain((line,))
        yield from self.ends()

    def at(self, stamp: str) -> Iterator[bytes]:
        """Yield the markers of the lives that had ended by then."""
        yield from self._marked(self._ends.until(parse(stamp) or 0.0))

    def ends(self) -> Iterator[bytes]:
        yield from self._marked(self._ends.now())

    def update(self) -> None:
        self._ends.update()

    def plain(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            if piece:
                self._is_unfinished = not piece.endswith(b"\n")
                yield piece

    def _marked(self, texts: Iterable[str]) -> Iterator[bytes]:
        for text in texts:
            yield b"\n" * self._is_unfinished + f"{text}\n".encode()
            self._is_unfinished = False


def last_lines(
    tail: LogTail, count: int, follow: bool, assembler: Assembler | Joiner, out: MarkedOutput
) -> Iterator[bytes]:
    """Yield the last lines; if the log is followed, an unfinished line goes on with the next piece."""

    def text_of(line: list[Message]) -> bytes:
        return b"".join([*(piece for message in line for piece in assembler.feed(message)), *assembler.end()])

    texts = [(line[0].stamp, text_of(line)) for line in tail.lines]
    if follow:
        yield from out.tail(texts, max(0, count - len(tail.unfinished)))
        yield from out.plain(piece for line in tail.unfinished for each in line for piece in assembler.feed(each))
        return
    # Those of two streams remain two lines.
    ends = [b"\n"] * (len(tail.unfinished) - 1) + [b""]
    texts += [(line[0].stamp, text_of(line) + end) for line, end in zip(tail.unfinished, ends, strict=False)]
    yield from out.tail(texts, count)


def new_output(
    messages: Iterable[Message], position: LogPosition, assembler: Assembler | Joiner, out: MarkedOutput
) -> Iterator[bytes]:
    """Yield what is printed from a position on, until the container ends."""
    begun = False
    position.expect_repeats()
    for message in messages:
        if position.is_new(message):
            if not begun:
                out.update()
                begun = True
            yield from out.at(message.stamp)
            yield from out.plain(assembler.feed(message))
