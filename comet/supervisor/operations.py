"""Carries out what a user requests of a running cluster: kill, scale, restart, reload, faults.

Scale, restart and reload run one at a time. All of them keep one rule: a replacement is ready before the old replica
retires, so that capacity never falls below what is wanted. An operation that cannot continue (a port that is taken, a
replacement that does not become ready) leaves the old replicas serving.
"""

import asyncio
import errno
import signal as signals
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from comet.balancers import certificates
from comet.common.errors import Busy, Unknown, UserError
from comet.common.values import brief
from comet.common.wording import there_are
from comet.config import scale_override
from comet.config.changes import changed_keys, changed_values
from comet.config.chosen_ports import ChosenPorts
from comet.config.keys import KEYS
from comet.config.schema import Config, load, parse_numbers
from comet.events.event import Event, visible
from comet.faults import files as fault_files
from comet.faults.orders import SPANS, span
from comet.host import files
from comet.host.sockets import bound, holder
from comet.reconcile.replica import SERVING, ManagedReplica, Replica, State, located, number_of, public_name
from comet.runtimes.interface import RenderContext, Runtime
from comet.state.directory import Cluster
from comet.supervisor.fleet import Fleet
from comet.supervisor.rolling_update import RollingUpdate
from comet.workloads import builtin

SERVICE_KEYS = ("worker-command", "worker-image", "upstreams")
"""Keys that say whose service the workers are."""


class Operations:
    """The operations on one fleet.

    `config` is the effective config: the file's content with the replica counts that were set by command.
    """

    def __init__(
        self,
        fleet: Fleet,
        cluster: Cluster,
        config: Config,
        file: Config,
        context: RenderContext,
        ports: ChosenPorts,
        certificate: bytes | None = None,
    ) -> None:
        self.config = config
        self._file = file
        self._fleet = fleet
        self._cluster = cluster
        self._context = context
        self._ports = ports
        self._certificate = certificate
        self._running_operation: str | None = None
        self._rolling_update = RollingUpdate(fleet, cluster)
        self._faults_lock = asyncio.Lock()
        """One order at a time: each is laid on top of what was ordered before it."""

    async def kill(self, name: str, signal: str) -> dict[str, Any]:
        """Send a signal to a replica, as any other process could.

        `signal` is a name with or without SIG, or a number.
        """
        replica = self._replica(name)
        number = signal_number(signal)
        if not replica.alive and replica.state not in SERVING:
            raise UserError(f"{name}: does not run ({replica.state.value})")
        runtime = self._fleet.runtime_of(replica)
        runtime.require_killable(name)
        await runtime.send_signal(name, number)
        return {"name": name, "signal": signals.Signals(number).name}

    async def faults(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Change the faults of running workers, or list them; see `comet.faults.files.handle_request`."""
        fleet = self._fleet
        async with self._faults_lock:
            found = await fault_files.handle_request(
                self._cluster, self.config, fleet.worker_names(), request, fleet.notify, fleet, fleet.counts
            )
        fleet.apply_faults(self.config)
        return found

    async def drain(self, name: str) -> dict[str, Any]:
        """Let a worker get no new requests; return once every load balancer follows, as the three below do.

        Other operations may be under way: capacity is counted in ready workers, drained or not.
        """
        return await self._fleet.traffic.drain(self._worker(name, "drain"))

    async def undrain(self, name: str) -> dict[str, Any]:
        return await self._fleet.traffic.undrain(self._worker(name, "undrain"))

    async def pause(self, time: Any) -> dict[str, Any]:
        """Let requests wait, for this time or (None) until `resume`."""
        return await self._fleet.traffic.pause(pause_seconds(time))

    async def resume(self) -> dict[str, Any]:
        return await self._fleet.traffic.resume()

    async def scale(self, worker: int | None, pool: int | None) -> dict[str, Any]:
        """Change the replica counts; return once all replicas are ready and the surplus ones are gone."""
        with self._exclusively("scale"):
            wanted = self._ports.assign(parse_numbers(self.config, worker, pool))
            if worker is not None:
                self._fleet.workers.require_lifecycle()
            if wanted.worker != self.config.worker:
                self._fleet.workers.require_orders()
            former = {"worker": self.config.worker, "pool": self.config.pool}
            if wanted.pool < self.config.pool:
                self._require_no_pause()
            try:
                await self._scale_to(wanted)
            finally:
                # The surplus may have to go later, as its engine is away: the numbers hold all the same.
                if (self.config.worker, self.config.pool) == (wanted.worker, wanted.pool):
                    scale_override.keep(self._cluster, self._file, wanted.worker, wanted.pool)
            return {"worker": wanted.worker, "pool": wanted.pool, "former": former}

    def repair(self) -> list[str]:
        """Write the missing ones of the operations' files again: counts, ports, certificate; return their names."""
        restored = {
            "scale.json": self._restore_scale(),
            "ports.json": self._ports.repair(),
            certificates.USED: certificates.restore(self._certificate, self._cluster),
        }
        return [name for name, was_missing in restored.items() if was_missing]

    def _restore_scale(self) -> bool:
        given, there = (self.config.worker, self.config.pool), files.is_there(self._cluster.path("scale.json"))
        if there or self._running_operation is not None or given == (self._file.worker, self._file.pool):
            return False
        scale_override.keep(self._cluster, self._file, *given)
        return True

    async def restart(self, target: str) -> dict[str, Any]:
        """Replace replicas one by one: `NAME`, `worker`, `lb` or `all`."""
        with self._exclusively("restart"):
            names = self._targets(target)
            members = self._members(self.config)
            replicas = self._fleet.supervisor.replicas
            if target in replicas:
                self._fleet.runtime_of(replicas[target]).require_single(target)
            if any(replicas[name].spec.role == "lb" for name in names):
                self._require_no_pause()
            for name in names:
                self._fleet.runtime_of(replicas[name]).require_lifecycle()
                self._fleet.runtime_of(replicas[name]).require_orders()
            await self._roll([members[name] for name in names])
            return {"restarted": names}

    async def replace_stale(self, names: list[str]) -> None:
        """Replace replicas that differ from what is wanted now; a surge replica among them is not, as it is to go."""
        with self._exclusively("renewal"):
            members = self._members(self.config)
            await self._roll([members[name] for name in names if name in members])

    async def reload(self) -> dict[str, Any]:
        """Read the config again and apply it; UserError where it is refused, and nothing has changed then.

        Only new replica counts may be refused after the other changes were applied.
        """
        with self._exclusively("reload"):
            try:
                self._fleet.workers.require_orders()
                # On a thread: a file of the largest permitted size takes seconds to read.
                file = await asyncio.to_thread(load, self._file.path)
                changed = changed_keys(self._file, file)
                fixed = [key for key in changed if key in KEYS and KEYS[key].fixed]
                if fixed:
                    raise _unchangeable(file, fixed[0], "cannot change while the cluster runs")
                if file.custom_service != self._file.custom_service:
                    named = [key for key in SERVICE_KEYS if key in changed]
                    raise _unchangeable(
                        file, named[0], "workers cannot become another service, or the built-in one, while they run"
                    )
                certificate = await asyncio.to_thread(certificates.require, file, self._cluster)
                values = changed_values(self._file, file, changed)
                if certificate != self._certificate and not {"tls", "tls-certificate", "tls-key"} & set(changed):
                    changed.append("tls" if file.tls else "tls-certificate")  # Its content is another one.
                context = replace(
                    await self._fleet.workers.renew(file, self._context), certificate=certificates.digest(certificate)
                )
                result = await self._apply(file, changed, context, certificate)
            except UserError as error:
                self._fleet.notify(Event("reload_refused", None, {"reason": error.message}))
                raise
            self._fleet.notify(Event("reloaded", None, {"changed": changed}))
            return {**result, "values": values}

    async def _apply(
        self, file: Config, changed: list[str], context: RenderContext, certificate: bytes | None
    ) -> dict[str, Any]:
        numbers = bool({"worker", "pool"} & set(changed))
        worker = file.worker if "worker" in changed else self.config.worker
        wanted = self._ports.assign(
            replace(file, worker=worker, pool=file.pool if "pool" in changed else self.config.pool)
        )
        former = self.config, self._context
        before = self._present_members()
        if numbers:
            members = self._fleet.members(wanted, context).items()
            self._require_ports([member for name, member in members if name not in self._fleet.supervisor.replicas])
        # Of upstreams there are as many as the list has: those beyond it are taken down below.
        number = min(worker, self.config.worker) if wanted.upstreams else self.config.worker
        config = replace(wanted, worker=number, pool=self.config.pool)
        after = self._fleet.members(config, context)  # Whatever cannot be rendered is refused before anything changes.
        self.config, self._context = config, context
        stale = [member for name, member in after.items() if self._must_roll(before[name], member)]
        try:
            await self._require_healthy(before, [member for member in after.values() if member not in stale])
            await self._roll(stale)
            if certificate is not None:
                certificates.use(certificate, self._cluster)
        except BaseException:
            self.config, self._context = former
            raise
        for member in after.values():
            self._update_settings(member)
        if certificate is None:
            certificates.use(None, self._cluster)
        self._certificate = certificate
        self._fleet.supervisor.tick()  # Perhaps only the settings that load balancers get for a worker have changed.
        self._fleet.router.limit(builtin.in_flight_share(self.config))
        self._fleet.router.watchdog_timeout = self.config.watchdog_timeout
        self._fleet.prober.timeout = self.config.health_timeout
        self._fleet.prober.statuses = self.config.health_status
        # The following steps may be refused; what was applied so far stays effective.
        self._file = replace(file, worker=self._file.worker, pool=self._file.pool)
        if numbers:
            await self._scale_to(wanted)
            scale_override.keep(self._cluster, file, wanted.worker, wanted.pool)
        self._file = file
        fault_files.write(self._cluster, self.config, self._fleet.worker_names())
        self._fleet.apply_faults(self.config)
        await self._fleet.router.confirmed()
        return {"changed": changed, "restarted": [member.spec.name for member in stale]}

    async def _require_healthy(self, before: Mapping[str, ManagedReplica], staying: list[ManagedReplica]) -> None:
        """Raise UserError unless each ready replica whose check changes also passes the new check.

        A health path that no replica answers would take all workers out of rotation.
        """
        path, statuses = self.config.path.name, self.config.health_status
        keys = [key for key in ("health-path", "health-host", "health-status") if key in self.config.lines]
        key = max(keys, key=lambda key: self.config.lines[key], default="health-path")
        line = self.config.lines.get(key, 1)
        prober, timeout, replicas = self._fleet.prober, self.config.health_timeout, self._fleet.supervisor.replicas
        to_check = {
            member.spec.name: (located(member.probe, replicas[member.spec.name].endpoint), member.health_host)
            for member in staying
            if member.probe is not None
            and (_check_differs(before[member.spec.name], member) or statuses != prober.statuses)
            and replicas[member.spec.name].state is State.READY
        }
        found = await asyncio.gather(
            *(prober.try_twice(url, host, timeout, statuses) for url, host in to_check.values())
        )
        failing = [f"{name} ({reason})" for name, reason in zip(to_check, found, strict=True) if reason]
        if failing:
            raise UserError(
                f"{path}:{line}: {key}: {', '.join(failing)}: no status of {statuses} at {self.config.health_path}"
                f" within {timeout:g} s; nothing was changed"
            )

    async def _scale_to(self, wanted: Config) -> None:
        self._rolling_update.require_settled()
        supervisor = self._fleet.supervisor
        self._context = await self._fleet.workers.complete(wanted, self._context)
        members = self._members(wanted)
        present = {public_name(name) for name in supervisor.replicas}
        fresh = [member for name, member in members.items() if name not in present]
        surplus = sorted((name for name in present if name not in members), key=lambda name: -number_of(name))
        if not fresh and not surplus:
            self.config = wanted
            return
        self._require_ports(fresh)
        if fresh:
            fault_files.write(self._cluster, wanted, [member.spec.name for member in fresh if self._is_worker(member)])
            await self._rolling_update.bring_up(self.config, fresh)
        self.config = wanted
        self._fleet.router.limit(builtin.in_flight_share(wanted))
        self._fleet.notify(Event("scaled", None, {"worker": wanted.worker, "pool": wanted.pool}))
        await self._rolling_update.take_down(surplus)

    async def _roll(self, members: list[ManagedReplica]) -> None:
        await self._rolling_update.roll(self.config, members, self._surge)

    def _surge(self, runtimes: Collection[Runtime]) -> ManagedReplica:
        """Return one additional worker, on the next free port, which one of these runtimes runs."""
        taken = {replica.spec.port for replica in self._fleet.supervisor.replicas.values()}
        number = self.config.worker
        while True:
            config = self._ports.assign(self.config, number + 1)
            port = config.port("worker", number)
            if port > 65535:
                raise UserError("no free port for the surge replica above worker-port")
            if port not in taken and _is_free(self.config.worker_host, port):
                surge = self._fleet.workers.render(config, self._context, number)
                runtime = self._fleet.runtimes[surge.spec.driver]
                if runtime in runtimes:
                    fault_files.write(self._cluster, self.config, [surge.spec.name])
                    return replace(surge, spec=replace(surge.spec, spare=True))
            number += 1

    def _require_ports(self, members: list[ManagedReplica]) -> None:
        taken = {replica.spec.port: name for name, replica in self._fleet.supervisor.replicas.items()}
        for member in members:
            address = self._fleet.runtimes[member.spec.driver].address(self.config, member.spec)
            if address is None:
                continue
            host, port = address
            if port in taken:
                raise UserError(f"{member.spec.name}: port {port} is {taken[port]}'s; nothing was changed")
            if not _is_free(host, port):
                raise UserError(f"{member.spec.name}: port {port} is taken{holder(port)}; nothing was changed")

    def _update_settings(self, member: ManagedReplica) -> None:
        """Apply the settings that can change without a restart of the replica."""
        present = self._fleet.supervisor.replicas[member.spec.name].spec
        self._fleet.supervisor.update_spec(self._fleet.runtimes[present.driver].apply(present, member))

    def _require_no_pause(self) -> None:
        """Raise Busy during a pause: a load balancer that ends cannot let its requests wait any longer."""
        if self._fleet.traffic.paused:
            raise Busy("the cluster is paused, and requests wait in its load balancers: resume first")

    def _present_members(self) -> dict[str, ManagedReplica]:
        """Return what the config in effect asks for; where that can be made no more (a volume is gone), what runs."""
        try:
            return self._members(self.config)
        except UserError:
            supervisor = self._fleet.supervisor
            return {name: supervisor.managed(name) for name in supervisor.replicas}

    def _members(self, config: Config) -> dict[str, ManagedReplica]:
        return self._fleet.members(config, self._context)

    def _targets(self, target: str) -> list[str]:
        if target == "all":
            return [*self._names("worker"), *self._names("lb")]
        return self._names(target) if target in ("worker", "lb") else [self._replica(target).name]

    def _is_worker(self, member: ManagedReplica) -> bool:
        return self._fleet.runtimes[member.spec.driver].is_upstream

    def _must_roll(self, before: ManagedReplica, after: ManagedReplica) -> bool:
        """Whether a running replica must be replaced to apply the change."""
        return self._fleet.runtimes[after.spec.driver].must_roll(before.spec, after.spec)

    def _names(self, role: str) -> list[str]:
        return [name for name, replica in self._fleet.supervisor.replicas.items() if replica.spec.role == role]

    def _worker(self, name: str, command: str) -> Replica:
        workers = self._fleet.worker_names()
        worker = self._replica(name, workers)
        if worker.name not in workers:
            choice = ", ".join(workers) or "there is none"
            raise UserError(f"{command}: {worker.name}: not a worker (choose one: {choice})", 2)
        return worker

    def _replica(self, name: str, candidates: Iterable[str] | None = None) -> Replica:
        """Return a replica; raise Unknown, with the candidates (by default all replicas), where none has this name."""
        replicas = self._fleet.supervisor.replicas
        if name not in replicas:
            known = there_are(name, replicas if candidates is None else candidates)
            raise Unknown(f"{visible(name)}: no such replica ({known})", 2)
        return replicas[name]

    @contextmanager
    def _exclusively(self, what: str) -> Iterator[None]:
        if self._running_operation is not None:
            raise Busy(f"a {self._running_operation} is under way; try again when it is done")
        self._running_operation = what
        try:
            yield
        finally:
            self._running_operation = None
            self._ports.prune(self.config)


def pause_seconds(given: Any) -> float | None:
    """Return the seconds of a pause with an end, None for one without; UserError where the time is not one."""
    try:
        return None if given is None else span(given)
    except ValueError as error:
        raise UserError(f"pause: for: {error} (allowed: {SPANS}); nothing was changed", 2) from None


def signal_number(text: str) -> int:
    """Return the signal's number: 9, KILL and SIGKILL are the same; UserError where there is no such signal."""
    name = text.upper() if text.isascii() else ""
    try:
        return (
            signals.Signals(int(name))
            if name.isascii() and name.isdigit()
            else signals.Signals[name if name.startswith("SIG") else f"SIG{name}"]
        )
    except (KeyError, ValueError):
        raise UserError(f"{brief(text)}: no such signal (KILL, TERM, STOP, CONT, SEGV, …)", 2) from None


def _unchangeable(file: Config, key: str, what: str) -> UserError:
    """Return the error of a key that another value, or none, stands for in the file now."""
    line = f":{file.lines[key]}" if key in file.lines else ""
    return UserError(f"{file.path.name}{line}: {key}: {what} (stop it, then run)", 2)


def _check_differs(before: ManagedReplica, after: ManagedReplica) -> bool:
    return (before.probe, before.health_host) != (after.probe, after.health_host)


def _is_free(host: str, port: int) -> bool:
    try:
        bound(host, port).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        raise UserError(f"cannot listen on {host} port {port}: {error.strerror}") from None
    return True
