"""Makes the snapshots of one running cluster: what its replicas do, their traffic, CPU and memory."""

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any

from comet import __version__
from comet.balancers.router import Router
from comet.config.fault_settings import FRONT
from comet.reconcile.replica import Replica, number_of, public_name
from comet.runtimes.interface import SingleRuntime
from comet.state.directory import Cluster
from comet.telemetry import traffic
from comet.telemetry.process_usage import SUPERVISOR, Sampler
from comet.telemetry.rates import WINDOW, Counted, Meter, Reading, Sample
from comet.telemetry.snapshot import (
    FleetSnapshot,
    SupervisorRow,
    Traffic,
    Usage,
    edges,
    fault_fields,
    health,
    rows,
    total,
)
from lb.interface.settings import DOWN, DRAINING, FOREVER, UP

FIRST_SAMPLE_DURATION = 0.1
"""Seconds over which the CPU share is measured where there is no earlier sample to compare with."""


class SnapshotMaker:
    """Makes snapshots of `replicas`; `runtime_of` returns a replica's runtime."""

    def __init__(
        self,
        cluster: Cluster,
        replicas: Callable[[], Mapping[str, Replica]],
        router: Router,
        runtime_of: Callable[[Replica], SingleRuntime],
    ) -> None:
        self._cluster = cluster
        self._replicas = replicas
        self._router = router
        self._runtime_of = runtime_of
        self._started = time.monotonic()
        self._sampler = Sampler()
        self._sampling = asyncio.Lock()
        # What a load balancer counted of the workers still counts after it is gone, under any supervisor.
        self._balancers = dict.fromkeys(traffic.names(cluster))
        self._cpu_times: deque[tuple[float, float]] = deque(maxlen=WINDOW + 1)
        self._faults: Mapping[str, dict[str, Any]] = {}
        self.meter = Meter()
        self.faults_of: Callable[[list[str]], Mapping[str, dict[str, Any]]] = lambda names: {}
        self.admin_port: int | None = None
        """The port of the admin server, None where there is none."""

    async def snapshot(self) -> FleetSnapshot:
        """Return the present state of the cluster; CPU and memory are read for it, off the loop."""
        replicas = dict(self._replicas())
        async with self._sampling:
            pids = {name: replica.pid for name, replica in replicas.items()} | {SUPERVISOR: os.getpid()}
            if not self._sampler.has_samples_of(pids):
                await asyncio.to_thread(self._sampler.sample, pids)
                await asyncio.sleep(FIRST_SAMPLE_DURATION)
            usage = await asyncio.to_thread(self._sampler.sample, pids)
        return self.picture(usage)

    def picture(self, usage: Mapping[str, Usage] | None = None) -> FleetSnapshot:
        """Return the present state of the cluster without waiting, with CPU and memory as in `usage`."""
        now = time.monotonic()
        replicas = self._replicas()
        seen, ejections = self._read_traffic(now), self._router.ejections()
        views = {
            lb: {**{name: f"ejected: {reason}" for name, reason in ejections[lb].items()}, **_with_reasons(view)}
            for lb, view in self._router.views().items()
        }
        states = {spec.name: spec.state for spec in self._router.given}
        present = [name for name, replica in replicas.items() if not self._runtime_of(replica).is_upstream]
        balancers = sorted((name for name in present if name == public_name(name)), key=number_of)

        times = self._router.check_times()

        def found(name: str) -> dict[str, dict[str, Any]]:
            state = states.get(name, DOWN)
            return health(name, balancers, None if state in (UP, DRAINING) else state, views, times)

        traffic_of = {name: self._traffic(replica, seen, found) for name, replica in replicas.items()}
        memory = (usage or {}).get(SUPERVISOR, Usage()).memory_bytes
        uptime = round(now - self._started, 1)
        supervisor_row = SupervisorRow(
            os.getpid(), True, uptime, __version__, self._own_cpu_percent(), memory, admin_port=self.admin_port
        )
        shown = rows(replicas.values(), now, usage or {}, traffic_of)
        words = {name: None if state == UP else state for name, state in states.items()}
        lines = edges(self.meter, balancers, words, views, ejections)
        return FleetSnapshot(
            supervisor_row, shown, lines, total(self.meter, self._paused_s(now), self._faults.get(FRONT))
        )

    def _paused_s(self, now: float) -> float | None:
        """Return how many seconds a pause still takes: 0 without one, None where only an order ends it."""
        until = self._router.paused_until
        return None if until >= FOREVER else round(max(0.0, until - now), 1)

    def sample(self, workers: list[str]) -> Sample | None:
        """Take the sample of this second; return it once there is an earlier one to compare with."""
        self._cpu_times.append((time.monotonic(), time.process_time()))
        self.read_faults(workers)
        return self.meter.add(self._read_traffic(time.monotonic()), time.time())

    def read_faults(self, workers: list[str]) -> None:
        """Read the faults that snapshots show: every second, and at once after an order."""
        self._faults = self.faults_of([*workers, FRONT])

    def _own_cpu_percent(self) -> float | None:
        """Return the percentage of a core that this process used in the last seconds.

        A pass over the process table would mostly measure its own cost.
        """
        if len(self._cpu_times) < 2:
            return None
        (began, before), (ended, after) = self._cpu_times[0], self._cpu_times[-1]
        return round(100 * (after - before) / (ended - began), 1)

    def _read_traffic(self, now: float) -> Reading:
        """Return what the load balancers counted, including those that no longer exist."""
        files = {name: self._runtime_of(replica).counters(replica) for name, replica in self._replicas().items()}
        live: Collection[str] = {file for file in files.values() if file is not None}
        self._balancers |= dict.fromkeys(public_name(name) for name, file in files.items() if file is not None)
        return traffic.read(self._cluster, self._balancers, live, now)

    def _traffic(self, replica: Replica, seen: Reading, found: Callable[[str], dict[str, dict[str, Any]]]) -> Traffic:
        name = replica.name
        counted, flow = seen.replicas.get(name, Counted()), self.meter.of(name)
        if not self._runtime_of(replica).is_upstream:
            return Traffic(counted, flow)
        ejected = {lb: reasons[name] for lb, reasons in self._router.ejections().items() if name in reasons}
        faults, orders = fault_fields(self._faults.get(name))
        return Traffic(counted, flow, found(name), faults, ejected, orders, name in self._router.drained)


def _with_reasons(view: Mapping[str, str | None]) -> dict[str, str]:
    return {name: reason for name, reason in view.items() if reason is not None}
