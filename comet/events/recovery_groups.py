"""Which recoveries may be compared: those of the same program. Pure.

A worker is the same program as a process and as a container. A load balancer is another one, with a spare that has
started already, so it stands apart. A wait before a further attempt (backoff) is policy and no property of either
form: it counts in no median.
"""

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

LOAD_BALANCER = "Load balancer (warm spare)"
GROUPS = ("Worker as process", "Worker as container", "Worker as task", LOAD_BALANCER)

BACKOFF = "backoff"
"""The step of a timeline at which the last wait before a further attempt was over."""


def group(replica: str, kind: str) -> str:
    """Return the one of GROUPS that a replica's recoveries belong to."""
    return LOAD_BALANCER if replica.startswith("lb-") else f"Worker as {kind}"


def backoff_ms(steps: Mapping[str, float]) -> float:
    """Return how long a recovery waited for further attempts, attempts that failed included; 0 for most."""
    if BACKOFF not in steps:
        return 0.0
    return max(0.0, round(steps[BACKOFF] - steps.get("noticed", 0.0), 1))


def own_ms(steps: Mapping[str, float]) -> float:
    """Return the time from death to ready without the backoff."""
    return round(steps.get("ready", 0.0) - backoff_ms(steps), 1)


def medians(records: Iterable[Mapping[str, Any]]) -> dict[str, tuple[float, int]]:
    """Return the median and the number of the recoveries among these records of the journal, by group."""
    times: dict[str, list[float]] = {}
    for record in records:
        if record.get("event") == "replica_ready" and (steps := record.get("timeline_ms")):
            known = group(str(record.get("replica") or ""), str(record.get("kind") or "process"))
            times.setdefault(known, []).append(own_ms(steps))
    ordered = sorted(times, key=lambda each: GROUPS.index(each) if each in GROUPS else len(GROUPS))
    return {each: (median(times[each]), len(times[each])) for each in ordered}
