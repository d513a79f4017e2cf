"""Latencies as HDR histograms, against values that are known."""

import pytest

from scripts.bench.hdr import corrected, curve, decoded, encoded, from_pairs, percentile_ms, summed


@pytest.mark.slow
def test_percentiles_of_known_values_are_within_a_thousandth() -> None:
    of = from_pairs((micros, 1) for micros in range(1, 1_000_001))
    for percent in (1.0, 50.0, 90.0, 99.0, 99.9):
        assert percentile_ms(of, percent) == pytest.approx(percent * 10, rel=0.0011)
    assert percentile_ms(from_pairs(), 99.0) is None


@pytest.mark.slow
def test_a_stall_stands_for_all_that_were_not_asked_in_it() -> None:
    # Gil Tene's example: 1 ms each for 100 s at 100 requests a second, then one stall of 100 s.
    measured = [(1_000, 10_000), (100_000_000, 1)]
    mended = corrected(measured, 10_000)
    assert sum(count for _, count in mended) == 20_000
    raw, whole = from_pairs(measured), from_pairs(mended)
    assert percentile_ms(raw, 99.0) == pytest.approx(1.0, rel=0.01)
    assert percentile_ms(whole, 50.0) == pytest.approx(1.0, rel=0.01)
    assert percentile_ms(whole, 75.0) == pytest.approx(50_000, rel=0.01)
    assert percentile_ms(whole, 99.0) == pytest.approx(98_000, rel=0.01)


def test_what_did_not_stall_is_not_corrected() -> None:
    assert corrected([(5, 3), (19, 1)], 10) == [(5, 3), (19, 1)]
    with pytest.raises(ValueError, match="positive"):
        corrected([(5, 3)], 0)


def test_histograms_add_up_and_survive_as_text() -> None:
    whole = summed([from_pairs([(100, 5)]), from_pairs([(9_000, 5)])])
    again = decoded(encoded(whole))
    assert again.get_total_count() == 10
    assert percentile_ms(again, 50) == pytest.approx(0.1, rel=0.01)
    assert percentile_ms(again, 100) == pytest.approx(9.0, rel=0.01)


def test_a_curve_ends_where_percentiles_no_longer_differ() -> None:
    assert curve(from_pairs([(1_000, 100)]))[-1][0] == 99
    assert curve(from_pairs()) == []
