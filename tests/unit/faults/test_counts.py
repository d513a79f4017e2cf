"""What is left of counted leases: read from the load balancers' tickets, and from what workers say."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from comet.faults.counts import Counts
from comet.faults.orders import BootTime, Change, CountsLeft, Ordered, apply
from fault_rules import MAX_COUNTS, Override, counts_text, read_counts, tickets_name
from lb.faults.leases import Leases

NOW = BootTime(10.0, "boot")
KEY = ("worker-0", "a")
COUNT = 3


def ordered(name: str = "worker-0", count: int | None = COUNT) -> dict[str, Ordered]:
    limit = {"seconds": 9.0} if count is None else {"count": count}
    return {name: apply(Ordered(), Change({"failure": 100.0}, **limit), NOW, "a")}  # type: ignore[arg-type]


def reported(number: int, *more: int) -> CountsLeft:
    counts = Counts()
    for each in (number, *more):
        counts.report({"worker-0": {"a": each}})
    return counts.left(ordered(), "worker", Path("/nowhere"))


def test_the_tickets_of_load_balancers_are_counted(tmp_path: Path) -> None:
    taken, counts = Leases("worker-0", lambda: str(tmp_path), "boot"), Counts()
    seen = []
    for _ in range(COUNT + 2):
        seen.append(counts.left(ordered(), "lb", tmp_path)[KEY])
        taken.take(Override("a", {}, count=COUNT))
    assert seen == [3, 2, 1, 0, 0]


def test_the_front_has_tickets_whatever_injects_worker_faults(tmp_path: Path) -> None:
    (tmp_path / tickets_name("front", "a")).write_bytes(b"x")
    for point in ("worker", "lb", "front"):
        assert Counts().left(ordered("front"), point, tmp_path) == {("front", "a"): 2}


def link(path: Path) -> None:
    (path.parent / "elsewhere").write_bytes(b"xx")
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, link])
def test_what_is_no_ticket_file_says_nothing(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / tickets_name("worker-0", "a"))
    assert Counts().left(ordered(), "lb", tmp_path) == {}


def test_what_a_worker_says_only_falls_within_the_count() -> None:
    assert reported(2) == {KEY: 2}
    assert reported(2, 0, 1) == {KEY: 0}
    assert reported(10**15) == {KEY: 3}
    assert reported(-5) == {KEY: 0}


def test_a_worker_speaks_of_its_own_counted_leases_alone() -> None:
    counts = Counts()
    counts.report({"worker-0": {"a": 1, "b": 2}, "worker-1": {"a": 0}, "front": {"a": 0}})
    assert counts.left(ordered(), "worker", Path("/nowhere")) == {KEY: 1}
    assert counts.left({}, "worker", Path("/nowhere")) == {}
    assert counts.left(ordered(), "worker", Path("/nowhere")) == {}
    counts.report({"worker-0": {"a": 1}})
    assert counts.left(ordered(), "front", Path("/nowhere")) == {}
    assert counts.left(ordered(count=None), "worker", Path("/nowhere")) == {}


def test_the_field_of_a_health_check_is_read_as_it_is_written() -> None:
    left = {"7f00": 3, "another-1": 0, "of many": 1_000_000}
    assert read_counts(counts_text({**left, "not=an id": 5, "two\r\nlines": 1})) == {"7f00": 3, "another-1": 0}
    assert read_counts(counts_text({f"id-{number}": number for number in range(100)})) == {
        f"id-{number}": number for number in range(MAX_COUNTS)
    }
    assert counts_text({}) == ""


@pytest.mark.parametrize(
    "text", ["", "a", "a=", "=1", "a=-1", "a=1.5", "a=1e3", "a=9999999999", "a==1", "ä=1", "," * 99]
)
def test_a_field_without_numbers_says_nothing(text: str) -> None:
    assert read_counts(text) == {}
