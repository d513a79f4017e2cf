"""Logs of several replicas as one."""

import time
from collections.abc import Iterator

from comet.runtimes.merged_logs import followed, line_time, lines, merged, shown


def test_a_line_in_pieces_is_one() -> None:
    assert list(lines([b"a", b"b\nc\n", b"", b"\nd"])) == [b"ab", b"c", b"", b"d"]


def test_times_are_read_where_a_line_has_one() -> None:
    assert line_time(b"-- worker-0 exited by SIGKILL at 2026-11-30T01:38:54.067Z --") == 1796002734.067
    local = time.mktime(time.strptime("2026-11-30 01:38:53", "%Y-%m-%d %H:%M:%S"))
    assert line_time(b"2026-11-30 01:38:53,111 INFO lb-0 accepts") == local + 0.111
    assert line_time(b"worker-0: listening at 2026-11-30 01:38:53") is None
    assert line_time(b"2026-99-30 01:38:53") is None


def test_past_lines_are_ordered_by_time_and_stay_in_their_order() -> None:
    first = [b"2026-11-30T00:00:10Z a\nb\n2026-11-30T00:00:30Z c\n"]
    second = [b"2026-11-30T00:00:20Z d\ne\n"]
    found = list(merged({"lb-0": first, "worker-0": second}))
    assert [line.text[-1:] for line in found] == [b"a", b"b", b"d", b"e", b"c"]
    assert [shown(line, 8)[12:24] for line in found[1:3]] == [b"  lb-0      ", b"  worker-0  "]
    assert shown(found[1], 8).startswith(b" " * 12)


def test_followed_lines_come_from_all_logs_until_they_end() -> None:
    def log(text: bytes) -> Iterator[bytes]:
        yield text

    found = list(followed({"lb-0": log(b"a\nb\n"), "worker-0": log(b"c\n")}))
    assert sorted((line.name, line.text) for line in found) == [("lb-0", b"a"), ("lb-0", b"b"), ("worker-0", b"c")]
