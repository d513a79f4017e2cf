from comet.reconcile.restart_policy import RestartPolicy


def test_the_first_restart_is_at_once_then_delays_double() -> None:
    policy = RestartPolicy(maximum=1.0)
    assert [policy.delay(attempt, 0) for attempt in range(1, 8)] == [0.0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_jitter_spreads_by_a_fifth_to_either_side() -> None:
    policy = RestartPolicy()
    assert policy.delay(3, -1) == 0.2 * 0.8
    assert policy.delay(3, 1) == 0.2 * 1.2


def test_a_crash_loop_of_days_does_not_overflow() -> None:
    assert RestartPolicy().delay(1_000_000, 0) == 30.0
