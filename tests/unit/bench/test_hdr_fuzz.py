"""What wrk reports, taken back to what it measured, for latencies drawn at random."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.bench.hdr import uncorrected

pytestmark = pytest.mark.slow  # Random input, and much of it.


def wrk_corrects(counts: dict[int, int], expected: int) -> dict[int, int]:
    """wrk's stats_correct (src/stats.c), statement by statement."""
    data = Counter(counts)
    for n in range(expected * 2, max(data, default=0) + 1):
        count, m = data[n], n - expected
        while count and m > expected:
            data[m] += count
            m -= expected
    return {value: count for value, count in data.items() if count}


@settings(deadline=None)
@given(st.dictionaries(st.integers(1, 400), st.integers(1, 50), min_size=1), st.integers(1, 150))
def test_what_wrk_measured_is_found_again_in_what_it_reports(counts: dict[int, int], expected: int) -> None:
    assert dict(uncorrected(sorted(wrk_corrects(counts, expected).items()), expected)) == counts
