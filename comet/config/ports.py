"""The ranges of ports that a config gives, and what is wrong with them. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from comet.config.runtimes import RUNTIMES

PORT_KEYS = ("runtime", "load-balancer-port", "front-port", "worker-port", "admin-port")


def port_ranges(values: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """Return (key, first port, number of ports) of each port range that the config gives, without empty ranges."""
    ranges = [
        ("load-balancer-port", values["load-balancer-port"], values["pool"]),
        ("front-port", values["front-port"] or 0, 1),
        # The nodes of a swarm choose the ports of their tasks.
        ("worker-port", values["worker-port"], 0 if RUNTIMES[values["runtime"]].remote else values["worker"]),
        ("admin-port", values["admin-port"], 1 if values["admin-port"] else 0),
    ]
    return [(key, first, count) for key, first, count in ranges if first and count]


def problems(values: Mapping[str, Any], lines: Mapping[str, int], name: str) -> Iterator[str]:
    ranges = port_ranges(values)
    for key, first, count in ranges:
        if first + count - 1 > 65535:
            yield (
                f"{name}:{lines.get(key, 1)}: {key}: {count} ports from {first} go past 65535 (allowed: up to "
                f"{65536 - count})"
            )
    for index, (key, first, count) in enumerate(ranges):
        for other, other_first, other_count in ranges[:index]:
            if first < other_first + other_count and other_first < first + count:
                line = max(lines.get(key, 1), lines.get(other, 1))
                here, there = span(first, count), span(other_first, other_count)
                yield f"{name}:{line}: {key}: {here} overlaps {other} {there} (allowed: ranges that do not meet)"


def span(first: int, count: int) -> str:
    return str(first) if count == 1 else f"{first}-{first + count - 1}"
