"""Names what limits a cluster under load, from a few figures. Pure.

The first matching sign is reported, from the most specific to the least specific.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from scripts.bench.stats import median

SATURATED = 85.0  # percent of one core, for what has one core
BUSY_MACHINE = 92.0  # percent of all cores
OUTLIER = 1.5  # a worker this many times slower than the median of the others
QUEUEING = 1.3  # latency at the client over time in the worker


@dataclass(frozen=True)
class Figures:
    """The figures of one load.

    `lb_cpu` and `worker_cpu` are in percent of a core by name, `machine_cpu` of all cores, `generator_cpu` of a core.
    `worker_ms` is the mean time in each worker, `client_ms` the mean latency at the client, both of all requests,
    including injected failures. `open_` means that clients send at a fixed rate, so that more clients would change
    nothing. `own_cpu` is the part of `machine_cpu` that the cluster and its load used.
    """

    lb_cpu: Mapping[str, float]
    machine_cpu: float
    generator_cpu: float
    worker_ms: Mapping[str, float]
    client_ms: float
    worker_cpu: Mapping[str, float] = field(default_factory=dict)
    open_: bool = False
    own_cpu: float | None = None


def bottleneck(figures: Figures) -> str:
    """Return the bottleneck as one sentence."""
    if slow := outlier(figures.worker_ms):
        name, worst_ms, others = slow
        return f"worker {name}: its requests take {worst_ms:.0f} ms, those of the others {others:.0f} ms"
    if figures.generator_cpu > SATURATED:
        return f"the load generator: it used {figures.generator_cpu:.0f} % of a core, so the cluster may be faster"
    if busy := {name: share for name, share in figures.lb_cpu.items() if share > SATURATED}:
        return f"{', '.join(busy)}: {max(busy.values()):.0f} % of a core (an LB has one); more LBs would help"
    if busy := {name: share for name, share in figures.worker_cpu.items() if share > SATURATED}:
        return (
            f"the workers' CPU: {', '.join(busy)} used up to {max(busy.values()):.0f} % of a core; more "
            "workers on more cores would help"
        )
    if figures.machine_cpu > BUSY_MACHINE:
        return f"the machine: {figures.machine_cpu:.0f} % of all its cores were busy" + _other_load(figures)
    # The median of the workers' means may exceed the mean of all requests; no part is larger than the whole.
    inside = min(median(list(figures.worker_ms.values())), figures.client_ms) if figures.worker_ms else 0.0
    if inside and figures.client_ms > QUEUEING * inside and figures.client_ms - inside > 2:
        return (
            f"waiting for a worker: {figures.client_ms:.0f} ms in all, {inside:.0f} ms of it in the worker; more "
            "workers or threads would help"
        )
    if not inside:
        return f"none visible: a request takes {figures.client_ms:.1f} ms and nothing is saturated"
    rest = "the rate is what was asked for" if figures.open_ else "more clients get more"
    return (
        f"the injected delay: {inside:.0f} of {figures.client_ms:.0f} ms are spent in the worker, nothing is "
        f"saturated; {rest}"
    )


def _other_load(figures: Figures) -> str:
    if figures.own_cpu is None:
        return ""
    others = (
        "; other programs use the machine: repeat this when it is idle"
        if figures.own_cpu < figures.machine_cpu * 0.7
        else ""
    )
    return f", {min(figures.own_cpu, figures.machine_cpu):.0f} % by this test{others}"


def outlier(worker_ms: Mapping[str, float]) -> tuple[str, float, float] | None:
    """Return the slowest worker, its time and the median of the others, if it is an outlier."""
    if len(worker_ms) < 2:
        return None
    name = max(worker_ms, key=lambda each: worker_ms[each])
    others = median([value for other, value in worker_ms.items() if other != name])
    worst_ms = worker_ms[name]
    return (name, worst_ms, others) if worst_ms > OUTLIER * others and worst_ms - others > 1 else None
