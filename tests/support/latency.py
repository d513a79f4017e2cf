"""The bounds of the load balancers' buckets of latencies."""

from lb.interface.counters import LATENCY_BUCKETS


def latency_bound(bucket: int) -> float:
    """Return the upper bound of `bucket` in seconds; infinity for the last bucket."""
    return float(2 ** ((bucket + 1) / 4) / 1e6) if bucket < LATENCY_BUCKETS - 1 else float("inf")
