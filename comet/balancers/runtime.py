"""The runtime of load balancers: forks that accept on a socket which the supervisor holds."""

import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from comet.balancers import adoption as adopt
from comet.balancers import certificates
from comet.balancers.launcher import ForkserverLauncher, LbLaunch
from comet.balancers.router import Router
from comet.config.keys import Values
from comet.config.schema import Config
from comet.faults.files import POINTS
from comet.host import files
from comet.host.sockets import FRONT, duplicate_listener
from comet.reconcile.observations import Ready
from comet.reconcile.replica import ManagedReplica, Replica, ReplicaSpec, State, public_name
from comet.runtimes.adoption import Adoption, Inheritance
from comet.runtimes.cluster_processes import LB_DRIVER
from comet.runtimes.interface import AdoptingRuntime, RenderContext, Replacement, RunServices
from comet.runtimes.orphan import Orphan
from comet.runtimes.process.driver import Launched, ProcessDriver
from comet.runtimes.replica_records import Record
from comet.tracing import SOCKET
from comet.workloads.builtin import code_digest, restart_policy
from lb.interface.settings import ACCESS_LOG_FORMATS, Settings

KIND = "process"


class BalancerRuntime(AdoptingRuntime):
    driver_name, kind = LB_DRIVER, KIND
    replacement = Replacement.HAND_OVER
    is_upstream = False
    driver: ProcessDriver

    def __init__(self, run: RunServices, router: Router) -> None:
        super().__init__(run)
        self._router = router
        self._launcher = ForkserverLauncher(run.loop, run.cluster, router, run.listeners)
        self.driver = ProcessDriver(run.loop, run.sink, self._launcher)

    def warm_up(self) -> None:
        self._launcher.prepare()

    def open(self) -> None:
        return

    @classmethod
    def render(cls, config: Config, context: RenderContext, index: int) -> ManagedReplica:
        name = f"lb-{index}"
        # A setting of the load balancers has the name of its key.
        names = {each.name for each in fields(Settings)} & {each.name for each in fields(Values)}
        given = {each: getattr(config, each) for each in names}
        own = {
            "name": name,
            "weights": ",".join(f"{worker}={weight}" for worker, weight in config.weights),
            **certificates.settings_of(context.certificate, context.cluster),
            "access_log": str(context.cluster.path("logs", f"{name}.access.log")) if config.access_log else None,
            "span_socket": str(context.cluster.path("run", SOCKET)) if config.trace_endpoint else None,
            "injected_marks": config.fault_point == "worker" and not config.custom_service,
            "access_log_format": config.access_log or ACCESS_LOG_FORMATS[0],
            "faults": str(context.cluster.path(POINTS["lb"])) if config.fault_point == "lb" else None,
        }
        settings = Settings(**(given | own))
        spec = ReplicaSpec(
            name=name,
            role="lb",
            kind=KIND,
            driver=LB_DRIVER,
            port=config.port("lb", index),
            rank=1,
            start_timeout=config.start_timeout,
            drain_grace=max(config.shutdown_grace, config.tunnel_grace) + 1,
            terminate_grace=1.0,
            restart=restart_policy(config),
            launch=LbLaunch(settings, counters=f"{name}.a.counters", fingerprint=code_digest("lb")),
        )
        return ManagedReplica(spec)

    def address(self, config: Config, spec: ReplicaSpec) -> tuple[str, int] | None:
        return config.load_balancer_host, spec.port

    def url_path(self, config: Config) -> str:
        return config.front_path

    def held_socket(self, config: Config, spec: ReplicaSpec) -> tuple[str, int, bool] | None:
        """Its socket is non-blocking for asyncio; that would surprise a server that waits in accept(2)."""
        return config.load_balancer_host, spec.port, False

    def adoptable(
        self, members: Sequence[ManagedReplica], found: Iterable[Orphan], records: Mapping[str, Record]
    ) -> list[Adoption]:
        config = self.run.config()
        return adopt.balancers(self.run.cluster, config.load_balancer_host, config.front_port, members, found, records)

    def adopt(self, adoption: Adoption, replica: Replica) -> None:
        name, instance, record = replica.name, replica.instance, adoption.record
        assert replica.pid is not None
        assert record is not None
        assert adoption.control is not None
        assert adoption.listener is not None
        self.run.listeners.hold(name, adoption.listener)
        if adoption.front is not None:
            self._hold_front(adoption.front)
        self._launcher.adopt(name, instance, record.control)
        self._router.attach(name, instance, adoption.control)
        self._router.configure(name, asdict(replica.spec.launch.settings))
        # It is not a child of this process: its pidfd reports its death, but its exit status is unavailable.
        self.driver.watch(replica.spec, instance, Launched(replica.pid, lambda: None, begun=record.begun))
        if not replica.was_ready and adoption.accepts_since is not None:
            self.run.sink(name, instance, Ready(adoption.accepts_since))

    def inherit(
        self, members: Sequence[ManagedReplica], found: Iterable[Orphan], records: Mapping[str, Record]
    ) -> list[Inheritance]:
        made = []
        config = self.run.config()
        host = config.load_balancer_host
        for member, orphan, listener in adopt.inherited_listeners(host, members, found, records):
            self.run.listeners.hold(member.spec.name, listener)
            if config.front_port and orphan.pid and FRONT not in self.run.listeners:
                front = duplicate_listener(orphan.pid, host, config.front_port)
                if front is not None:
                    self._hold_front(front)
            made.append(Inheritance(member, orphan))
        return made

    def _hold_front(self, front: socket.socket) -> None:
        """Hold the socket that all load balancers share; each of them hands over the same one."""
        if FRONT in self.run.listeners:
            front.close()
        else:
            front.setblocking(False)
            self.run.listeners.hold(FRONT, front)

    def must_roll(self, before: ReplicaSpec, after: ReplicaSpec) -> bool:
        """Whether it has to be replaced: never, as it takes settings while it runs."""
        return False

    def apply(self, present: ReplicaSpec, member: ManagedReplica) -> ManagedReplica:
        member = adopt.with_counters(member, present.launch.counters)
        if member.spec.launch != present.launch:
            self._router.configure(member.spec.name, asdict(member.spec.launch.settings))
        return member

    def successor(self, former: ReplicaSpec, spec: ReplicaSpec) -> ReplicaSpec:
        counters = adopt.other_counters(public_name(former.name), former.launch.counters)
        return replace(spec, launch=replace(spec.launch, counters=counters))

    def shorten_drain(self, config: Config, spec: ReplicaSpec) -> ReplicaSpec:
        """Give tunnels no more time than requests have."""
        grace = config.shutdown_grace
        self._router.configure(spec.name, {"tunnel_grace": min(grace, config.tunnel_grace)})
        return replace(spec, drain_grace=grace + 1)

    def repair(self, replicas: Iterable[Replica]) -> list[str]:
        """Recreate the forkserver's socket, and have load balancers recreate their missing files.

        What stands in place of such a file is removed. A load balancer that starts has yet to make its own.
        """
        restored = ["run/listener"] if self._launcher.repair() else []
        made = [replica for replica in replicas if replica.alive and replica.state is not State.STARTING]
        return restored + [name for replica in made for name in self._reopen(replica)]

    def _reopen(self, replica: Replica) -> list[str]:
        cluster, launch = self.run.cluster, replica.spec.launch
        control = self._launcher.control_name(replica.name, replica.instance)
        wanted = (f"run/{launch.counters}", f"logs/{launch.settings.name}.log")
        missing = [file for file in wanted if not files.is_there(cluster.path(file))]
        if control is not None and not self._launcher.has_control_socket(replica.name, replica.instance):
            missing.append(f"run/{control}")
        for file in missing:
            files.remove(cluster.path(file))
        if missing:
            self._router.reopen(replica.name, str(cluster.path("run")), control, launch.counters)
        return [file for file in missing if file.startswith("run/")]

    def record(self, replica: Replica) -> dict[str, Any]:
        created, begun = self.driver.times(replica.name)
        return {
            "create_time": created,
            "begun": begun,
            "control": self._launcher.control_name(replica.name, replica.instance),
            "counters": replica.spec.launch.counters,
        }

    def counters(self, replica: Replica) -> str | None:
        return str(replica.spec.launch.counters)

    @property
    def awaited_pids(self) -> set[int]:
        return self.driver.pids | self._launcher.pids
