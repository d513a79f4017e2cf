"""What a user asks of a running cluster: kill, scale, restart, reload. One operation at a time.

The rule of all of them: what replaces is ready before what it replaces is retired, so that capacity is never below what is wanted; and
an operation that cannot go on (a port that is taken, a replacement that does not become ready) leaves the old ones serving.
"""

import asyncio
import errno
import signal as signals
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from comet import expand, faultfiles, scalefile
from comet.cluster import Cluster
from comet.config import KEYS, Config, load, parse_numbers
from comet.drivers.forkserver import LbLaunch
from comet.errors import Busy, Unknown, UserError
from comet.events import Event
from comet.fleet import Fleet
from comet.listeners import bound, holder
from comet.replacement import Replacer
from comet.replica import SERVING, Replica, State, public_name
from comet.servicespec import ServiceLaunch
from comet.supervise import Enlisted

Build = Callable[[Config], Awaitable[str | None]]
"""Makes sure of the image that a config asks for; its name, None where it asks for none."""

FIXED = (
    "runtime",
    "fault-point",
    "access-log",
    "stats-dir",
    "load-balancer-port",
    "worker-port",
    "load-balancer-host",
    "worker-host",
    "admin-port",
)
"""Keys that a running cluster cannot change: its sockets and its database are where they are."""


class Operations:
    """The operations on one fleet. `config` is the file's content in force, with the numbers given by command."""

    def __init__(self, fleet: Fleet, cluster: Cluster, config: Config, file: Config, around: expand.Surroundings, build: Build) -> None:
        self.config = config
        self._file = file
        self._fleet = fleet
        self._cluster = cluster
        self._around = around
        self._build = build
        self._under_way: str | None = None
        self._replacer = Replacer(fleet, cluster)

    def kill(self, name: str, signal: str) -> dict[str, Any]:
        """Send a signal as an outsider would; `signal` with or without SIG, or a number."""
        replica = self._one(name)
        number = signal_number(signal)
        if not replica.alive and replica.state not in SERVING:
            raise UserError(f"{name}: does not run ({replica.state.value})")
        if self._is_task(name) and self._fleet.swarm is not None:
            self._fleet.swarm.require_here(name)
        self._fleet.supervisor.drivers[replica.spec.driver].kill(name, number)
        return {"name": name, "signal": signals.Signals(number).name}

    def faults(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Change the faults of living workers, or list them; see `faultfiles.asked`."""
        return faultfiles.asked(self._cluster, self.config, self._names("worker"), request, self._fleet.tell)

    async def scale(self, worker: int | None, pool: int | None) -> dict[str, Any]:
        """Change the numbers of replicas; returns when all are ready and none too many is left."""
        with self._alone("scale"):
            wanted = parse_numbers(self.config, worker, pool)
            if wanted.worker != self.config.worker:
                self._require_manager()
            await self._to_numbers(wanted)
            scalefile.keep(self._cluster, self._file, wanted.worker, wanted.pool)
            return {"worker": wanted.worker, "pool": wanted.pool}

    async def restart(self, target: str) -> dict[str, Any]:
        """Replace replicas one by one: `NAME`, `worker`, `lb` or `all`."""
        with self._alone("restart"):
            names = self._targets(target)
            members = self._members(self.config)
            if self._is_task(target):
                raise UserError(
                    f"{target}: a swarm replaces the workers of a service all together (restart worker), it takes no order for a single one"
                )
            if any(self._is_task(name) for name in names):
                self._require_manager()
            await self._roll([members[name] for name in names])
            return {"restarted": names}

    async def renew(self, names: list[str]) -> None:
        """Replace adopted replicas that were made otherwise than is wanted now."""
        with self._alone("renewal"):
            members = self._members(self.config)
            await self._roll([members[name] for name in names])

    async def reload(self) -> dict[str, Any]:
        """Read the config anew and make the cluster as it says; UserError leaves everything as it was."""
        with self._alone("reload"):
            try:
                self._require_manager()
                file = load(self._file.path)
                changed = changed_keys(self._file, file)
                fixed = [key for key in changed if key in FIXED]
                if fixed:
                    line = file.lines.get(fixed[0], 1)
                    raise UserError(f"{file.path.name}:{line}: {fixed[0]}: cannot change while the cluster runs (stop it, then run)", 2)
                if file.own_service != self._file.own_service:
                    raise UserError(f"{file.path.name}:1: whose service the workers are cannot change while the cluster runs", 2)
                image = await self._build(file)
                told = await self._make_so(file, changed, image)
            except UserError as error:
                self._fleet.tell(Event("reload_refused", None, {"reason": error.message}))
                raise
            self._fleet.tell(Event("reloaded", None, {"changed": changed}))
            return told

    async def _make_so(self, file: Config, changed: list[str], image: str | None) -> dict[str, Any]:
        numbers = bool({"worker", "pool"} & set(changed))
        worker = file.worker if "worker" in changed else self.config.worker
        wanted = replace(file, worker=worker, pool=file.pool if "pool" in changed else self.config.pool)
        former = self.config, self._around
        before = self._members(self.config)
        if numbers:
            members = self._members(wanted).items()
            self._require_ports([member for name, member in members if name not in self._fleet.supervisor.replicas])
        self.config = replace(file, worker=self.config.worker, pool=self.config.pool)
        self._around = replace(self._around, image=image)
        after = self._members(self.config)
        stale = [member for name, member in after.items() if _must_roll(before[name], member)]
        try:
            await self._require_well(before, [member for member in after.values() if member not in stale])
            await self._roll(stale)
        except BaseException:
            self.config, self._around = former
            raise
        for member in after.values():
            self._respec(member)
        self._fleet.supervisor.tick()  # What load balancers are told of a worker may have changed, and nothing else.
        self._fleet.router.limit(expand.in_flight_share(self.config))
        self._fleet.router.watchdog_timeout = self.config.watchdog_timeout
        self._fleet.prober.timeout = self.config.health_timeout
        # What follows may be refused; what is done by now is in force all the same.
        self._file = replace(file, worker=self._file.worker, pool=self._file.pool)
        if numbers:
            await self._to_numbers(wanted)
            scalefile.keep(self._cluster, file, wanted.worker, wanted.pool)
        self._file = file
        faultfiles.write(self._cluster, self.config, self._names("worker"))
        return {"changed": changed, "restarted": [member.spec.name for member in stale]}

    async def _require_well(self, before: Mapping[str, Enlisted], staying: list[Enlisted]) -> None:
        """Whoever is well must be so by the check to come too: a path that nobody answers would take all workers out of the rotation."""
        path = self.config.path.name
        line = self.config.lines.get("health-path", 1)
        asked = [
            member
            for member in staying
            if member.probe != before[member.spec.name].probe and self._fleet.supervisor.replicas[member.spec.name].state is State.READY
        ]
        passed = await asyncio.gather(*(self._fleet.prober.passes(str(member.probe), self.config.health_timeout) for member in asked))
        sick = [member.spec.name for member, well in zip(asked, passed, strict=True) if not well]
        if sick:
            raise UserError(
                f"{path}:{line}: health-path: {', '.join(sick)}: no status from 200 to 399 at {self.config.health_path}"
                f" within {self.config.health_timeout:g} s; nothing was changed"
            )

    async def _to_numbers(self, wanted: Config) -> None:
        supervisor = self._fleet.supervisor
        if self._around.image is None and wanted.worker:
            self._around = replace(self._around, image=await self._build(wanted))
        members = self._members(wanted)
        present = {public_name(name) for name in supervisor.replicas}
        fresh = [member for name, member in members.items() if name not in present]
        surplus = sorted((name for name in present if name not in members), key=lambda name: -supervisor.replicas[name].spec.port)
        if not fresh and not surplus:
            self.config = wanted
            return
        self._require_ports(fresh)
        if fresh:
            faultfiles.write(self._cluster, wanted, [member.spec.name for member in fresh if member.spec.role == "worker"])
            await self._replacer.bring_up(self.config, fresh)
        self.config = wanted
        self._fleet.router.limit(expand.in_flight_share(wanted))
        self._fleet.tell(Event("scaled", None, {"worker": wanted.worker, "pool": wanted.pool}))
        await self._replacer.take_down(surplus)

    async def _roll(self, members: list[Enlisted]) -> None:
        await self._replacer.roll(self.config, members, self._surge)

    def _surge(self) -> Enlisted:
        """One more worker, on the next free port."""
        taken = {replica.spec.port for replica in self._fleet.supervisor.replicas.values()}
        number = self.config.worker
        while True:
            port = self.config.worker_port + number
            if port > 65535:
                raise UserError("no free port for the surge replica above worker-port")
            if port not in taken and _free(self.config.worker_host, port):
                surge = expand.worker(self.config, self._around, number)
                faultfiles.write(self._cluster, self.config, [surge.spec.name])
                return surge
            number += 1

    def _require_ports(self, members: list[Enlisted]) -> None:
        taken = {replica.spec.port: name for name, replica in self._fleet.supervisor.replicas.items()}
        for member in members:
            if isinstance(member.spec.launch, ServiceLaunch):
                continue
            port = member.spec.port
            host = self.config.worker_host if member.spec.role == "worker" else self.config.load_balancer_host
            if port in taken:
                raise UserError(f"{member.spec.name}: port {port} is {taken[port]}'s; nothing was changed")
            if not _free(host, port):
                raise UserError(f"{member.spec.name}: port {port} is taken{holder(port)}; nothing was changed")

    def _respec(self, member: Enlisted) -> None:
        """Let what can change under a living replica change."""
        present = self._fleet.supervisor.replicas[member.spec.name].spec
        if isinstance(member.spec.launch, LbLaunch):
            member = replace(member, spec=replace(member.spec, launch=replace(member.spec.launch, counters=present.launch.counters)))
            if member.spec.launch != present.launch:
                self._fleet.router.configure(member.spec.name, asdict(member.spec.launch.settings))
        self._fleet.supervisor.respec(member)

    def _members(self, config: Config) -> dict[str, Enlisted]:
        members = [*expand.workers(config, self._around), *expand.load_balancers(config, self._cluster)]
        return {member.spec.name: member for member in members}

    def _targets(self, target: str) -> list[str]:
        if target == "all":
            return [*self._names("worker"), *self._names("lb")]
        return self._names(target) if target in ("worker", "lb") else [self._one(target).name]

    def _require_manager(self) -> None:
        """UserError: the workers are a swarm's, and nobody can be told what is to become of them."""
        if self._fleet.swarm is not None:
            self._fleet.swarm.require_manager()

    def _is_task(self, name: str) -> bool:
        replica = self._fleet.supervisor.replicas.get(name)
        return replica is not None and isinstance(replica.spec.launch, ServiceLaunch)

    def _names(self, role: str) -> list[str]:
        return [name for name, replica in self._fleet.supervisor.replicas.items() if replica.spec.role == role]

    def _one(self, name: str) -> Replica:
        replica = self._fleet.supervisor.replicas.get(name)
        if replica is None:
            names = ", ".join(self._fleet.supervisor.replicas)
            raise Unknown(f"{name}: no such replica (there are {names})", 2)
        return replica

    @contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        if self._under_way is not None:
            raise Busy(f"a {self._under_way} is under way; try again when it is done")
        self._under_way = what
        try:
            yield
        finally:
            self._under_way = None


def changed_keys(before: Config, after: Config) -> list[str]:
    """The keys whose values differ, in the order of the table."""
    names = {key: key.replace("-", "_") for key in KEYS}
    return [key for key, name in names.items() if getattr(before, name) != getattr(after, name)]


def signal_number(text: str) -> int:
    """9, KILL and SIGKILL are the same; UserError for what is no signal."""
    name = text.upper()
    try:
        return signals.Signals(int(name)) if name.isdigit() else signals.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    except (KeyError, ValueError):
        raise UserError(f"{text}: no such signal (KILL, TERM, STOP, CONT, SEGV, …)", 2) from None


def _must_roll(before: Enlisted, after: Enlisted) -> bool:
    """Whether a living replica has to be replaced to be as it is wanted: load balancers take their settings live."""
    return not isinstance(after.spec.launch, LbLaunch) and before.spec.launch != after.spec.launch


def _free(host: str, port: int) -> bool:
    try:
        bound(host, port).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        raise UserError(f"cannot listen on {host} port {port}: {error.strerror}") from None
    return True
