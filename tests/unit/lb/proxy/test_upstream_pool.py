"""Rotation, doubt, judging and the repeat budget, all without sockets."""

from collections import Counter

import pytest

from lb.interface.settings import Settings, UpstreamSpec
from lb.proxy.upstream_pool import HealthThreshold, Upstream, UpstreamPool, within_budget


def specs(count: int, **states: str) -> list[UpstreamSpec]:
    return [UpstreamSpec(f"w{n}", "127.0.0.1", 6000 + n, states.get(f"w{n}", "up")) for n in range(count)]


def pool(count: int, **settings: object) -> UpstreamPool:
    made = UpstreamPool(Settings(**settings))  # type: ignore[arg-type]
    made.apply(specs(count))
    return made


def names(made: UpstreamPool, count: int) -> str:
    return " ".join(upstream.name if (upstream := made.pick()) else "-" for _ in range(count))


def test_f15_first_request_goes_to_first_worker() -> None:
    assert names(pool(3), 1) == "w0"


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_round_robin_is_exact(workers: int) -> None:
    """docs/http.md: K*N requests, exactly K each, in turn."""
    made = pool(workers)
    assert names(made, 5 * workers) == " ".join([f"w{n}" for n in range(workers)] * 5)


def test_round_robin_skips_upstreams_out_of_rotation() -> None:
    made = pool(3)
    made.apply(specs(3, w1="down"))
    assert names(made, 4) == "w0 w2 w0 w2"
    made.apply(specs(3))
    assert Counter(names(made, 9).split()) == {"w0": 3, "w1": 3, "w2": 3}


def test_round_robin_continues_after_a_change_of_upstreams() -> None:
    made = pool(3)
    assert names(made, 1) == "w0"
    made.apply(specs(4))
    assert names(made, 4) == "w1 w2 w3 w0"
    made.apply([specs(4)[0], specs(4)[3]])
    assert names(made, 2) == "w3 w0"


def test_no_upstream_in_rotation() -> None:
    made = pool(2)
    made.apply(specs(2, w0="down", w1="draining"))
    assert made.pick() is None
    assert made.rotation() == []
    made.apply([])
    assert made.pick() is None


def test_a_full_upstream_stays_in_rotation() -> None:
    made = pool(2, max_in_flight=1)
    for _ in range(2):
        upstream = made.pick()
        assert upstream
        upstream.in_flight += 1
    assert made.pick() is None
    assert len(made.rotation()) == 2


def test_tried_upstreams_are_not_tried_again() -> None:
    made = pool(2)
    first = made.pick()
    assert first
    assert [made.pick((first,)), made.pick((first,))] == [made.order[1]] * 2
    assert made.pick(made.order) is None


def test_a_suspect_is_skipped_while_others_are_in_rotation() -> None:
    made = pool(2)
    assert made.mark_suspect(made.order[0])
    assert not made.mark_suspect(made.order[0])
    assert names(made, 3) == "w1 w1 w1"
    made.clear_suspect(made.order[0])
    assert names(made, 2) == "w0 w1"


def test_the_last_upstream_is_picked_although_suspect() -> None:
    made = pool(2)
    made.mark_suspect(made.order[0])
    made.mark_suspect(made.order[1])
    assert made.pick() is not None
    single = pool(1)
    single.mark_suspect(single.order[0])
    assert names(single, 2) == "w0 w0"


def test_a_request_waits_for_a_full_worker_not_for_a_suspect() -> None:
    made = pool(2, max_in_flight=1)
    made.mark_suspect(made.order[0])
    made.order[1].in_flight = 1
    assert made.pick() is None


def test_least_connections() -> None:
    made = pool(3, balance="least-connections")
    assert names(made, 3) == "w0 w1 w2"
    made.order[0].in_flight = made.order[2].in_flight = 2
    assert names(made, 3) == "w1 w1 w1"
    made.mark_suspect(made.order[1])
    assert names(made, 2) == "w2 w0"


def test_supervisor_states_take_upstreams_in_and_out() -> None:
    """interfaces: down is out at once, up after down is in at once, an unchanged up leaves our own view alone."""
    made = pool(2)
    upstream = made.order[0]
    new, out, removed = made.apply(specs(2, w0="down"))
    assert (new, out, removed) == ([], [upstream], [])
    assert not upstream.ready
    made.apply(specs(2))
    assert upstream.ready
    upstream.health.set(False)
    made.update_ready(upstream)
    made.apply(specs(2))
    assert not upstream.ready
    made.apply(specs(2, w0="draining"))
    made.apply(specs(2))
    assert not upstream.ready


def test_another_address_is_another_upstream() -> None:
    made = pool(2)
    old = made.order[0]
    new, out, removed = made.apply([UpstreamSpec("w0", "127.0.0.1", 7000), specs(2)[1]])
    assert [each.port for each in new] == [7000]
    assert (out, removed) == ([], [old])
    assert not old.ready


def test_removing_a_suspect_clears_it() -> None:
    made = pool(2)
    made.mark_suspect(made.order[0])
    made.apply(specs(2)[1:])
    assert made.suspects == 0


def test_f3_state_changes_after_fall_and_rise_only() -> None:
    threshold = HealthThreshold(2, 2)
    history = [threshold.observe(passed) for passed in (False, True, False, False, True, False, True, True)]
    assert history == [False, False, False, True, False, False, False, True]
    assert threshold.healthy


def test_checks_come_quickly_while_a_state_is_changing() -> None:
    threshold = HealthThreshold(2, 2)
    assert not threshold.changing
    threshold.observe(False)
    assert threshold.changing
    threshold.observe(False)
    assert threshold.changing
    threshold.observe(True)
    threshold.observe(True)
    assert not threshold.changing


def test_a_decisive_failure_is_enough_but_a_decisive_pass_is_not() -> None:
    threshold = HealthThreshold(2, 2)
    assert threshold.observe(False, decisive=True)
    assert not threshold.observe(True, decisive=True)


def test_settings_reach_the_health_thresholds() -> None:
    made = pool(1)
    made.configure(Settings(health_fall=5, health_rise=7, balance="least-connections"))
    assert (made.order[0].health.fall, made.order[0].health.rise) == (5, 7)


def test_the_first_retry_is_free_later_ones_need_budget() -> None:
    """DESIGN section 4: 20 % of what is in flight, at least 3."""
    assert within_budget(0, 1000, 10)
    assert within_budget(1, 2, 1)
    assert not within_budget(1, 3, 1)
    assert within_budget(1, 19, 100)
    assert not within_budget(1, 20, 100)


def test_repr_is_a_status_line() -> None:
    upstream = Upstream(UpstreamSpec("w0", "127.0.0.1", 6000, "down"), Settings())
    upstream.suspect = True
    assert repr(upstream) == "<Upstream w0 127.0.0.1:6000 down unhealthy suspect 0 in flight>"
