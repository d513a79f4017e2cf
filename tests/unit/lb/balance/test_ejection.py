"""When a worker is ejected for its answers, for how long, how many at most, and when all are used nevertheless."""

import pytest

from lb.balance.ejection import Ejector
from lb.balance.upstream import Upstream
from lb.interface.settings import Settings, UpstreamSpec
from lb.proxy.upstream_pool import UpstreamPool


def pool(count: int, **settings: object) -> UpstreamPool:
    made = UpstreamPool(Settings(**settings))  # type: ignore[arg-type]
    made.apply([UpstreamSpec(f"w{n}", "127.0.0.1", 6000 + n) for n in range(count)])
    return made


def ejector(**settings: object) -> tuple[Ejector, Upstream]:
    return Ejector(Settings(**settings)), pool(1).order[0]  # type: ignore[arg-type]


def eject(made: UpstreamPool, *indexes: int) -> None:
    for index in indexes:
        made.order[index].ejected = True
        made.update_ready(made.order[index])
    made.update_panic()


def used(made: UpstreamPool) -> set[str]:
    return {each.name for _ in range(20) if (each := made.pick()) is not None}


def test_server_errors_in_a_row() -> None:
    made, upstream = ejector(eject_after_5xx=3)
    said = [made.observe(upstream, status) for status in (500, 502, 200, 500, 404, 500, 503, 500)]
    assert said == [""] * 7 + ["3 server errors in a row"]


def test_gateway_errors_apart() -> None:
    made, upstream = ejector(eject_after_gateway_errors=2)
    said = [made.observe(upstream, status) for status in (500, 500, 500, 502, 500, 504, 503)]
    assert said == [""] * 6 + ["2 gateway errors in a row"]


def test_a_share_of_an_interval() -> None:
    made, upstream = ejector(eject_error_percent=25.0, eject_min_requests=20)
    for status in [200] * 15 + [500] * 4:
        assert made.observe(upstream, status) == ""
    assert made.end_interval() == []  # 19 are too few.
    for status in [200] * 15 + [500] * 5:
        made.observe(upstream, status)
    assert made.end_interval() == [(upstream, "25% of 20 responses are server errors")]
    assert made.end_interval() == []


def test_the_time_grows_to_its_limit_and_shrinks_when_quiet() -> None:
    made, upstream = ejector(eject_after_5xx=1, eject_time=10.0, eject_time_max=25.0)
    assert [made.next_time(upstream) for _ in range(4)] == [10, 20, 25, 25]
    made.end_interval()
    made.end_interval()
    made.end_interval()
    assert made.next_time(upstream) == 20
    upstream.ejected = True
    made.end_interval()
    upstream.ejected = False
    assert made.next_time(upstream) == 25
    made.forget(upstream)
    assert made.next_time(upstream) == 10


@pytest.mark.parametrize(
    ("workers", "percent", "most"),
    [(3, 50, 1), (4, 50, 2), (2, 50, 1), (1, 50, 0), (10, 9, 0), (10, 10, 1), (3, 100, 3)],
)
def test_at_most_a_share_is_ejected(workers: int, percent: float, most: int) -> None:
    made = pool(workers)
    decides = Ejector(Settings(eject_max_percent=float(percent)))
    for upstream in made.order:
        upstream.ejected = decides.may_eject(made.order)
    assert sum(each.ejected for each in made.order) == most


def test_ejected_workers_are_out_of_rotation() -> None:
    made = pool(4)
    eject(made, 0, 1)
    assert used(made) == {"w2", "w3"}
    made.order[0].ejected = False
    made.update_ready(made.order[0])
    assert used(made) == {"w0", "w2", "w3"}


def test_all_are_used_when_too_few_are_left() -> None:
    made = pool(4)
    eject(made, 0, 1)
    made.order[2].health.set(False)
    made.update_ready(made.order[2])
    made.update_panic()
    assert used(made) == {"w0", "w1", "w3"}  # Not the one that fails its checks.
    made.order[2].health.set(True)
    made.update_ready(made.order[2])
    made.update_panic()
    assert used(made) == {"w2", "w3"}


def test_the_panic_threshold_may_be_off_and_changes_live() -> None:
    made = pool(2, eject_panic_percent=0.0)
    eject(made, 0, 1)
    assert used(made) == set()
    made.configure(Settings(eject_panic_percent=10.0))
    assert used(made) == {"w0", "w1"}


def test_a_restarted_worker_is_not_ejected() -> None:
    made = pool(4)
    eject(made, 0)
    made.apply([UpstreamSpec(f"w{n}", "127.0.0.1", 6000 + n, "down" if n == 0 else "up") for n in range(4)])
    assert used(made) == {"w1", "w2", "w3"}
    made.apply([UpstreamSpec(f"w{n}", "127.0.0.1", 6000 + n) for n in range(4)])
    assert used(made) == {"w0", "w1", "w2", "w3"}
