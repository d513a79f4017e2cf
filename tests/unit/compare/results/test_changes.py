"""Sentences that list what several things change."""

from collections.abc import Sequence

from comet.compare import words
from comet.compare.results.findings import NETWORK, PLACES, WAYS, Findings


def asked(changes: Sequence[tuple[float, ...]]) -> Findings:
    """A process that is answered after 20 µs, and by each way a container whose answer takes so much longer."""
    made = Findings(rounds=3)
    for way, added in zip(WAYS, changes, strict=False):
        measure = made.measure(NETWORK, f"latency p50, {way}", "µs")
        for number, more in enumerate(added):
            measure.note("process", number, 20.0)
            measure.note("container", number, 20.0 + more)
    return made


def test_every_way_is_told_with_what_it_adds() -> None:
    found = asked([(-1.0, 1.0, 0.5), (9.0, 10.0, 11.0), (0.0, 0.0, 0.0), (39.0, 40.0, 41.0), (-2.0, -3.0, -2.5)])
    assert words.summary(found) == [
        "An answer of 64 bytes (p50) from a container, and the difference to a process: host's network 20.2 µs (within "
        "the noise), container's own address 30.0 µs (+10.0 µs), published port by NAT alone 20.0 µs, published port "
        "by the engine's proxy 60.0 µs (+40.0 µs), UNIX socket in a mounted folder 17.5 µs (-2.50 µs)."
    ]


def test_a_way_that_was_not_measured_is_not_told() -> None:
    assert words.summary(asked([(1.0, 1.0, 1.0)])) == [
        "An answer of 64 bytes (p50) from a container, and the difference to a process: "
        "host's network 21.0 µs (+1.00 µs)."
    ]
    assert words.summary(asked([])) == []


def test_a_place_is_compared_with_its_like_on_the_host() -> None:
    found = Findings(rounds=3)
    for place, process, container in zip(PLACES, (2000.0, 2000.0, 9000.0), (1500.0, 2000.0, 8000.0), strict=True):
        measure = found.measure("disk", f"database commits, {place}", "commits/s")
        for number in range(3):
            measure.note("process", number, process)
            measure.note("container", number, container)
    assert words.summary(found) == [
        "A database (SQLite, each commit synced) of a container, and the difference to a process: layer (overlay) "
        "1,500 commits/s (-500 commits/s), mounted folder 2,000 commits/s, memory (tmpfs) 8,000 "
        "commits/s (-1,000 commits/s)."
    ]


def test_a_guard_takes_the_difference_to_a_container_without() -> None:
    found = Findings(rounds=3)
    for name, value in (("getppid", 0.25), ("futex", 0.75), ("getppid, seccomp off", 0.125)):
        measure = found.measure("system calls", name, "µs")
        for number in range(3):
            measure.note("process", number, 0.1)
            measure.note("container", number, value)
    assert words.summary(found) == [
        "A container's system calls, and the difference to those with seccomp off: getppid 0.250 µs (+0.125 µs)."
    ]
