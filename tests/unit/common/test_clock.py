"""Wall time: a clock that is set is noticed, one that is corrected in small steps is not."""

from comet.common.clock import ClockWatch


def test_a_set_clock_is_noticed_once_and_drift_is_not() -> None:
    watch = ClockWatch(wall=1000.0, monotonic=10.0)
    assert watch.moved(1001.0, 11.0) is None
    assert watch.moved(4602.0, 12.0) == 3600.0
    assert watch.moved(4603.0, 13.0) is None
    assert watch.moved(4603.5, 14.0) is None
    assert watch.moved(1000.0, 15.0) == -3604.5
    for second in range(100):
        assert watch.moved(1000.0 + 1.0005 * second, 15.0 + second) is None
