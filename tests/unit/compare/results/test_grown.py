"""How many replicas there may be, and what is said of their memory."""

import pytest

from comet.compare import words
from comet.compare.results import grown
from comet.compare.results.findings import Findings, Grown

MIB = 2**20


def reached(replicas: int, ready_ms: float, mib: int) -> Grown:
    return Grown("container", 0, replicas, ready_ms, replicas * mib * MIB, 0, 0, None)


@pytest.mark.parametrize(
    ("last", "replicas", "available", "reason"),
    [
        (reached(20, 5_000, 20), 40, 4096, ""),
        (reached(80, 20_000, 20), 160, 8192, "160 would take longer than 30 s"),
        (reached(80, 8_000, 20), 160, 3300, ""),
        (reached(80, 8_000, 20), 160, 3100, "160 would take more than 50% of the memory that is available"),
    ],
)
def test_growth_ends_where_time_or_memory_would(last: Grown, replicas: int, available: int, reason: str) -> None:
    assert grown.bound(last, replicas, available * MIB) == reason


def test_what_replicas_share_and_how_many_there_were_is_told() -> None:
    found = Findings(rounds=1)
    for replicas in (1, 20):
        held = {"rss": 30 * replicas * MIB, "private": 20 * replicas * MIB, "files": replicas * MIB}
        found.growth.append(
            Grown("process", 0, replicas, 200.0 * replicas, 25 * replicas * MIB, keeper=0, cgroup=None, **held)
        )
    share = (
        "20 replicas as process (medians): 600 MiB resident, 500 MiB where a shared page counts once; of that, 400 MiB "
        "are private and 20.0 MiB are pages of files."
    )
    assert words.summary(found) == [share]
    found.density = [reached(40, 9_000, 25), reached(80, 20_000, 25)]
    found.bounds = {
        "process": "40 would take more than 50% of the memory that is available",
        "container": "160 would take longer than 30 s",
    }
    assert words.summary(found) == [
        share,
        "20 replicas as process took 500 MiB and were ready after 4.00 s: 40 would take more than 50% of the memory "
        "that is available.",
        "80 replicas as container took 2,000 MiB and were ready after 20.0 s: 160 would take longer than 30 s.",
    ]
