"""The running whole: supervisor, drivers, router and prober of one cluster, put together and taken apart in one place."""

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import docker

from comet import __version__, traffic
from comet.adopt import Adoption
from comet.cluster import Cluster
from comet.config import Config
from comet.drivers.container import ContainerDriver
from comet.drivers.execute import ExecLaunch, ExecLauncher
from comet.drivers.forkserver import ForkserverLauncher, LbLaunch
from comet.drivers.process import Launched, ProcessDriver
from comet.drivers.swarm import SwarmDriver
from comet.errors import UserError
from comet.events import Event
from comet.listeners import Listeners
from comet.lookout import Lookout
from comet.probe import Prober
from comet.rates import WINDOW, Counted, Look, Meter, Sample
from comet.replica import Replica, public_name
from comet.router import Router
from comet.snapshot import FleetSnapshot, SupervisorRow, Traffic, Usage, edges, last_exit, rows, total
from comet.statefile import Record, StateFile
from comet.supervise import Enlisted, Supervisor, located
from comet.usage import SUPERVISOR, Sampler
from lb.settings import UP

LOOK_PAUSE = 1.0
"""Seconds between two looks at the traffic."""

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
        self._watching: asyncio.TimerHandle | None = None
        # What one counted of the workers stays counted when it is no more, whoever was the supervisor then.
        self._balancers = dict.fromkeys(traffic.names(cluster))
        self._unwritable = False
        self._spent: deque[tuple[float, float]] = deque(maxlen=WINDOW + 1)
        self.meter = Meter()
        self._faults: Mapping[str, dict[str, Any]] = {}
        self.faults_of: Callable[[list[str]], Mapping[str, dict[str, Any]]] = lambda names: {}
        self.on_change: Callable[[], None] = lambda: None
        self.on_sample: Callable[[Sample], None] = lambda sample: None
        self.supervisor = Supervisor(loop, tell)
        self.lookout = Lookout(loop, cluster, self.supervisor, tell)
        sink = self.supervisor.observe
        self.listeners = Listeners()
        self.router = Router(loop, sink, watchdog_timeout=config.watchdog_timeout, patient=config.own_service)
        self.prober = Prober(loop, sink, config.health_timeout)
        self.launcher = ForkserverLauncher(loop, cluster, self.router, self.listeners)
        self.balancers = ProcessDriver(loop, sink, self.launcher)
        self.processes = ProcessDriver(loop, sink, ExecLauncher(cluster, self.listeners))
        self.containers: ContainerDriver | None = None
        self.swarm: SwarmDriver | None = None
        self.state = StateFile(cluster.path("state.json"))
        self.supervisor.router = self.router
        self.supervisor.prober = self.prober
        self.supervisor.changed = self._changed
        self.supervisor.drivers = {"lb": self.balancers, "worker-process": self.processes}

    def use_engine(self, client: docker.DockerClient) -> None:
        """Drive containers through this engine."""
        self.containers = ContainerDriver(self._loop, self.supervisor.observe, self.tell, client, self._cluster.id or "")
        self.supervisor.drivers = {**self.supervisor.drivers, "container": self.containers}
        self.containers.watch()

    def use_swarm(self, client: docker.DockerClient, here: str) -> None:
        """Drive the tasks of a service through this manager, whose node is `here`."""
        self.swarm = SwarmDriver(self._loop, self.supervisor.observe, self.tell, client, self._cluster.id or "", here)
        self.supervisor.drivers = {**self.supervisor.drivers, "swarm": self.swarm}
        self.swarm.watch()

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
            if member.spec.name in self.listeners:
                continue
            try:
                # What asyncio needs of a load balancer's socket would surprise a server that waits in accept(2).
                self.listeners.bind(member.spec.name, host, port, blocking=not isinstance(launch, LbLaunch))
            except OSError as error:
                raise UserError(f"{member.spec.name}: cannot listen on {host} port {port}: {error.strerror}", 2) from None

    def adopt(self, adoption: Adoption) -> None:
        """Supervise a living replica as it is."""
        spec = adoption.member.spec
        if adoption.stale:
            # It is what it was made as, until it is replaced: a supervisor after us has to see it too.
            spec = replace(spec, launch=replace(spec.launch, fingerprint=adoption.made_as or ""))
        if adoption.record is not None and adoption.record.counters is not None:
            spec = replace(spec, launch=replace(spec.launch, counters=adoption.record.counters))
        replica = replace(adoption.replica(time.monotonic(), time.time()), spec=spec)
        self.supervisor.enlist(adoption.member, replica)
        self.tell(Event("adopted", spec.name, {"kind": spec.kind, "id": replica.id}))
        if adoption.control is not None and adoption.listener is not None and adoption.record is not None:
            self.meter.begin_anew()  # What it counted before it was ours would count as traffic of the second in which it became ours.
            self.listeners.hold(spec.name, adoption.listener)
            self.launcher.adopt(spec.name, replica.instance, adoption.record.control)
            self.router.attach(spec.name, replica.instance, adoption.control)
            self.router.configure(spec.name, asdict(spec.launch.settings))
            assert replica.pid is not None
            # Not our child: its pidfd will tell of its death, nobody of its status.
            self.balancers.watch(spec, replica.instance, Launched(replica.pid, lambda: None, begun=adoption.record.begun))
        elif spec.kind == "process":
            assert replica.pid is not None
            if adoption.listener is not None:
                self.listeners.hold(spec.name, adoption.listener)
            self.processes.watch(spec, replica.instance, Launched(replica.pid, lambda: None))
        elif self.swarm is not None and adoption.orphan.task is not None and replica.endpoint is not None:
            self.swarm.adopt(spec, replica.instance, adoption.orphan.task, replica.id or "", replica.endpoint.port)
        elif self.containers is not None:
            self.containers.adopt(spec, replica.instance, adoption.orphan.id)
        if not replica.was_ready and adoption.member.probe is not None:
            self.prober.watch(spec.name, replica.instance, located(adoption.member.probe, replica.endpoint))

    async def snapshot(self) -> FleetSnapshot:
        """The cluster as it is; CPU and memory are read for it, off the loop."""
        replicas = dict(self.supervisor.replicas)
        async with self._sampling:
            pids = {name: replica.pid for name, replica in replicas.items()} | {SUPERVISOR: os.getpid()}
            if not self._sampler.knows(pids):
                await asyncio.to_thread(self._sampler.sample, pids)
                await asyncio.sleep(FIRST_LOOK)
            usage = await asyncio.to_thread(self._sampler.sample, pids)
        return self.picture(usage)

    def picture(self, usage: Mapping[str, Usage] | None = None) -> FleetSnapshot:
        """The cluster as it is, without a wait."""
        now = time.monotonic()
        replicas = self.supervisor.replicas
        seen, views = self._look(now), self.router.views()
        carried = {name: self._traffic(replica, seen, views) for name, replica in replicas.items()}
        memory = (usage or {}).get(SUPERVISOR, Usage()).memory_bytes
        me = SupervisorRow(os.getpid(), True, round(now - self._started, 1), __version__, self._own_share(), memory)
        shown = rows(replicas.values(), now, usage or {}, carried)
        words = {spec.name: None if spec.state == UP else spec.state for spec in self.router.table}
        balancers = [row.name for row in shown if row.role == "lb"]
        return FleetSnapshot(me, shown, edges(self.meter, balancers, words, views), total(self.meter))

    def watch(self) -> None:
        """Look at the traffic, and for what goes wrong around us, every second from now on."""
        self._watching = self._loop.call_later(LOOK_PAUSE, self.watch)
        self.lookout.look()
        self._spent.append((time.monotonic(), time.process_time()))
        workers = [name for name, replica in self.supervisor.replicas.items() if replica.spec.role == "worker"]
        self._faults = self.faults_of(workers)
        sample = self.meter.add(self._look(time.monotonic()), time.time())
        if sample is not None:
            self.on_sample(sample)

    def close(self) -> None:
        """Let go of everything; replicas that live are left alive."""
        if self._watching is not None:
            self._watching.cancel()
        self.prober.close()
        for driver in self.supervisor.drivers.values():
            driver.close()
        self.router.close()
        self.listeners.close()

    def _own_share(self) -> float | None:
        """Percent of a core that this process took in the last seconds. A look at the process table would tell of its own cost first."""
        if len(self._spent) < 2:
            return None
        (began, before), (ended, after) = self._spent[0], self._spent[-1]
        return round(100 * (after - before) / (ended - began), 1)

    def _look(self, now: float) -> Look:
        """What the load balancers counted, also under names that are no more."""
        launches = {name: each.spec.launch for name, each in self.supervisor.replicas.items() if isinstance(each.spec.launch, LbLaunch)}
        self._balancers |= dict.fromkeys(map(public_name, launches))
        return traffic.read(self._cluster, self._balancers, {launch.counters for launch in launches.values()}, now)

    def _traffic(self, replica: Replica, seen: Look, views: Mapping[str, Mapping[str, str | None]]) -> Traffic:
        name = replica.name
        counted, flow = seen.replicas.get(name, Counted()), self.meter.of(name)
        if isinstance(replica.spec.launch, LbLaunch):
            return Traffic(counted, flow)
        return Traffic(counted, flow, {lb: view[name] for lb, view in views.items() if name in view}, self._faults.get(name))

    def _changed(self) -> None:
        self._keep_state()
        self.on_change()

    def _keep_state(self) -> None:
        records = {name: self._record(replica) for name, replica in self.supervisor.replicas.items()}
        try:
            self.state.write(records)
        except OSError as error:  # A full disk costs a later adoption, never this cluster.
            if not self._unwritable:
                self._unwritable = True
                self.tell(Event("state_unwritable", None, {"reason": error.strerror}))
        else:
            self._unwritable = False

    def _record(self, replica: Replica) -> Record:
        spec = replica.spec
        driver = self.supervisor.drivers[spec.driver]
        created, begun = driver.times(spec.name) if isinstance(driver, ProcessDriver) else (None, None)
        return Record(
            name=spec.name,
            role=spec.role,
            kind=spec.kind,
            driver=spec.driver,
            port=replica.endpoint.port if replica.endpoint is not None else spec.port,
            state=replica.state.value,
            instance=replica.instance,
            restarts=replica.restarts,
            pid=replica.pid,
            create_time=created,
            id=replica.id,
            control=self.launcher.control_name(spec.name, replica.instance),
            counters=spec.launch.counters if isinstance(spec.launch, LbLaunch) else None,
            fingerprint=getattr(spec.launch, "fingerprint", None),
            last_exit=last_exit(replica),
            begun=begun,
        )
