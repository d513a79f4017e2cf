"""Drives replicas that are the tasks of one Docker Swarm service.

The swarm makes, places and restarts the tasks. The division of work is this: Comet decides how many tasks there are and
what they are made of; the swarm's manager reports what exists. `start` makes sure that the service has a task for the
replica and waits for that task. This module never starts a container itself; after a death the same wait begins again.
`terminate` makes the service smaller. A swarm sends no events about tasks, so a thread polls the manager (`_watch`):
every second, and five times a second while a change is expected. What two readings mean for a replica is decided by
`comet.runtimes.swarm.tasks`, which is pure.

While the manager does not answer, nothing is known, so nothing is done: the load balancers keep the tasks that they
have, and judge them by their own checks and failed connections. All methods run in the event loop's thread, except
those of the two threads.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import docker

from comet.common.errors import UserError
from comet.concurrency.work_queues import KeyedWorkQueues
from comet.engine.errors import UNREACHABLE, engine_errors
from comet.events.event import Event
from comet.reconcile.driver_interface import Driver, Sink
from comet.reconcile.observations import Exited, Observation, Removed, Revived, StartFailed
from comet.reconcile.replica import ReplicaSpec
from comet.runtimes.swarm.manager import Manager, error_text
from comet.runtimes.swarm.service_spec import ServiceLaunch
from comet.runtimes.swarm.tasks import (
    Ports,
    Reading,
    SlotAssignment,
    Task,
    assign_slots,
    pending_reason,
    update_assignment,
)

IDLE_POLL_PAUSE, FAST_POLL_PAUSE = 1.0, 0.2
"""Seconds between two readings of the manager, at rest and while a change is expected."""

FAST_POLL_DURATION = 30.0
"""Seconds without a change after which the reading returns to the slow pace.

What is expected then may take long: a node that may come back some day, or room that does not exist yet.
"""

ORDER_TIMEOUT = 10.0
"""Seconds that a command waits for the manager to carry out what it orders."""

SERVICE = "service"
"""The work queue key of all orders: there is one service, so they run one after another."""

UPDATE_END_STATES = ("completed", "paused", "rollback_completed", "rollback_paused")


class SwarmDriver(Driver):
    """Drives the workers' service of one cluster."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sink: Sink,
        notify: Callable[[Event], None],
        client: docker.DockerClient,
        cluster_id: str,
        own_node: str,
    ) -> None:
        """Create the driver; `own_node` is the id of the node whose engine `client` speaks to."""
        self._loop = loop
        self._sink = sink
        self._notify = notify
        self._manager = Manager(client, cluster_id)
        self._own_node = own_node
        self._queues = KeyedWorkQueues(1, self._on_error)
        self._specs: dict[str, ReplicaSpec] = {}
        self._assignments: dict[str, SlotAssignment] = {}
        self._reading = Reading({}, (), ())
        self._ports: Ports = {}
        self._lost: str | None = "it was not asked yet"
        self._fast_poll_until = 0.0
        self._apply_is_scheduled = False
        self._updating = False
        self._reading_done = asyncio.Event()
        self._closed = threading.Event()
        self._wake = threading.Event()
        self._polls_fast = True
        self._watcher = threading.Thread(target=self._watch, name="swarm-tasks", daemon=True)

    def watch(self) -> None:
        """Start to read the manager."""
        self._watcher.start()

    def start(self, spec: ReplicaSpec, instance: int) -> None:
        former = self._assignments.get(spec.name, SlotAssignment(spec.name, instance))
        self._specs[spec.name] = spec
        self._assignments[spec.name] = replace(
            former, instance=instance, task=None, waiting=True, leaving=False, unreachable=False
        )
        self._schedule_apply()

    def adopt(self, spec: ReplicaSpec, instance: int, task: str, container: str, port: int) -> None:
        """Take over a task that serves already, by its id.

        `container` is the short id of its container, `port` the port that it published.
        """
        self._ports = {**self._ports, container: port}
        self._specs[spec.name] = spec
        self._assignments[spec.name] = SlotAssignment(spec.name, instance, task)
        self._schedule_apply()

    def release(self, name: str) -> None:
        if name in self._assignments:
            self._assignments[name] = replace(self._assignments[name], leaving=True, waiting=False)

    def terminate(self, name: str) -> None:
        self._schedule_apply()

    def kill(self, name: str, signal: int) -> None:
        assignment = self._assignments.get(name)
        if assignment is None:
            return
        if assignment.leaving:
            # The swarm knows how long a task may take to end, and kills it after that.
            self._schedule_apply()
        elif assignment.waiting:
            self._report_later(name, self._not_ready(assignment))
        else:
            task = self._task(assignment)
            if assignment.unreachable:
                self._report_later(name, Exited())
            elif task is not None and task.node is not None and task.node.id == self._own_node:
                self._queues.put(name, lambda: self._kill(task.container, signal))
            else:
                # It runs on another machine and does not answer: only the swarm can replace it, and only another
                # reading can show that.
                self._report_later(name, self._not_ready(assignment))

    def remove(self, name: str) -> None:
        assignment = self._assignments.pop(name, None)
        self._specs.pop(name, None)
        instance = assignment.instance if assignment is not None else None
        if self._assignments:
            self._schedule_apply()
            self._loop.call_soon(self._sink, name, instance, Removed())
        else:
            self._queues.put(SERVICE, lambda: self._remove(name, instance))

    def close(self) -> None:
        self._closed.set()
        self._wake.set()
        self._queues.close()

    # The following exist for a swarm only.

    def require_local(self, name: str) -> None:
        """Raise UserError if no task of the replica runs, or if it runs on a node whose engine this one cannot ask."""
        task = self._task(self._assignments.get(name))
        if task is None or task.node is None:
            raise UserError(f"{name}: no task of it runs")
        if task.node.id != self._own_node:
            raise UserError(
                f"{name}: runs on {task.node.name}, and a swarm's manager cannot kill there; on that machine: docker "
                f"kill {task.container}"
            )

    async def send_signal(self, name: str, signal: int) -> None:
        """Send a signal to the container of a task of this node; raise UserError unless it was sent."""
        self.require_manager()
        task = self._task(self._assignments.get(name))
        try:
            if task is not None:
                await self._queues.call(name, lambda: self._kill(task.container, signal), ORDER_TIMEOUT)
        except TimeoutError:
            raise UserError(f"{name}: {UNREACHABLE}; the signal may arrive when it does") from None
        except engine_errors() as error:
            raise UserError(f"{name}: {error_text(error)}") from None

    def require_manager(self) -> None:
        """Raise UserError while no manager takes orders."""
        if self._lost is not None:
            raise UserError(f"{self._lost}; nothing was changed, the workers that answer serve on")

    async def roll(self, launch: ServiceLaunch, timeout: float) -> None:
        """Have the swarm replace all tasks as its update policy says; return when it has.

        UserError: the swarm rolled back; the message says why. `timeout` is in seconds without progress.
        """
        self._updating = True
        self._poll_fast()
        try:
            await self._run_order(lambda: self._manager.update(launch))
            await self._await_update(timeout)
        finally:
            self._updating = False

    async def roll_back(self, timeout: float) -> None:
        """Have the swarm undo its last update; return when it has, or when it makes no progress.

        UserError: the swarm refuses.
        """
        self._updating = True
        self._poll_fast()
        try:
            await self._run_order(self._manager.roll_back)
            with contextlib.suppress(UserError):  # A rollback is what is wanted here.
                await self._await_update(timeout)
        finally:
            self._updating = False

    async def _await_update(self, timeout: float) -> None:
        seen, until, why = (
            {assignment.task for assignment in self._assignments.values()},
            self._loop.time() + timeout,
            "",
        )
        newest = max((task.created for task in self._reading.tasks), default=0.0)
        # The first reading may have been in progress when the update was ordered.
        for _ in range(2):
            await self._next_reading()
        while True:
            status = self._reading.service.get("UpdateStatus") or {}
            failed = [task for task in self._reading.tasks if task.error and task.failed and task.created > newest]
            why = failed[-1].error if failed else why
            now = {assignment.task for assignment in self._assignments.values()}
            if now != seen:
                seen, until = now, self._loop.time() + timeout
            if status.get("State") == "completed":
                return
            if status.get("State") in UPDATE_END_STATES:
                reason = why or status.get("Message") or status["State"]
                raise UserError(f"the swarm went back to the former version: {reason}")
            if self._loop.time() > until:
                pending_task = next(
                    (task for task in reversed(self._reading.tasks) if task.wanted and not task.serves), None
                )
                await self._run_order(self._manager.roll_back)
                reason = (
                    (pending_task.error or f"a task is {pending_task.state}")
                    if pending_task is not None
                    else "no progress"
                )
                raise UserError(
                    f"the update made no progress within {timeout:g} s ({reason}); the swarm goes back to the former "
                    "version"
                )
            await self._next_reading()

    async def _run_order(self, work: Callable[[], None]) -> None:
        """Carry out an order on its work queue and wait for it; raise UserError where the swarm refuses."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._queues.put(SERVICE, lambda: self._execute(done, work))
        await done

    async def _next_reading(self) -> None:
        self._reading_done.clear()
        await self._reading_done.wait()

    # The following run in the event loop's thread.

    def _task(self, assignment: SlotAssignment | None) -> Task | None:
        return next(
            (task for task in self._reading.tasks if assignment is not None and task.id == assignment.task), None
        )

    def _not_ready(self, assignment: SlotAssignment) -> StartFailed:
        limit, reason = self._specs[assignment.name].start_timeout, pending_reason(assignment, self._reading.tasks)
        return StartFailed(f"not ready within {limit:g} s: {reason}", timed_out=True)

    def _schedule_apply(self) -> None:
        """Order what is wanted now, once for all requests of this turn of the event loop."""
        self._poll_fast()
        if not self._apply_is_scheduled:
            self._apply_is_scheduled = True
            self._loop.call_soon(self._apply)

    def _apply(self) -> None:
        self._apply_is_scheduled = False
        staying = [name for name, assignment in self._assignments.items() if not assignment.leaving]
        if staying:
            launch = self._specs[staying[0]].launch
            self._queues.put(SERVICE, lambda: self._resize(launch, len(staying)))
        elif self._assignments:
            self._queues.put(SERVICE, lambda: self._resize(None, 0))
        self._compare()

    def _on_reading(self, fresh: Reading) -> None:
        before = {node.id: node for node in self._reading.nodes}
        for node in fresh.nodes:
            known = before.get(node.id)
            if known is not None and known.up != node.up:
                name = "node_ready" if node.up else "node_down"
                self._notify(
                    Event(name, None, {"node": node.name} if node.up else {"node": node.name, "reason": node.message})
                )
                self._fast_poll_until = self._loop.time() + FAST_POLL_DURATION
        self._lost, self._reading = None, fresh
        self._ports = {task.container: task.port for task in fresh.tasks if task.port is not None}
        self._compare()
        self._reading_done.set()

    def _compare(self) -> None:
        """Compare the last reading with what is known, and report what has changed."""
        if self._lost is not None:
            return
        tasks, wall_time = self._reading.tasks, time.time()
        self._assignments.update(
            {assignment.name: assignment for assignment in assign_slots(self._assignments.values(), tasks)}
        )
        for name in list(self._assignments):
            assignment, observation = update_assignment(
                self._assignments[name], tasks, wall_time, bool(self._specs[name].launch.health)
            )
            self._assignments[name] = assignment
            if observation is not None:
                self._report_later(name, observation)
                self._fast_poll_until = self._loop.time() + FAST_POLL_DURATION
        unsettled = self._updating or not all(assignment.settled for assignment in self._assignments.values())
        self._polls_fast = unsettled and self._loop.time() < self._fast_poll_until

    def _report_later(self, name: str, observation: Observation) -> None:
        """Report an observation in a separate turn of the event loop: its consequences may call this driver."""
        assignment = self._assignments[name]
        self._loop.call_soon(self._sink, name, assignment.instance, observation)

    def _poll_fast(self) -> None:
        self._polls_fast, self._fast_poll_until = True, self._loop.time() + FAST_POLL_DURATION
        self._wake.set()

    def _manager_lost(self, reason: str) -> None:
        self._lost = reason
        self._notify(Event("engine_lost", None, {"reason": reason}))

    def _manager_back(self) -> None:
        self._lost = None
        self._notify(Event("engine_back"))
        for name in list(self._assignments):
            self._report_later(name, Revived())
        self._schedule_apply()

    def _on_order_failed(self, error: Exception) -> None:
        """Report a failed order to the replicas that wait for it; the planner repeats the rest."""
        waiting = [name for name, assignment in self._assignments.items() if assignment.waiting]
        for name in waiting:
            self._report_later(name, StartFailed(error_text(error)))
        if not waiting:
            self._notify(Event("engine_error", None, {"reason": error_text(error)}))

    # The following run on the work queues' threads.

    def _on_error(self, name: str, error: Exception) -> None:
        if not isinstance(error, engine_errors()):
            raise error
        self._loop.call_soon_threadsafe(self._on_order_failed, error)

    def _execute(self, done: "asyncio.Future[None]", work: Callable[[], None]) -> None:
        """Carry out an order, and pass its result to the future that waits for it."""

        def set_outcome(error: Exception | None) -> None:
            if not done.done():
                done.set_result(None) if error is None else done.set_exception(
                    UserError(f"the swarm refuses: {error_text(error)}")
                )

        try:
            work()
        except engine_errors() as error:
            self._loop.call_soon_threadsafe(set_outcome, error)
        else:
            self._loop.call_soon_threadsafe(set_outcome, None)

    def _resize(self, launch: ServiceLaunch | None, replicas: int) -> None:
        self._manager.resize(launch, replicas)
        self._wake.set()

    def _kill(self, container: str, signal: int) -> None:
        self._manager.kill(container, signal)
        self._loop.call_soon_threadsafe(self._poll_fast)

    def _remove(self, name: str, instance: int | None) -> None:
        self._manager.remove()
        self._loop.call_soon_threadsafe(self._sink, name, instance, Removed())

    # The following runs on the watcher's thread.

    def _watch(self) -> None:
        lost = False
        while not self._closed.is_set():
            try:
                fresh = self._manager.read(self._ports)
            except engine_errors() as error:
                if not lost and not self._closed.is_set():
                    lost = True
                    self._loop.call_soon_threadsafe(self._manager_lost, error_text(error))
            else:
                if self._closed.is_set():
                    return
                if lost:
                    lost = False
                    self._loop.call_soon_threadsafe(self._manager_back)
                self._loop.call_soon_threadsafe(self._on_reading, fresh)
            self._wake.wait(FAST_POLL_PAUSE if self._polls_fast else IDLE_POLL_PAUSE)
            self._wake.clear()
