"""The `run` command: starts a cluster, serves until a stop, and removes what it started.

Whatever happens meanwhile (a signal during the build, a worker that never becomes ready, an internal error), the end is
the same: everything that was started is stopped and removed. Only the death of the supervisor itself leaves something
behind.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from typing import Any

from comet import __version__
from comet.balancers import certificates, data_path
from comet.commands.table import COMMANDS, shapes
from comet.common.errors import Busy, UserError, os_error_text
from comet.concurrency.cancellation import Interruptible, Stopped
from comet.config import scale_override
from comet.config.chosen_ports import ChosenPorts
from comet.config.schema import Config
from comet.events import exit_markers
from comet.events.event import Event
from comet.events.journal import Journal
from comet.faults import files as fault_files
from comet.faults.lease_watch import LeaseWatch
from comet.host.process_setup import has_terminal
from comet.reconcile.replica import ManagedReplica, Replica, State, Wanted
from comet.runtimes import discovery, failure_report
from comet.runtimes.orphan import Orphan
from comet.state.control_server import ControlServer, Handler
from comet.state.directory import Cluster, worker_owner
from comet.state.lock import Lock
from comet.statistics import database
from comet.supervisor.admin_feed import AdminFeed
from comet.supervisor.file_repair import FileRepair
from comet.supervisor.fleet import Fleet
from comet.supervisor.operations import Operations
from comet.supervisor.state_handover import StateOwnership
from comet.supervisor.takeover import Takeover
from comet.terminal.messages import Display, Message
from comet.tracing.process import SpanExport
from lb.system.process_setup import not_ignored

MAX_FAILED_STARTS = 3
"""Failed starts in a row of a replica that was never ready that end the start of the whole cluster."""

ENGINE_TIMEOUT = 20.0
"""Seconds that a stop waits for an engine that does not answer."""


FORCED_STOP_TIMEOUT = 5.0
"""Seconds that an immediate stop waits for kills and removals."""


BUSY_PAUSE = 0.2
"""Seconds between two attempts of a reload that waits for another operation to end."""


class Run:
    """One run of a cluster, from the acquired lock to its release."""

    def __init__(
        self, config: Config, cluster: Cluster, display: Display, lock: Lock, owner: int | None = None
    ) -> None:
        """Create the run.

        `lock` is the cluster's lock, which this process holds. `owner` is a pidfd of the process with which the cluster
        ends.
        """
        self._file = config
        self._lock = lock
        self._owner = owner
        self._config = scale_override.apply(cluster, config)
        self._ports = ChosenPorts(cluster)
        self._cluster = cluster
        self._display: Display | None = display
        self._had_terminal = has_terminal()
        self._journal = Journal(cluster.path("events.jsonl"))
        self._journal.listeners.append(lambda record: self._show({"kind": "event", "record": record}))
        self._journal.listeners.append(lambda record: exit_markers.note(cluster, record))
        self._loop = asyncio.get_running_loop()
        self._wait = Interruptible(self._loop)
        self._operations: Operations | None = None
        self._fleet = Fleet(
            self._loop, cluster, self._effective_config, self._wait, self._step_from_thread, self._notify
        )
        self._control = ControlServer(cluster, self._handlers(), shapes())
        self._ownership = StateOwnership(cluster, self._fleet.engines)
        self._engine_lost = False
        self._forced_stop_at: float | None = None
        self._reloading: asyncio.Task[None] | None = None
        self._admin_feed = AdminFeed(
            cluster, self._fleet, self._journal, self._effective_config, lambda: self._operations is not None
        )
        self._span_export = SpanExport(cluster, self._notify)
        files = (self._journal, self._control, self._admin_feed, self._span_export)
        self._file_repair = FileRepair(
            cluster,
            lock,
            self._fleet,
            *files,
            self._effective_config,
            lambda: self._operations if self._ownership.complete else None,  # A takeover rolls workers itself.
            self._notify,
        )
        self._fleet.repair_files = self._file_repair.check
        self._fleet.helpers = lambda: self._admin_feed.pids | self._span_export.pids

    async def serve(self) -> int:
        """Start the cluster, serve until a stop is requested, stop the cluster; return the exit code."""
        for number in not_ignored(signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._loop.add_signal_handler(number, self._on_signal, number)
        if self._owner is not None:
            self._loop.add_reader(self._owner, self._on_owner_end, self._owner)
        self._notify(Event("supervisor_started", None, {"pid": os.getpid(), "version": __version__}))
        if self._lock.former is not None:
            self._notify(Event("stale_lock", None, {"pid": self._lock.former}))
        code = 0
        try:
            await self._control.open()
            await self._start()
            await self._wait.stop.wait()
        except Stopped:
            self._step("stopping before all was ready")
        except UserError as error:
            self._show({"kind": "failed", "text": error.message, "exit_code": error.exit_code})
            code = error.exit_code
        finally:
            code = max(code, await self._stop())
        return code

    # Up.

    async def _start(self) -> None:
        cluster, fleet = self._cluster, self._fleet
        certificate = await self._wait.blocking(lambda: certificates.require(self._config, cluster))
        where = None if self._config.custom_service else database.place(self._config, cluster)
        lost = where is not None and self._file_repair.is_missing(where)
        await self._wait.blocking(lambda: fleet.workers.connect(where))
        found = await self._wait.blocking(lambda: discovery.find(cluster, fleet.engines))
        self._ports.resume(self._config, [(orphan.name, orphan.port) for orphan in found])
        config = self._config = self._ports.assign(self._config)
        discovery.require_ports(config, found)
        fleet.balancers.warm_up()
        await self._advise_to_compile()
        self._span_export.open(config)
        admin = await self._open_admin(found)
        if where is not None:
            prepared = where
            for line in await self._wait.blocking(lambda: database.prepare(prepared, worker_owner())):
                self._step(line)
            fleet.watchdogs.database = where if isinstance(where, database.Place) else None
        context = await fleet.workers.prepare(where)
        context = replace(context, certificate=certificates.digest(certificate))
        members = list(fleet.members(config, context).values())
        certificates.use(certificate, cluster)
        fleet.open()
        fleet.traffic.open(each.spec.name for each in members)
        self._write_faults(members)
        self._file_repair.watch_mounts()
        takeover = Takeover(fleet, cluster, config, self._wait, self._step)
        takeover.mounts_lost = lost
        self._ownership.begun = True
        not_adopted = await takeover.begin(found, members)
        if lost:
            self._file_repair.mark_stale()  # It goes on where the takeover cannot replace them.
        fleet.state.enabled = True
        fleet.listen(config, not_adopted)
        if not_adopted:
            self._step(f"starting {', '.join(member.spec.name for member in not_adopted)}")
        fleet.add(not_adopted)
        # A load balancer that was replaced continues the counts of its predecessor.
        fleet.snapshots.meter.restart_rates()
        fleet.supervisor.tick()
        await self._until_ready()
        self._operations = Operations(fleet, cluster, config, self._file, context, self._ports, certificate)
        fleet.on_change()  # No replica changes when the admin server starts to report "ready".
        await takeover.complete(self._operations)
        self._ownership.complete = True
        self._show({"kind": "ready", "replicas": self._fleet.urls(self._config), "admin": admin})

    async def _open_admin(self, found: list[Orphan]) -> str | None:
        """Start the admin server and the traffic samples; return the server's URL, None where it is disabled."""
        leases = LeaseWatch(self._notify)
        self._fleet.snapshots.faults_of = lambda names: fault_files.effective(
            self._cluster, self._effective_config(), names, self._fleet.counts, leases
        )
        self._fleet.watch()
        port = self._config.dashboard_port
        if not port:
            return None
        former = [orphan for orphan in found if orphan.name is None and orphan.port == port]
        await self._wait.blocking(lambda: list(discovery.end(self._cluster, former, self._fleet.engines, 0)))
        return await self._admin_feed.open(port, self._notify)

    async def _advise_to_compile(self) -> None:
        absence = await self._wait.blocking(data_path.absence)
        if absence is not None and not data_path.is_chosen():
            self._step(f"the load balancers' data path is {absence.reason} ({absence.advice})")

    def _effective_config(self) -> Config:
        return self._config if self._operations is None else self._operations.config

    def _write_faults(self, members: list[ManagedReplica]) -> None:
        names = [each.spec.name for each in members if self._fleet.runtimes[each.spec.driver].is_upstream]
        try:
            fault_files.write(self._cluster, self._config, names)
            self._fleet.apply_faults(self._config)
        except UserError:
            raise
        except OSError as error:
            raise UserError(f"{self._cluster.path('faults')}: cannot be written: {os_error_text(error)}") from None

    async def _until_ready(self) -> None:
        def settled(replicas: Mapping[str, Replica]) -> bool:
            return all(replica.was_ready for replica in replicas.values()) or _hopeless(replicas) is not None

        await self._wait.outcome(self._fleet.supervisor.until(settled))
        lost = _hopeless(self._fleet.supervisor.replicas)
        if lost is not None:
            raise UserError(await self._wait.blocking(lambda: self._failure_text(lost)))

    def _failure_text(self, replica: Replica) -> str:
        report = failure_report.of(self._cluster, replica, self._fleet.runtime_of(replica).port_hint)
        return f"{replica.name} does not become ready: {report}"

    # Down.

    async def _stop(self) -> int:
        """Stop and remove everything; return 1 where something could not be removed, else 0."""
        supervisor = self._fleet.supervisor
        self._file_repair.close()  # It replaces workers, which start others meanwhile.
        names = list(supervisor.replicas)
        if names and not self._all_stopped():
            self._step("stopping: requests in flight may finish")
        if self._ownership.begun:
            self._admin_feed.announce_stop()
        self._shorten_drains()
        supervisor.want(names, Wanted.DOWN)
        stuck = await self._await_stopped()
        belongs_to_predecessor = await self._ownership.belongs_to_predecessor()
        if not stuck and not belongs_to_predecessor:
            await self._ownership.end_remaining(self._config.shutdown_grace if self._forced_stop_at is None else 0.0)
        timeout = ENGINE_TIMEOUT if self._forced_stop_at is None else FORCED_STOP_TIMEOUT
        await self._fleet.workers.close(timeout, belongs_to_predecessor, bool(stuck))
        self._control.close()
        await self._admin_feed.close()
        await self._span_export.close()
        self._fleet.close()
        self._ports.close()
        if belongs_to_predecessor:
            self._step(
                "the replicas of an earlier supervisor go on as they were: `run` takes them over, `stop` ends them"
            )
        elif not stuck and self._lock.is_ours:
            self._ownership.remove_state()
        elif stuck:
            left = ", ".join(stuck)
            self._step(
                f"the Docker engine does not answer: {left} may be left; `python supervisor.py stop` removes them "
                "when it is back"
            )
        self._notify(Event("supervisor_stopped"))
        self._journal.close()
        return 1 if stuck else 0

    def _shorten_drains(self) -> None:
        """Let no replica take time for what a successor would continue, since at a stop there is none."""
        for replica in list(self._fleet.supervisor.replicas.values()):
            spec = self._fleet.runtime_of(replica).shorten_drain(self._effective_config(), replica.spec)
            self._fleet.supervisor.update_spec(ManagedReplica(spec))

    def _all_stopped(self) -> bool:
        return all(replica.state is State.STOPPED for replica in self._fleet.supervisor.replicas.values())

    async def _await_stopped(self) -> list[str]:
        """Wait until all replicas have stopped; return the names of those that did not.

        A replica does not stop where the engine is lost, or hangs during an immediate stop.
        """
        lost_since: float | None = None
        supervisor = self._fleet.supervisor
        while True:
            # An operation that this stop has ended may have started one meanwhile.
            late = [name for name, each in supervisor.replicas.items() if each.wanted is Wanted.UP]
            supervisor.want(late, Wanted.DOWN)
            done = supervisor.until(lambda replicas: all(each.state is State.STOPPED for each in replicas.values()))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(done, 0.5)
                return []
            lost_since = (lost_since or time.monotonic()) if self._engine_lost else None
            lost = lost_since is not None and time.monotonic() - lost_since > ENGINE_TIMEOUT
            is_forced = (
                self._forced_stop_at is not None and time.monotonic() - self._forced_stop_at > FORCED_STOP_TIMEOUT
            )
            if lost or is_forced:
                return [
                    name for name, each in self._fleet.supervisor.replicas.items() if each.state is not State.STOPPED
                ]

    # Asked from outside.

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGHUP and not (self._had_terminal and not has_terminal()):
            self._reloading = self._loop.create_task(self._reload_on_signal())
            return
        # The kernel and the shell both report a closed terminal: only a repeated INT or TERM is intended.
        if self._wait.stop.is_set() and number != signal.SIGHUP:
            self._step("stopping at once")
            self._stop_now()
        self._wait.request_stop()

    def _on_owner_end(self, pidfd: int) -> None:
        self._loop.remove_reader(pidfd)
        self._step("stopping at once: the process that started this cluster has ended")
        self._wait.request_stop()
        self._stop_now()

    def _stop_now(self) -> None:
        self._forced_stop_at = self._forced_stop_at or time.monotonic()
        self._fleet.supervisor.stop_now()

    def _handlers(self) -> dict[str, Handler]:
        async def dashboard(request: dict[str, Any]) -> Any:
            return self._admin_feed.link()

        own = {"ps": self._handle_ps, "picture": self._handle_picture, "stop": self._handle_stop}
        return {
            **{name: self._handle_operation for name, command in COMMANDS.items() if command.handler is not None},
            **own,
            "dashboard": dashboard,
        }

    async def _handle_operation(self, request: dict[str, Any]) -> Any:
        command = COMMANDS[request.pop("command")]
        if command.when_complete and not self._ownership.complete:
            raise Busy("the cluster is starting; try again when it is ready")
        assert command.handler is not None
        done = command.handler(self._ready_operations, request)
        return await self._wait.outcome(done) if isinstance(done, Coroutine) else done

    @property
    def _ready_operations(self) -> Operations:
        if self._operations is None or self._wait.stop.is_set():
            raise Busy("the cluster is starting or stopping; try again when it is ready")
        self._cluster.require_in_place()
        return self._operations

    async def _reload_on_signal(self) -> None:
        """Reload on SIGHUP, once no other operation runs; a refusal is reported as an event."""
        with contextlib.suppress(UserError, Stopped):
            while True:
                with contextlib.suppress(Busy):
                    await self._wait.outcome(self._ready_operations.reload())
                    return
                await self._wait.outcome(asyncio.sleep(BUSY_PAUSE))

    async def _handle_ps(self, request: dict[str, Any]) -> dict[str, Any]:
        return (await self._fleet.snapshots.snapshot()).as_dict()

    async def _handle_picture(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the snapshot without CPU and memory, for watchers that read these themselves."""
        return self._fleet.snapshots.picture().as_dict()

    async def _handle_stop(self, request: dict[str, Any]) -> dict[str, Any]:
        self._wait.request_stop()
        return {"pid": os.getpid()}

    # Tools.

    def _notify(self, event: Event) -> None:
        if event.name in ("engine_lost", "engine_back"):
            self._engine_lost = event.name == "engine_lost"
        self._journal.write(event)

    def _step(self, text: str) -> None:
        self._show({"kind": "step", "text": text})

    def _show(self, message: Message) -> None:
        """Show a message; drop the display once its reader is gone (a closed terminal, `| head`)."""
        if self._display is not None:
            try:
                self._display.show(message)
            except (OSError, ValueError):
                self._display = None

    def _step_from_thread(self, text: str) -> None:
        self._loop.call_soon_threadsafe(self._step, text)


def _hopeless(replicas: Mapping[str, Replica]) -> Replica | None:
    """Return a replica that was never ready and is not expected to become so; None where there is none."""
    for replica in replicas.values():
        if not replica.was_ready and (replica.failures >= MAX_FAILED_STARTS or replica.start_timed_out):
            return replica
    return None
