"""One running cluster: connects its supervisor, runtimes, router and readiness probe, and closes them.

Only this module puts these parts together, so that no part has to know the others.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

from comet.balancers import certificates
from comet.balancers.router import Router
from comet.balancers.runtime import BalancerRuntime
from comet.balancers.traffic_control import TrafficControl
from comet.common.errors import UserError
from comet.concurrency.cancellation import Interruptible
from comet.config.schema import Config
from comet.engine.clients import Engines
from comet.events.event import Event
from comet.faults import files as fault_files
from comet.faults.counts import Counts
from comet.host.sockets import FRONT, Listeners
from comet.host.zombie_reaper import Reaper
from comet.reconcile.observations import Endpoint
from comet.reconcile.replica import HERE, ManagedReplica, Replica, located, number_of
from comet.runtimes import registry
from comet.runtimes.adoption import Adoption
from comet.runtimes.interface import AdoptingRuntime, RenderContext, RunServices, SingleRuntime
from comet.state.directory import Cluster
from comet.supervisor.readiness import ReadinessProbe
from comet.supervisor.reconcile_loop import Supervisor
from comet.supervisor.snapshots import SnapshotMaker
from comet.supervisor.state_writer import StateWriter
from comet.supervisor.watchdogs import Watchdogs
from comet.telemetry.rates import Sample
from comet.workloads import builtin

SAMPLE_INTERVAL = 1.0
"""Seconds between two samples of the traffic."""


class Fleet:
    """The replicas of one cluster and the parts that start, watch and stop them.

    `config` returns the effective config; `step` tells the user of a step, on any thread.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        cluster: Cluster,
        config: Callable[[], Config],
        wait: Interruptible,
        step: Callable[[str], None],
        notify: Callable[[Event], None],
    ) -> None:
        self._loop = loop
        self._cluster = cluster
        self.notify = notify
        self._watching: asyncio.TimerHandle | None = None
        self.repair_files: Callable[[], None] = lambda: None
        self.helpers: Callable[[], set[int]] = set
        self.on_change: Callable[[], None] = lambda: None
        self.on_sample: Callable[[Sample], None] = lambda sample: None
        self.supervisor = Supervisor(loop, notify)
        sink, given = self.supervisor.observe, config()
        self.engines, self.listeners = Engines(), Listeners()
        self.router = Router(
            loop, sink, watchdog_timeout=given.watchdog_timeout, waits_for_requests=given.custom_service
        )
        self.counts = Counts()
        self.router.on_counts = self.counts.report
        self.traffic = TrafficControl(loop, cluster, self.router, notify)
        run = RunServices(loop, cluster, sink, notify, self.listeners, self.engines, wait, step, config)
        self.workers = registry.runtime(given.runtime)(run)
        self.balancers: SingleRuntime = BalancerRuntime(run, self.router)
        self.runtimes = {each.driver_name: each for each in (*self.workers.parts, self.balancers)}
        """The runtimes that have a driver, by its name; those of workers come first."""
        self.prober = ReadinessProbe(loop, sink, given.health_timeout)
        self.prober.statuses = given.health_status
        self.prober.port_conflict = self._port_conflict
        self._reported_conflicts: dict[str, tuple[int, str]] = {}
        self._reaper = Reaper(loop, self._awaited_pids)
        self.snapshots = SnapshotMaker(cluster, lambda: self.supervisor.replicas, self.router, self.runtime_of)
        self.state = StateWriter(cluster, lambda: self.supervisor.replicas, self.runtime_of, notify)
        self.watchdogs = Watchdogs(loop, cluster, self.supervisor, self._names_of_untrimmed_logs, notify)
        self.supervisor.router = self.router
        self.supervisor.prober = self.prober
        self.supervisor.changed = self._changed

    def runtime_of(self, replica: Replica) -> SingleRuntime:
        return self.runtimes[replica.spec.driver]

    def open(self) -> None:
        """Make all drivers; from now on replicas can be added."""
        for runtime in self.runtimes.values():
            runtime.open()
        self.supervisor.drivers = {name: runtime.driver for name, runtime in self.runtimes.items()}

    def members(self, config: Config, context: RenderContext) -> dict[str, ManagedReplica]:
        """Return the replicas that a config asks for, by name."""
        members = [self.workers.render(config, context, index) for index in range(config.worker)]
        members += [self.balancers.render(config, context, index) for index in range(config.pool)]
        return {member.spec.name: member for member in members}

    def apply_faults(self, config: Config) -> None:
        """Send the load balancers the faults of the front, and show all faults as they are now."""
        plan = fault_files.front_plan(self._cluster, config)
        self.router.inject(plan, str(self._cluster.path(fault_files.POINTS["lb"])))
        self.snapshots.read_faults(self.worker_names())

    def require_network_faults(self, name: str) -> None:
        """Raise UserError where a worker has no network of its own."""
        self.runtime_of(self.supervisor.replicas[name]).require_network_faults(name)

    async def inject_network_faults(self, name: str, leases: list[dict[str, Any]]) -> None:
        """Let these leases hold of a worker's network; UserError where they cannot."""
        replica = self.supervisor.replicas.get(name)
        if replica is not None:
            await self.runtime_of(replica).inject_network_faults(name, leases)

    def add(self, members: Iterable[ManagedReplica]) -> None:
        for member in members:
            self.supervisor.add(member)

    def listen(self, config: Config, members: Iterable[ManagedReplica]) -> None:
        """Bind the sockets that these members accept on; UserError where one cannot be bound."""
        if config.front_port and FRONT not in self.listeners:
            self._bind("front-port", FRONT, config.load_balancer_host, config.front_port, False)
        for member in members:
            name = member.spec.name
            held = self.runtimes[member.spec.driver].held_socket(config, member.spec)
            if held is None or name in self.listeners:
                continue
            self._bind(name, name, *held)

    def _bind(self, subject: str, name: str, host: str, port: int, blocking: bool) -> None:
        try:
            self.listeners.bind(name, host, port, blocking)
        except OSError as error:
            raise UserError(f"{subject}: cannot listen on {host} port {port}: {error.strerror}", 2) from None

    def adopt(self, runtime: AdoptingRuntime, adoption: Adoption) -> None:
        """Supervise a running replica of this runtime without a restart."""
        replica = adoption.replica(time.monotonic(), time.time())
        self.supervisor.add(adoption.member, replica)
        self.notify(Event("adopted", replica.name, {"kind": replica.spec.kind, "id": replica.id}))
        # What a load balancer counted before would appear as traffic of the second in which it was adopted.
        self.snapshots.meter.restart_rates()
        runtime.adopt(adoption, replica)
        if not replica.was_ready and adoption.member.probe is not None:
            url = located(adoption.member.probe, replica.endpoint)
            self.prober.watch(replica.name, replica.instance, url, adoption.member.health_host)

    def repair(self) -> list[str]:
        """Restore files of the runtimes and their replicas that were removed; return their names."""
        replicas = list(self.supervisor.replicas.values())
        return [
            name
            for runtime in self.runtimes.values()
            for name in runtime.repair([each for each in replicas if self.runtime_of(each) is runtime])
        ]

    def watch(self) -> None:
        """Sample the traffic and run the watchdogs, every second from now on."""
        self._watching = self._loop.call_later(SAMPLE_INTERVAL, self.watch)
        self.watchdogs.poll()
        self._reaper.poll()
        self.repair_files()
        sample = self.snapshots.sample(self.worker_names())
        if sample is not None:
            self.on_sample(sample)

    def urls(self, config: Config) -> list[dict[str, Any]]:
        """Return name, kind, id and URL of each replica, and of the front where there is one, as a start shows them."""
        shown = sorted(
            self.supervisor.replicas.values(), key=lambda replica: (replica.spec.rank, number_of(replica.name))
        )
        listed: list[dict[str, Any]] = []
        balancers = "http" if certificates.files_of(config, self._cluster) is None else "https"
        if config.front_port:
            place = Endpoint(builtin.reachable(config.load_balancer_host), config.front_port)
            url = located(f"{balancers}://{HERE}", place) + self.balancers.url_path(config)
            listed.append({"name": "front", "kind": "shared", "id": None, "url": url})
        for replica in shown:
            runtime = self.runtime_of(replica)
            host, port = runtime.address(config, replica.spec) or ("", 0)
            place = replica.endpoint or Endpoint(builtin.reachable(host), port)
            scheme = "http" if runtime.is_upstream else balancers
            url = located(f"{scheme}://{HERE}", place) + runtime.url_path(config)
            listed.append({"name": replica.name, "kind": replica.spec.kind, "id": replica.id, "url": url})
        return listed

    def worker_names(self) -> list[str]:
        """Return the names of all workers."""
        return [name for name, replica in self.supervisor.replicas.items() if self.runtime_of(replica).is_upstream]

    def close(self) -> None:
        """Close all parts; running replicas keep running."""
        if self._watching is not None:
            self._watching.cancel()
        self.prober.close()
        for runtime in self.runtimes.values():
            if runtime.is_open:
                runtime.driver.close()
        self.traffic.close()
        self.router.close()
        self.listeners.close()

    def _port_conflict(self, name: str) -> str:
        """Return why this process is not the one that listens on its port, "" where it is.

        Called on a thread of the readiness probe. Each finding is reported as an event once.
        """
        replica = self.supervisor.replicas.get(name)
        place = self.supervisor.managed(name).endpoint if replica is not None else None
        if replica is None or place is None:
            return ""
        conflict = self.runtime_of(replica).port_conflict(replica, place)
        if conflict and self._reported_conflicts.get(name) != (replica.instance, conflict):
            self._reported_conflicts[name] = replica.instance, conflict
            self._loop.call_soon_threadsafe(self.notify, Event("port_taken", name, {"reason": conflict}))
        return conflict

    def _names_of_untrimmed_logs(self) -> list[str]:
        replicas = self.supervisor.replicas
        return [name for name, replica in replicas.items() if self.runtime_of(replica).trims_logs]

    def _awaited_pids(self) -> set[int]:
        """Return the PIDs of children that another part of the supervisor waits for."""
        return self.helpers().union(*(runtime.awaited_pids for runtime in self.runtimes.values()))

    def _changed(self) -> None:
        self.state.update()
        self.on_change()
