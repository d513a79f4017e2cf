"""Latency as a histogram with logarithmic buckets (pure).

Rule: bucket 0 ends at 100 us, each further bound is the fourth root of 2 times the one before, so any percentile read from
the buckets is within 19 % of the true value, and 96 buckets reach 19 minutes (the longest possible delay is 15). Only buckets
that were met are stored, so a finer scale would cost rows, not code; the bounds are part of the database's schema version
and never change within one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

FIRST_BOUND_US = 100.0
STEPS_PER_DOUBLING = 4
LAST_BUCKET = 95


def bucket_of(duration_us: int) -> int:
    """The bucket of a duration in microseconds: the first one whose upper bound is not below it."""
    if duration_us <= FIRST_BOUND_US:
        return 0
    # The tiny allowance keeps a duration that equals a bound inside its bucket although log2 is inexact.
    index = math.ceil(STEPS_PER_DOUBLING * math.log2(duration_us / FIRST_BOUND_US) - 1e-9)
    return min(index, LAST_BUCKET)


def upper_bound_ms(bucket: int) -> float:
    """The inclusive upper bound of a bucket in milliseconds; infinite for the last one."""
    if bucket >= LAST_BUCKET:
        return math.inf
    return float(FIRST_BOUND_US * 2 ** (bucket / STEPS_PER_DOUBLING)) / 1000.0


def percentile_ms(buckets: Mapping[int, int], percent: float) -> float:
    """The upper bound (ms) of the bucket in which the given percentile lies; 0 without samples.

    The last bucket has no upper bound: its lower one stands for it.
    """
    total = sum(buckets.values())
    if not total:
        return 0.0
    rank = max(1, math.ceil(total * percent / 100.0))
    seen = 0
    for bucket in sorted(buckets):
        seen += buckets[bucket]
        if seen >= rank:
            return upper_bound_ms(min(bucket, LAST_BUCKET - 1))
    raise AssertionError("the rank lies within the total")
