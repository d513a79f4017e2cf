"""A container's log as its engine keeps it, and as it was written."""

from collections.abc import Sequence

import pytest

from comet.common.clock import parse
from comet.engine import log_stream
from comet.engine.log_stream import CHUNK_BYTES, MAX_HELD_BYTES, Assembler, Joiner, LogPosition, Message, last_lines

OUT, ERR = 1, 2


def put_together(messages: list[Message], mends: bool = True) -> bytes:
    assembler = Assembler(mends)
    pieces = [piece for message in messages for piece in assembler.feed(message)]
    return b"".join([*pieces, *assembler.end()])


def split(stamp: str, stream: int, line: bytes, local: bool) -> list[Message]:
    """As the engine keeps a line: with the driver `local`, and with the others."""
    pieces = [line[start : start + CHUNK_BYTES] for start in range(0, len(line) + 1, CHUNK_BYTES)]
    last = pieces.pop() + (b"" if local and pieces else b"\n")
    return [Message(stamp, stream, piece) for piece in [*pieces, last]]


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize(
    "size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 5 * CHUNK_BYTES + 7]
)
def test_a_split_line_is_whole_again(size: int, local: bool) -> None:
    line = b"\xff" * size
    told = [*split("1", OUT, line, local), *split("2", OUT, b"next", local), *split("3", OUT, line, local)]
    assert put_together(told, local) == line + b"\nnext\n" + line + b"\n"


def test_lines_of_the_other_stream_wait_for_a_split_line() -> None:
    long, other = b"L" * (2 * CHUNK_BYTES + 5), b"M" * (CHUNK_BYTES + 3)
    pieces, others = split("1", OUT, long, True), split("3", ERR, other, True)
    told = [
        pieces[0],
        Message("2", ERR, b"error\n"),
        others[0],
        pieces[1],
        others[1],
        pieces[2],
        Message("4", OUT, b"after\n"),
    ]
    assert put_together(told) == long + b"\nerror\n" + other + b"\nafter\n"


@pytest.mark.slow
def test_what_waits_is_bounded_and_told_at_the_end() -> None:
    begun = Message("1", OUT, b"L" * CHUNK_BYTES)
    assembler = Assembler(True)
    assert list(assembler.feed(begun)) == [begun.data]
    waits = [
        b"".join(assembler.feed(Message("2", ERR, b"e" * 999 + b"\n")))
        for _ in range(log_stream.MAX_HELD_BYTES // 1000 + 2)
    ]
    assert sum(map(len, waits)) > log_stream.MAX_HELD_BYTES
    assert put_together([begun, Message("2", ERR, b"e\n")]) == begun.data + b"\ne\n"


def test_two_lines_that_have_no_end_remain_two() -> None:
    begun = [Message("1", OUT, b"L" * CHUNK_BYTES), Message("2", ERR, b"M" * CHUNK_BYTES)]
    assert put_together(begun) == begun[0].data + b"\n" + begun[1].data
    joiner = Joiner()
    assert [piece for message in begun for piece in joiner.feed(message)] == []
    assert b"".join(joiner.end()) == begun[0].data + b"\n" + begun[1].data


def test_a_line_begun_too_late_to_be_told_at_once_is_whole() -> None:
    """The lines that waited for one may themselves end with one that goes on."""
    first, second = split("1", OUT, b"L" * CHUNK_BYTES, True), split("2", ERR, b"M" * CHUNK_BYTES, True)
    told = [first[0], second[0], first[1], Message("3", OUT, b"after\n"), second[1]]
    assert put_together(told) == b"L" * CHUNK_BYTES + b"\n" + b"M" * CHUNK_BYTES + b"\nafter\n"


def read_again(position: LogPosition, messages: list[Message]) -> list[Message]:
    position.expect_repeats()
    return [message for message in messages if position.is_new(message)]


def test_a_log_position_is_found_again_within_one_timestamp() -> None:
    told = [Message(stamp, OUT, b"") for stamp in ("1", "2", "2", "2", "3")]
    for read in range(len(told) + 1):
        position = LogPosition(coarse=False)
        assert all(position.is_new(message) for message in told[:read])
        assert read_again(position, told) == told[read:]
        assert read_again(position, told) == []


@pytest.mark.parametrize("coarse", [True, False])
def test_lines_out_of_order_are_neither_lost_nor_told_twice(coarse: bool) -> None:
    """The engine reads the two streams independently; only within one of them the times are in order."""
    streams = [(OUT, "1"), (ERR, "3"), (OUT, "2"), (OUT, "2"), (ERR, "3"), (OUT, "5"), (ERR, "4"), (OUT, "5")]
    told = [Message(stamp, stream, b"%d\n" % number) for number, (stream, stamp) in enumerate(streams)]
    for read in range(len(told) + 1):
        position = LogPosition(coarse)
        assert all(position.is_new(message) for message in told[:read])
        assert read_again(position, told) == told[read:]
        assert read_again(position, told) == []


def test_a_line_that_the_engine_tells_again_is_one() -> None:
    position, line = LogPosition(coarse=False), Message("1", OUT, b"line\n")
    told = [line, line, Message("2", OUT, b"line\n")]
    assert [position.is_new(each) for each in told] == [True, False, True]


def test_lines_are_put_together_for_each_stream() -> None:
    joiner = Joiner()
    written = [(OUT, b"one\n"), (OUT, b"tw"), (ERR, b"error\n"), (OUT, b"o\n"), (OUT, b"last")]
    assert [piece for stream, data in written for piece in joiner.feed(Message("1", stream, data))] == [
        b"one\n",
        b"error\n",
        b"two\n",
    ]
    assert (list(joiner.end()), list(joiner.end())) == ([b"last"], [])
    assert list(joiner.feed(Message("1", OUT, b"x" * (MAX_HELD_BYTES + 1)))) == [b"x" * (MAX_HELD_BYTES + 1)]


def test_equal_lines_of_one_second_are_all_new() -> None:
    """Of a log with whole seconds it is known how many messages of the last second were read."""
    position = LogPosition(coarse=True)
    told = [Message(stamp, OUT, b"same\n") for stamp in ("1", "2", "2", "2", "2", "2", "3", "3")]
    assert all(position.is_new(message) for message in told[:4])
    position.expect_repeats()
    assert [position.is_new(message) for message in told] == [False, False, False, False, True, True, True, True]


# The last lines, and what follows them.


def at(second: float) -> str:
    return f"2026-11-25T10:{int(second) // 60:02}:{second % 60:012.9f}Z"


class Log:
    """What an engine keeps; it tells the last so many messages."""

    def __init__(self, kept: list[Message]) -> None:
        self.kept = kept
        self.asked: list[int | str] = []

    def read(self, tail: int | str) -> list[Message]:
        self.asked.append(tail)
        return self.kept[-tail:] if isinstance(tail, int) else self.kept


def text(lines: Sequence[list[Message]]) -> list[bytes]:
    return [b"".join(each.data for each in line) for line in lines]


def test_podmans_past_lines_are_in_the_order_in_which_they_ended() -> None:
    """As a follower sees them: a line of one stream ended while a line of the other one was open."""
    written = [(OUT, b"same\n"), (OUT, b"in "), (ERR, b"error\n"), (OUT, b"two\n"), (OUT, b"last\n"), (ERR, b"open")]
    kept = [Message(at(10), stream, data) for stream, data in written]
    lines = [b"same\n", b"error\n", b"in two\n", b"last\n"]
    for count in range(7):
        past = last_lines(Log(kept).read, count, as_written=True)
        assert text(past.lines) == lines[-count - 3 :]
        assert text(past.unfinished) == [b"open"]
        assert read_again(past.position, kept) == []
    past = last_lines(Log(kept[:3]).read, 9, as_written=True)
    assert (text(past.lines), text(past.unfinished)) == ([b"same\n", b"error\n"], [b"in "])


def test_the_last_lines_begin_with_their_first_piece() -> None:
    """Also where a line of the other stream lies between its pieces, and wherever the engine is asked to begin."""
    long = [
        split(at(100), OUT, b"L" * 9 * CHUNK_BYTES, local=True),
        split(at(100.1), ERR, b"M" * 9 * CHUNK_BYTES, local=True),
    ]
    kept = [Message(at(second), OUT, b"early\n") for second in range(90)]
    kept += [piece for pair in zip(*long, strict=True) for piece in pair]
    lines = [b"early\n"] * 90 + [b"L" * 9 * CHUNK_BYTES, b"M" * 9 * CHUNK_BYTES]
    for count in range(1, 5):
        past = last_lines(Log(kept).read, count, as_written=False)
        assert text(past.lines)[-count:] == lines[-count:]
        assert past.unfinished == []


def test_the_last_lines_reach_back_to_what_is_read_again() -> None:
    """A stream that has nothing among the last messages is not new when they are read again."""
    kept = [Message(at(10 + number / 100), ERR if number == 150 else OUT, b"%d\n" % number) for number in range(200)]
    log = Log(kept)
    past = last_lines(log.read, 1, as_written=False)
    assert text(past.lines)[-1:] == [b"199\n"]
    told_again = [message for message in kept if (parse(message.stamp) or 0) >= past.position.since]
    assert len(told_again) > 50
    assert read_again(past.position, [*told_again, Message(at(11.98), ERR, b"new\n")])[0].data == b"new\n"
    sparse = Log([Message(at(10 * number), OUT, b"%d\n" % number) for number in range(200)])
    last_lines(sparse.read, 1, as_written=False)
    assert sparse.asked == [2]


@pytest.mark.parametrize("later", [[], [Message(at(20), ERR, b"of a later life\n")]])
def test_a_line_with_missing_pieces_is_unfinished_for_a_while(later: list[Message]) -> None:
    begun, error = Message(at(10), OUT, b"L" * CHUNK_BYTES), Message(at(10.5), ERR, b"error\n")
    past = last_lines(Log([begun, error, *later]).read, 5, as_written=False)
    if later:
        assert (list(past.lines), past.unfinished) == ([[begun], [error], later], [])
    else:
        assert (list(past.lines), past.unfinished) == ([[error]], [[begun]])
