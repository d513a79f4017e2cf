"""Keeps latency as a histogram with logarithmic buckets (pure).

Bucket 0 ends at 100 µs, and each further bound is the fourth root of 2 times the previous one. So any percentile read
from the buckets is within 19 % of the true value, and 96 buckets reach 19 minutes (the longest possible delay is 15
minutes). Only buckets with samples are stored, so a finer scale would cost rows, not code. The bounds are part of the
database's schema version and never change within one version.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

FIRST_BOUND_US = 100.0
STEPS_PER_DOUBLING = 4
LAST_BUCKET = 95


def bucket_of(duration_us: int) -> int:
    """Return the bucket of a duration in microseconds: the first one whose upper bound is not below it."""
    if duration_us <= FIRST_BOUND_US:
        return 0
    # log2 is inexact: the small allowance keeps a duration that equals a bound inside its bucket.
    index = math.ceil(STEPS_PER_DOUBLING * math.log2(duration_us / FIRST_BOUND_US) - 1e-9)
    return min(index, LAST_BUCKET)


def upper_bound_ms(bucket: int) -> float:
    """Return the inclusive upper bound of a bucket in milliseconds; infinity for the last bucket."""
    if bucket >= LAST_BUCKET:
        return math.inf
    return float(FIRST_BOUND_US * 2 ** (bucket / STEPS_PER_DOUBLING)) / 1000.0


def percentile_ms(buckets: Mapping[int, int], percent: float) -> float:
    """Return the given percentile in ms, 0 without samples: interpolated within the bucket that contains it.

    The last bucket has no upper bound; its lower bound is used instead.
    """
    total = sum(buckets.values())
    if not total:
        return 0.0
    rank = max(1, math.ceil(total * percent / 100.0))
    below = 0
    for bucket in sorted(buckets):
        if below + buckets[bucket] >= rank:
            low = upper_bound_ms(bucket - 1) if bucket else 0.0
            high = low if bucket >= LAST_BUCKET else upper_bound_ms(bucket)
            return low + (high - low) * (rank - 0.5 - below) / buckets[bucket]
        below += buckets[bucket]
    raise AssertionError("the rank is at most the total")
