"""What limits a cluster under load, read from a few figures. Pure; the first sign that fits, from the most to the least specific."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from scripts.bench.stats import median

SATURATED = 85.0  # percent of one core, for what has one core
BUSY_MACHINE = 92.0  # percent of all cores
OUTLIER = 1.5  # a worker this many times slower than the median of the others
QUEUEING = 1.3  # latency at the client over time in the worker


@dataclass(frozen=True)
class Figures:
    """`lb_cpu` and `worker_cpu` in percent of a core by name, `machine_cpu` of all cores, `generator_cpu` of a core; `worker_ms` is the
    mean time in each worker and `client_ms` the mean latency in front of the LB's upstreams, both of all requests, injected failures too.
    `open_`: clients ask at a rate of their own, so that there is nothing to be had from more of them. `own_cpu` is the share of
    `machine_cpu` that the cluster and its load took."""

    lb_cpu: Mapping[str, float]
    machine_cpu: float
    generator_cpu: float
    worker_ms: Mapping[str, float]
    client_ms: float
    worker_cpu: Mapping[str, float] = field(default_factory=dict)
    open_: bool = False
    own_cpu: float | None = None


def bottleneck(of: Figures) -> str:
    """One sentence."""
    if slow := outlier(of.worker_ms):
        name, taken, others = slow
        return f"worker {name}: its requests take {taken:.0f} ms, those of the others {others:.0f} ms"
    if of.generator_cpu > SATURATED:
        return f"the load generator: it used {of.generator_cpu:.0f} % of a core, so the cluster may be faster than this"
    if busy := {name: share for name, share in of.lb_cpu.items() if share > SATURATED}:
        return f"{', '.join(busy)}: {max(busy.values()):.0f} % of a core (an LB has one); more LBs would help"
    if busy := {name: share for name, share in of.worker_cpu.items() if share > SATURATED}:
        return f"the workers' CPU: {', '.join(busy)} used up to {max(busy.values()):.0f} % of a core; more workers on more cores would help"
    if of.machine_cpu > BUSY_MACHINE:
        return f"the machine: {of.machine_cpu:.0f} % of all its cores were busy" + _whose(of)
    inside = median(list(of.worker_ms.values())) if of.worker_ms else 0.0
    if inside and of.client_ms > QUEUEING * inside and of.client_ms - inside > 2:
        return (
            f"waiting for a worker: {of.client_ms:.0f} ms in all, {inside:.0f} ms of it in the worker; more workers or threads would help"
        )
    if not inside:
        return f"none that shows: a request takes {of.client_ms:.1f} ms and nothing is saturated"
    rest = "the rate is what was asked for" if of.open_ else "more clients get more"
    return f"the injected delay: {inside:.0f} of {of.client_ms:.0f} ms are spent in the worker, nothing is saturated; {rest}"


def _whose(of: Figures) -> str:
    if of.own_cpu is None:
        return ""
    others = "; others use the machine, so repeat this when it is quiet" if of.own_cpu < of.machine_cpu * 0.7 else ""
    return f", {min(of.own_cpu, of.machine_cpu):.0f} % by this test{others}"


def outlier(worker_ms: Mapping[str, float]) -> tuple[str, float, float] | None:
    """The slowest worker, its time and that of the others, where it is far beyond them."""
    if len(worker_ms) < 2:
        return None
    name = max(worker_ms, key=lambda each: worker_ms[each])
    others = median([value for other, value in worker_ms.items() if other != name])
    taken = worker_ms[name]
    return (name, taken, others) if taken > OUTLIER * others and taken - others > 1 else None
