"""Replicas that are the tasks of one Docker Swarm service: made, placed and started again by the swarm, watched from here.

The seam is this: Comet says how many there are to be and of what they are made; the swarm's manager says what is. `start` makes
sure that the service has a task for the replica and waits for it; nothing is ever started here, and after a death the same wait begins
anew. `terminate` makes the service smaller. A swarm sends no events of tasks, so the manager is read (`_watch`, a thread of its own): every
second, and five times a second while something is expected. What two readings mean for a replica `comet.tasks` says, which is pure.

While the manager does not answer nothing is known, so nothing is done: the load balancers keep the tasks that they have, and judge
them by their own checks and failed connections. All of this object but the two threads' own methods runs in the loop's thread.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import docker

from comet.drivers.base import Sink
from comet.drivers.lanes import Lanes
from comet.drivers.manager import ENGINE_ERRORS, Manager, told
from comet.errors import UserError
from comet.events import Event
from comet.observation import Exited, Observation, Removed, Revived, StartFailed
from comet.replica import ReplicaSpec
from comet.servicespec import ServiceLaunch
from comet.tasks import Ports, Reading, Seat, Task, judged, pending, seated

REST, HURRY = 1.0, 0.2
"""Seconds between two readings."""

HURRY_LASTS = 30.0
"""Seconds without news after which what is expected is waited for at rest: a node that may be back some day, room that there is not."""

SERVICE = "service"
"""The lane of all orders: one service, so one after another."""

UPDATE_ENDS = ("completed", "paused", "rollback_completed", "rollback_paused")


class SwarmDriver:
    """Drives the workers' service of one cluster."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sink: Sink,
        tell: Callable[[Event], None],
        client: docker.DockerClient,
        cluster_id: str,
        here: str,
    ) -> None:
        """`here` is the id of the node whose engine `client` speaks to."""
        self._loop = loop
        self._sink = sink
        self._tell = tell
        self._manager = Manager(client, cluster_id)
        self._here = here
        self._lanes = Lanes(1, self._failed)
        self._specs: dict[str, ReplicaSpec] = {}
        self._seats: dict[str, Seat] = {}
        self._last = Reading({}, (), ())
        self._ports: Ports = {}
        self._lost: str | None = "it was not asked yet"
        self._hurry_until = 0.0
        self._due = False
        self._updating = False
        self._read = asyncio.Event()
        self._closed = threading.Event()
        self._wake = threading.Event()
        self._hurry = True
        self._watcher = threading.Thread(target=self._watch, name="swarm-tasks", daemon=True)

    def watch(self) -> None:
        """Begin to read the manager."""
        self._watcher.start()

    def start(self, spec: ReplicaSpec, instance: int) -> None:
        former = self._seats.get(spec.name, Seat(spec.name, instance))
        self._specs[spec.name] = spec
        self._seats[spec.name] = replace(former, instance=instance, task=None, waiting=True, leaving=False, unheard=False)
        self._apply_soon()

    def adopt(self, spec: ReplicaSpec, instance: int, task: str, container: str, port: int) -> None:
        """Know a task that serves already, by its id, the short one of its container, and the port that it published."""
        self._ports = {**self._ports, container: port}
        self._specs[spec.name] = spec
        self._seats[spec.name] = Seat(spec.name, instance, task)
        self._apply_soon()

    def drain(self, name: str) -> None:
        """Nothing to do here: the load balancers are told by the router, which says when it is done."""

    def release(self, name: str) -> None:
        if name in self._seats:
            self._seats[name] = replace(self._seats[name], leaving=True, waiting=False)

    def terminate(self, name: str) -> None:
        self._apply_soon()

    def kill(self, name: str, signal: int) -> None:
        seat = self._seats.get(name)
        if seat is None:
            return
        if seat.leaving:
            # How long a task may take to end the swarm knows, and kills it then.
            self._apply_soon()
        elif seat.waiting:
            limit = self._specs[name].start_timeout
            self._later(name, StartFailed(f"not ready within {limit:g} s: {pending(seat, self._last.tasks)}"))
        else:
            task = self._task(seat)
            if seat.unheard:
                self._later(name, Exited())
            elif task is not None and task.node is not None and task.node.id == self._here:
                self._lanes.put(name, lambda: self._kill(task.container, signal))
            else:
                # It runs on another machine and does not answer: only the swarm can replace it, and only another look can tell.
                self._later(name, StartFailed(f"not ready within {self._specs[name].start_timeout:g} s: {pending(seat, self._last.tasks)}"))

    def remove(self, name: str) -> None:
        seat = self._seats.pop(name, None)
        self._specs.pop(name, None)
        instance = seat.instance if seat is not None else None
        if self._seats:
            self._apply_soon()
            self._loop.call_soon(self._sink, name, instance, Removed())
        else:
            self._lanes.put(SERVICE, lambda: self._remove(name, instance))

    def rename(self, former: str, name: str) -> None:
        raise ValueError(f"{former}: a task keeps its replica's name")

    def close(self) -> None:
        self._closed.set()
        self._wake.set()
        self._lanes.close()

    # What only a swarm can do.

    def require_here(self, name: str) -> None:
        """UserError: the task runs on a node whose engine this one cannot ask."""
        task = self._task(self._seats.get(name))
        if task is None or task.node is None:
            raise UserError(f"{name}: no task of it runs")
        if task.node.id != self._here:
            raise UserError(
                f"{name}: runs on {task.node.name}, and a swarm's manager cannot kill there; on that machine: docker kill {task.container}"
            )

    def require_manager(self) -> None:
        """UserError: there is nobody to give orders to."""
        if self._lost is not None:
            raise UserError(f"{self._lost}; nothing was changed, the workers that answer serve on")

    async def roll(self, launch: ServiceLaunch, patience: float) -> None:
        """Have the swarm replace all tasks as its update policy says; returns when it has. UserError: it went back, and says why."""
        self._updating = True
        self._hasten()
        try:
            await self._ordered(lambda: self._manager.update(launch))
            await self._updated(patience)
        finally:
            self._updating = False

    async def go_back(self, patience: float) -> None:
        """Have the swarm undo its last update; returns when it has, or makes no progress. UserError: it refuses."""
        self._updating = True
        self._hasten()
        try:
            await self._ordered(self._manager.go_back)
            with contextlib.suppress(UserError):  # It went back: that is what is wanted.
                await self._updated(patience)
        finally:
            self._updating = False

    async def _updated(self, patience: float) -> None:
        seen, until, why = {seat.task for seat in self._seats.values()}, self._loop.time() + patience, ""
        newest = max((task.created for task in self._last.tasks), default=0.0)
        # The first reading may have been under way when the update was ordered.
        for _ in range(2):
            await self._next_reading()
        while True:
            status = self._last.service.get("UpdateStatus") or {}
            failed = [task for task in self._last.tasks if task.error and task.failed and task.created > newest]
            why = failed[-1].error if failed else why
            now = {seat.task for seat in self._seats.values()}
            if now != seen:
                seen, until = now, self._loop.time() + patience
            if status.get("State") == "completed":
                return
            if status.get("State") in UPDATE_ENDS:
                reason = why or status.get("Message") or status["State"]
                raise UserError(f"the swarm went back to the former version: {reason}")
            if self._loop.time() > until:
                waits = next((task for task in reversed(self._last.tasks) if task.wanted and not task.serves), None)
                await self._ordered(self._manager.go_back)
                reason = (waits.error or f"a task is {waits.state}") if waits is not None else "no progress"
                raise UserError(f"the update made no progress within {patience:g} s ({reason}); the swarm goes back to the former version")
            await self._next_reading()

    async def _ordered(self, work: Callable[[], None]) -> None:
        """Carry out an order on its lane and wait for it. UserError: the swarm refuses."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._lanes.put(SERVICE, lambda: self._order(done, work))
        await done

    async def _next_reading(self) -> None:
        self._read.clear()
        await self._read.wait()

    # In the loop's thread.

    def _task(self, seat: Seat | None) -> Task | None:
        return next((task for task in self._last.tasks if seat is not None and task.id == seat.task), None)

    def _apply_soon(self) -> None:
        """Order what is wanted now, once for all that is asked in this turn of the loop."""
        self._hasten()
        if not self._due:
            self._due = True
            self._loop.call_soon(self._apply)

    def _apply(self) -> None:
        self._due = False
        staying = [name for name, seat in self._seats.items() if not seat.leaving]
        if staying:
            launch = self._specs[staying[0]].launch
            self._lanes.put(SERVICE, lambda: self._sized(launch, len(staying)))
        elif self._seats:
            self._lanes.put(SERVICE, lambda: self._sized(None, 0))
        self._look()

    def _take(self, fresh: Reading) -> None:
        before = {node.id: node for node in self._last.nodes}
        for node in fresh.nodes:
            known = before.get(node.id)
            if known is not None and known.up != node.up:
                name = "node_ready" if node.up else "node_down"
                self._tell(Event(name, None, {"node": node.name} if node.up else {"node": node.name, "reason": node.said}))
                self._hurry_until = self._loop.time() + HURRY_LASTS
        self._lost, self._last = None, fresh
        self._ports = {task.container: task.port for task in fresh.tasks if task.port is not None}
        self._look()
        self._read.set()

    def _look(self) -> None:
        """Compare the last reading with what is known, and tell what is news."""
        if self._lost is not None:
            return
        tasks, wall = self._last.tasks, time.time()
        self._seats.update({seat.name: seat for seat in seated(self._seats.values(), tasks)})
        for name in list(self._seats):
            seat, news = judged(self._seats[name], tasks, wall, bool(self._specs[name].launch.health))
            self._seats[name] = seat
            if news is not None:
                self._later(name, news)
                self._hurry_until = self._loop.time() + HURRY_LASTS
        unsettled = self._updating or any(
            seat.task is None or seat.leaving or seat.waiting or seat.unheard for seat in self._seats.values()
        )
        self._hurry = unsettled and self._loop.time() < self._hurry_until

    def _later(self, name: str, news: Observation) -> None:
        """Tell it in a turn of its own: what follows may call this driver."""
        seat = self._seats[name]
        self._loop.call_soon(self._sink, name, seat.instance, news)

    def _hasten(self) -> None:
        self._hurry, self._hurry_until = True, self._loop.time() + HURRY_LASTS
        self._wake.set()

    def _manager_lost(self, reason: str) -> None:
        self._lost = reason
        self._tell(Event("engine_lost", None, {"reason": reason}))

    def _manager_back(self) -> None:
        self._lost = None
        self._tell(Event("engine_back"))
        for name in list(self._seats):
            self._later(name, Revived())
        self._apply_soon()

    def _could_not(self, error: Exception) -> None:
        """An order failed: who waits for it is told why; the plan repeats the rest."""
        waiting = [name for name, seat in self._seats.items() if seat.waiting]
        for name in waiting:
            self._later(name, StartFailed(told(error)))
        if not waiting:
            self._tell(Event("engine_error", None, {"reason": told(error)}))

    # On the lanes' threads.

    def _failed(self, name: str, error: Exception) -> None:
        if not isinstance(error, ENGINE_ERRORS):
            raise error
        self._loop.call_soon_threadsafe(self._could_not, error)

    def _order(self, done: "asyncio.Future[None]", work: Callable[[], None]) -> None:
        """Carry out an order that somebody waits for."""

        def settle(error: Exception | None) -> None:
            if not done.done():
                done.set_result(None) if error is None else done.set_exception(UserError(f"the swarm refuses: {told(error)}"))

        try:
            work()
        except ENGINE_ERRORS as error:
            self._loop.call_soon_threadsafe(settle, error)
        else:
            self._loop.call_soon_threadsafe(settle, None)

    def _sized(self, launch: ServiceLaunch | None, replicas: int) -> None:
        self._manager.size(launch, replicas)
        self._wake.set()

    def _kill(self, container: str, signal: int) -> None:
        self._manager.kill(container, signal)
        self._loop.call_soon_threadsafe(self._hasten)

    def _remove(self, name: str, instance: int | None) -> None:
        self._manager.remove()
        self._loop.call_soon_threadsafe(self._sink, name, instance, Removed())

    # On the watcher's thread.

    def _watch(self) -> None:
        lost = False
        while not self._closed.is_set():
            try:
                fresh = self._manager.read(self._ports)
            except ENGINE_ERRORS as error:
                if not lost and not self._closed.is_set():
                    lost = True
                    self._loop.call_soon_threadsafe(self._manager_lost, told(error))
            else:
                if self._closed.is_set():
                    return
                if lost:
                    lost = False
                    self._loop.call_soon_threadsafe(self._manager_back)
                self._loop.call_soon_threadsafe(self._take, fresh)
            self._wake.wait(HURRY if self._hurry else REST)
            self._wake.clear()
