"""What limits a cluster under load, read from a few figures. Pure; the first sign that fits, from the most to the least specific."""

from collections.abc import Mapping
from dataclasses import dataclass

from scripts.bench.stats import median

SATURATED = 85.0  # percent of one core, for what has one core
BUSY_MACHINE = 92.0  # percent of all cores
OUTLIER = 1.5  # a worker this many times slower than the median of the others
QUEUEING = 1.3  # latency at the client over time in the worker


@dataclass(frozen=True)
class Figures:
    """`lb_cpu` in percent of a core by LB, `machine_cpu` of all cores, `generator_cpu` of a core; `worker_ms` is the mean time in each
    worker and `client_ms` the mean latency in front of the LB's upstreams, both of all requests, injected failures too."""

    lb_cpu: Mapping[str, float]
    machine_cpu: float
    generator_cpu: float
    worker_ms: Mapping[str, float]
    client_ms: float


def bottleneck(of: Figures) -> str:
    """One sentence."""
    for name, taken in of.worker_ms.items():
        others = [value for other, value in of.worker_ms.items() if other != name]
        if others and taken > OUTLIER * median(others) and taken - median(others) > 1:
            return f"worker {name}: its requests take {taken:.0f} ms, those of the others {median(others):.0f} ms"
    if of.generator_cpu > SATURATED:
        return f"the load generator: it used {of.generator_cpu:.0f} % of a core, so the cluster may be faster than this"
    if busy := {name: share for name, share in of.lb_cpu.items() if share > SATURATED}:
        return f"{', '.join(busy)}: {max(busy.values()):.0f} % of a core (an LB has one); more LBs would help"
    if of.machine_cpu > BUSY_MACHINE:
        return f"the machine: {of.machine_cpu:.0f} % of all its cores were busy"
    inside = median(list(of.worker_ms.values())) if of.worker_ms else 0.0
    if inside and of.client_ms > QUEUEING * inside and of.client_ms - inside > 2:
        return (
            f"waiting for a worker: {of.client_ms:.0f} ms in all, {inside:.0f} ms of it in the worker; more workers or threads would help"
        )
    return f"the injected delay: {inside:.0f} of {of.client_ms:.0f} ms are spent in the worker, nothing is saturated; more clients get more"
