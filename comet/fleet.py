"""The running whole: supervisor, drivers, router and prober of one cluster, put together and taken apart in one place."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace

import docker

from comet import __version__
from comet.adopt import Adoption
from comet.cluster import Cluster
from comet.config import Config
from comet.drivers.container import ContainerDriver
from comet.drivers.execute import ExecLaunch, ExecLauncher
from comet.drivers.forkserver import ForkserverLauncher, LbLaunch
from comet.drivers.process import Launched, ProcessDriver
from comet.errors import UserError
from comet.events import Event
from comet.listeners import Listeners
from comet.probe import Prober
from comet.replica import Replica
from comet.router import Router
from comet.snapshot import FleetSnapshot, SupervisorRow, Traffic, rows
from comet.statefile import Record, StateFile
from comet.supervise import Enlisted, Supervisor
from comet.usage import Sampler
from lb import counters

SLOTS = ("a", "b")
"""A load balancer and its successor live side by side for a while: each writes counters of its own."""

FIRST_LOOK = 0.1
"""Seconds over which the CPU's share is measured where there is no former look to compare with."""


class Fleet:
    """One cluster's replicas and everything that moves them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, cluster: Cluster, config: Config, tell: Callable[[Event], None]) -> None:
        self._loop = loop
        self._cluster = cluster
        self.tell = tell
        self._started = time.monotonic()
        self._sampler = Sampler()
        self._sampling = asyncio.Lock()
        self.supervisor = Supervisor(loop, tell)
        sink = self.supervisor.observe
        self.listeners = Listeners()
        self.router = Router(loop, sink, watchdog_timeout=config.watchdog_timeout)
        self.prober = Prober(loop, sink, config.health_timeout)
        self.launcher = ForkserverLauncher(cluster, self.router, self.listeners)
        self.balancers = ProcessDriver(loop, sink, self.launcher)
        self.processes = ProcessDriver(loop, sink, ExecLauncher(cluster, self.listeners))
        self.containers: ContainerDriver | None = None
        self.state = StateFile(cluster.path("state.json"))
        self.supervisor.router = self.router
        self.supervisor.prober = self.prober
        self.supervisor.changed = self._keep_state
        self.supervisor.drivers = {"lb": self.balancers, "worker-process": self.processes}

    def use_engine(self, client: docker.DockerClient) -> None:
        """Drive containers through this engine."""
        self.containers = ContainerDriver(self._loop, self.supervisor.observe, self.tell, client, self._cluster.id or "")
        self.supervisor.drivers = {**self.supervisor.drivers, "container": self.containers}
        self.containers.watch()

    def enlist(self, members: Iterable[Enlisted]) -> None:
        for member in members:
            self.supervisor.enlist(member)

    def listen(self, config: Config, members: Iterable[Enlisted]) -> None:
        """Bind the sockets that these members are to accept on; UserError where one cannot be had."""
        for member in members:
            launch, port = member.spec.launch, member.spec.port
            if isinstance(launch, LbLaunch):
                host = config.load_balancer_host
            elif isinstance(launch, ExecLaunch) and launch.listen is not None:
                host = launch.listen[0]
            else:
                continue
            try:
                # What asyncio needs of a load balancer's socket would surprise a server that waits in accept(2).
                self.listeners.bind(member.spec.name, host, port, blocking=not isinstance(launch, LbLaunch))
            except OSError as error:
                raise UserError(f"{member.spec.name}: cannot listen on {host} port {port}: {error.strerror}", 2) from None

    def adopt(self, adoption: Adoption) -> None:
        """Supervise a living replica as it is."""
        spec = adoption.member.spec
        if adoption.record is not None and adoption.record.counters is not None:
            spec = replace(spec, launch=replace(spec.launch, counters=adoption.record.counters))
        replica = replace(adoption.replica(time.monotonic(), time.time()), spec=spec)
        self.supervisor.enlist(adoption.member, replica)
        self.tell(Event("adopted", spec.name, {"kind": spec.kind, "id": replica.id}))
        if adoption.control is not None and adoption.listener is not None and adoption.record is not None:
            self.listeners.hold(spec.name, adoption.listener)
            self.launcher.adopt(spec.name, replica.instance, adoption.record.control)
            self.router.attach(spec.name, replica.instance, adoption.control)
            self.router.configure(spec.name, asdict(spec.launch.settings))
            assert replica.pid is not None
            # Not our child: its pidfd will tell of its death, nobody of its status.
            self.balancers.watch(spec, replica.instance, Launched(replica.pid, lambda: None))
        elif spec.kind == "process":
            assert replica.pid is not None
            if adoption.listener is not None:
                self.listeners.hold(spec.name, adoption.listener)
            self.processes.watch(spec, replica.instance, Launched(replica.pid, lambda: None))
        elif self.containers is not None:
            self.containers.adopt(spec, replica.instance, adoption.orphan.id)
        if not replica.was_ready and adoption.member.probe is not None:
            self.prober.watch(spec.name, replica.instance, adoption.member.probe)

    async def snapshot(self) -> FleetSnapshot:
        """The cluster as it is; CPU and memory are read for it, off the loop."""
        replicas = dict(self.supervisor.replicas)
        async with self._sampling:
            pids = {name: replica.pid for name, replica in replicas.items()}
            if not self._sampler.knows(pids):
                await asyncio.to_thread(self._sampler.sample, pids)
                await asyncio.sleep(FIRST_LOOK)
            usage = await asyncio.to_thread(self._sampler.sample, pids)
        traffic = {name: self._traffic(replica) for name, replica in replicas.items()}
        now = time.monotonic()
        me = SupervisorRow(os.getpid(), True, round(now - self._started, 1), __version__)
        return FleetSnapshot(me, rows(replicas.values(), now, usage, traffic))

    def close(self) -> None:
        """Let go of everything; replicas that live are left alive."""
        self.prober.close()
        for driver in self.supervisor.drivers.values():
            driver.close()
        self.router.close()
        self.listeners.close()

    def _traffic(self, replica: Replica) -> Traffic:
        """Of a load balancer: requests of all that bore its name, in flight of those that live."""
        launch = replica.spec.launch
        if not isinstance(launch, LbLaunch):
            return Traffic()
        requests, in_flight = 0, 0
        writing = {each.spec.launch.counters for each in self.supervisor.replicas.values() if isinstance(each.spec.launch, LbLaunch)}
        for slot in SLOTS:
            name = f"{replica.name}.{slot}.counters"
            with contextlib.suppress(OSError, ValueError):
                counted = counters.read(self._cluster.path("run", name))
                requests += counted["requests"]
                # The gauges of one that was killed stay as they were.
                in_flight += counted["in_flight"] if name in writing else 0
        return Traffic(in_flight, requests)

    def _keep_state(self) -> None:
        records = {name: self._record(replica) for name, replica in self.supervisor.replicas.items()}
        with contextlib.suppress(OSError):  # A full disk costs a later adoption, never this cluster.
            self.state.write(records)

    def _record(self, replica: Replica) -> Record:
        spec = replica.spec
        driver = self.supervisor.drivers[spec.driver]
        created = driver.create_time(spec.name) if isinstance(driver, ProcessDriver) else None
        return Record(
            name=spec.name,
            role=spec.role,
            kind=spec.kind,
            driver=spec.driver,
            port=spec.port,
            state=replica.state.value,
            instance=replica.instance,
            restarts=replica.restarts,
            pid=replica.pid,
            create_time=created,
            id=replica.id,
            control=self.launcher.control_name(spec.name, replica.instance),
            counters=spec.launch.counters if isinstance(spec.launch, LbLaunch) else None,
            fingerprint=getattr(spec.launch, "fingerprint", None),
        )
