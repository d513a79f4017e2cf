"""Drives replicas that are containers, through the docker SDK and the engine's event stream.

A call to the engine may take a second, or hang. So every call runs on a thread of this driver (`KeyedWorkQueues`: in
order for one replica, in parallel for different ones), and its result is handed to the event loop. The event stream
reports deaths and has its own thread. When the stream breaks, the engine counts as lost until a new stream is open. An
event only triggers an inspection of the container: its state is then compared with what was known
(`comet.runtimes.docker.container_states`). The same inspection follows when a new stream is open. A sweep every few
seconds inspects each container whose state differs from what is known. So it does not matter which events arrive, or in
which order.

A container that crashed is started again: same container, same id. One that was removed from outside is created again.
So is one that cannot be started again: an engine that dies during a start leaves traces (`task … already exists`,
`endpoint with name … already exists`) that only a removal clears.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from signal import Signals
from typing import Any

import docker
import docker.errors

from comet.common.errors import UserError
from comet.concurrency.work_queues import KeyedWorkQueues
from comet.engine.errors import UNREACHABLE, engine_errors, error_text
from comet.engine.traits import EngineTraits
from comet.events.event import Event
from comet.host import port_owners
from comet.host.oom_kills import OomWatch
from comet.reconcile.driver_interface import Driver, Sink
from comet.reconcile.observations import Exited, Found, Lost, Removed, Revived, Started, StartFailed
from comet.reconcile.replica import ReplicaSpec
from comet.runtimes.docker.container_spec import ContainerLaunch
from comet.runtimes.docker.container_states import (
    INSPECTED_EVENTS,
    Known,
    Verdict,
    began,
    compare,
    ended,
    is_earlier,
    publishes,
    runs,
)
from comet.runtimes.docker.containers import STATE_POLL_PAUSE, Containers
from comet.runtimes.docker.network import Networks
from comet.runtimes.orphan import short_id

THREADS = 8
RECONNECT_PAUSE = 0.5
"""Seconds between two attempts to reach an engine that is lost."""

SWEEP_INTERVAL = 5.0
"""Seconds between two sweeps, which compare every container with what is known of it."""

ORDER_TIMEOUT = 10.0
"""Seconds that a command waits for the engine to carry out what it orders."""

HANG_TIMEOUT = 30.0
"""Seconds without an answer to a sweep after which the engine counts as lost."""

RESTART_TIMEOUT = 2.0
"""Seconds that a start waits for an engine that is about to restart the container itself."""

SWEEP = ""
"""The key of the sweep's work queue, which is no replica's name."""


class ContainerDriver(Driver):
    """Drives the containers of one cluster, which its label distinguishes from all others."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sink: Sink,
        notify: Callable[[Event], None],
        client: docker.DockerClient,
        cluster_id: str,
        mark: str = "",
        traits: EngineTraits = EngineTraits(),  # noqa: B008  # It is frozen.
    ) -> None:
        """Create the driver; `mark` names the cluster's folder in a label, in case the cluster's id is lost."""
        self._loop = loop
        self._sink = sink
        self._notify = notify
        self._api = client.api
        self._cluster_id = cluster_id
        self._closed = threading.Event()
        networks = Networks(client, cluster_id, lambda event: loop.call_soon_threadsafe(notify, event))
        self.containers = Containers(client, cluster_id, mark, traits, networks, self._closed)
        self._queues = KeyedWorkQueues(THREADS, self._on_error)
        self._lock = threading.Lock()
        self._known: dict[str, Known] = {}
        self._oom: dict[str, float] = {}
        """When the engine last reported a kill for want of memory, by container; wall time."""
        self._oom_watch = None if traits.reports_oom else OomWatch()
        self.before_start: Callable[[], None] = lambda: None
        """Called on a work queue's thread before a container is started; UserError: it cannot be started."""
        self.after_start: Callable[[Known], None] = lambda known: None
        """Called on a work queue's thread after each start of a container."""
        self.before_removal: Callable[[str], None] = lambda name: None
        """Called on a work queue's thread with the name of a replica whose container is to be removed."""
        self._watching = threading.Event()
        self._stream_error = ""
        """Why the event stream has ended; nothing while it is open."""
        self._hangs = False
        self._watcher = threading.Thread(target=self._watch, name="engine-events", daemon=True)

    @property
    def lost(self) -> str:
        """Why the engine is unreachable: its event stream is broken, or a sweep gets no answer; nothing otherwise."""
        return self._stream_error or (UNREACHABLE if self._hangs else "")

    def watch(self, timeout: float = 10.0) -> bool:
        """Start to listen for events; return whether the stream is open within `timeout` seconds."""
        self._watcher.start()
        self._loop.call_later(SWEEP_INTERVAL, self._schedule_sweep)
        return self._watching.wait(timeout)

    def start(self, spec: ReplicaSpec, instance: int) -> None:
        with self._lock:
            former = self._known.get(spec.name)
            known = self._known[spec.name] = Known(spec, instance)
            if former is not None:
                known.id, known.failed_starts = former.id, former.failed_starts
        self._queues.put(spec.name, lambda: self._start(known))

    def adopt(self, spec: ReplicaSpec, instance: int, container: str) -> None:
        """Take over a running container that an earlier supervisor started; `container` is its full id."""
        with self._lock:
            known = self._known[spec.name] = Known(spec, instance, container, running=True)
        # It may have ended since it was found.
        self._queues.put(spec.name, lambda: self._inspect(known))

    def terminate(self, name: str) -> None:
        self.kill(name, Signals.SIGTERM)

    def kill(self, name: str, signal: int) -> None:
        known = self._known.get(name)
        if known is not None:
            self._queues.put(name, lambda: self.containers.kill(known, signal))

    async def send_signal(self, name: str, signal: int) -> None:
        """Send a signal to a replica's container; raise UserError unless it was sent."""

        def send(known: Known | None) -> None:
            if known is not None:
                self.containers.kill(known, signal)

        try:
            await self.between_actions(name, send, ORDER_TIMEOUT)
        except TimeoutError:
            raise UserError(f"{name}: {UNREACHABLE}; the signal may arrive when it does") from None
        except engine_errors() as error:
            raise UserError(f"{name}: {error_text(error)}") from None

    def remove(self, name: str) -> None:
        self._queues.put(name, lambda: self._remove(name))

    async def between_actions(
        self, name: str, work: Callable[[Known | None], None], timeout: float | None = None
    ) -> None:
        """Carry out `work` on a work queue's thread, when all that was ordered for a replica is done.

        Raise TimeoutError after `timeout` seconds.
        """
        await self._queues.call(name, lambda: work(self._known.get(name)), timeout)

    def close(self) -> None:
        self._closed.set()
        self._queues.close()
        with self._lock:
            if self._oom_watch is not None:
                self._oom_watch.close()

    # The following run on the work queues' threads.

    def _start(self, known: Known) -> None:
        launch: ContainerLaunch = known.spec.launch
        if self.lost:
            # An engine that is only half up creates what it is asked for too early. When it is back, every container is
            # started anyway.
            self._report(known, StartFailed(UNREACHABLE))
            return
        try:
            self.before_start()
            if known.id is None or not self.containers.start_existing(known):
                self._start_new(known)
            seen = self._await_start(known)
            if runs(seen["State"]) and not publishes(seen, launch.container_port):
                # Starts that failed in an engine that was shutting down can leave a container without a network for
                # good.
                self._start_new(known)
                seen = self._await_start(known)
            if seen["State"].get("Restarting"):
                raise OSError("the engine is about to restart it itself")
            state = seen["State"]
        except UserError as error:
            self._failed(known, error.message)
            return
        except engine_errors() as error:
            self._failed(known, _with_port_holder(error_text(error), known.spec.port))
            return
        self._report(known, Started(state["Pid"] or None, short_id(known.id or "")))
        if not state["Running"]:
            self._report_death(known, state, time.time())
        else:
            self.after_start(known)

    def _failed(self, known: Known, reason: str) -> None:
        known.running = False
        self._report(known, StartFailed(reason))

    def _start_new(self, known: Known) -> None:
        """Start a new container in place of any container of the replica, whatever name that has now."""
        known.running = False
        self.containers.discard_of(known.spec.name)
        known.id = self.containers.create(known.spec)
        self._api.start(known.id)

    def _await_start(self, known: Known) -> dict[str, Any]:
        """Return the container's state as the engine reports it after a start.

        From here on a die event counts. A death before that shows in the returned state. `_report_death` accepts only
        the first of the two.
        """
        known.running = True
        deadline = time.monotonic() + RESTART_TIMEOUT
        while True:
            seen: dict[str, Any] = self._api.inspect_container(known.id or "")
            if not seen["State"].get("Restarting") or time.monotonic() > deadline:
                break
            self._closed.wait(STATE_POLL_PAUSE)
        known.life, known.pid = began(seen["State"]), seen["State"].get("Pid") or 0
        return seen

    def _remove(self, name: str) -> None:
        self.before_removal(name)
        known = self._known.get(name)
        if known is not None and known.id is not None:
            self.containers.discard(known.id)
        else:
            self.containers.discard_of(name)
        with self._lock:
            self._known.pop(name, None)
        self._loop.call_soon_threadsafe(self._sink, name, known.instance if known else None, Removed())

    def _on_error(self, name: str, error: Exception) -> None:
        if not isinstance(error, engine_errors()):
            raise error
        # The planner repeats what did not succeed; the event shows the user the reason.
        event = Event("engine_error", name, {"reason": error_text(error)})
        self._loop.call_soon_threadsafe(self._notify, event)

    # The following run on the watcher's thread.

    def _watch(self) -> None:
        while not self._closed.is_set():
            try:
                stream = self._api.events(
                    decode=True, filters={"label": f"comet.cluster={self._cluster_id}", "type": "container"}
                )
                if self._stream_error:
                    self._stream_error = ""
                    self._back()
                self._watching.set()
                for record in stream:
                    self._on_event(record)
                raise ConnectionError("its event stream ended")
            except engine_errors() as error:
                if self._closed.is_set():
                    return
                if not self._stream_error:
                    was_lost, self._stream_error = self.lost, error_text(error)
                    if not was_lost:
                        self._loop.call_soon_threadsafe(self._notify, _lost(self._stream_error))
                self._closed.wait(RECONNECT_PAUSE)

    def _back(self) -> None:
        """Let all that the loss held up be done, unless the engine is lost for another reason still."""
        if not self.lost:
            self._loop.call_soon_threadsafe(self._notify, Event("engine_back"))
            self._reconcile()

    def _on_event(self, record: dict[str, Any]) -> None:
        action, about = record.get("Action"), record.get("Actor") or {}
        container = about.get("ID")
        known = self._by_id(container) if container else None
        if known is None:
            return
        if action == "oom":
            self._oom[str(container)] = float(record.get("timeNano") or 0) / 1e9 or time.time()
        elif action == "die" and known.running and not is_earlier(record, known.life):
            # Lost takes it from the load balancers now. The engine keeps the container locked for another 150 ms, for
            # an inspection as well as for a start. So waiting for the answer, which has the time of death, delays no
            # restart.
            self._report(known, Lost())
            self._schedule_inspection(known, {"ExitCode": (about.get("Attributes") or {}).get("exitCode")})
        elif action in INSPECTED_EVENTS:
            self._schedule_inspection(known)

    def _reconcile(self) -> None:
        """Inspect every container after a time without events, then let everything be tried again."""

        def look(known: Known) -> None:
            try:
                self._inspect(known)
            finally:
                self._report(known, Revived())

        with self._lock:
            every = list(self._known.values())
        for known in every:
            self._queues.put(known.spec.name, partial(look, known))

    def _by_id(self, container: str) -> Known | None:
        with self._lock:
            return next((known for known in self._known.values() if known.id == container), None)

    # Inspections run on the work queues' threads.

    def _schedule_inspection(self, known: Known, reported: Mapping[str, Any] | None = None) -> None:
        received_at = time.time()
        self._queues.put(known.spec.name, lambda: self._inspect(known, reported, received_at))

    def _inspect(
        self, known: Known, reported: Mapping[str, Any] | None = None, received_at: float | None = None
    ) -> None:
        """Compare a container with what is known of it.

        `reported` is what an event says of its death, received at the wall time `received_at`.
        """
        if known.id is None or self._known.get(known.spec.name) is not known:
            return
        noticed = received_at or time.time()
        try:
            state = self._api.inspect_container(known.id)["State"]
        except docker.errors.NotFound:
            state = {}
        except engine_errors():
            if reported is None:
                raise
            self._report_death(known, reported, noticed)
            return
        verdict = compare(known.running, known.life, state)
        if verdict is Verdict.DIED:
            self._report_death(known, state, noticed)
        elif verdict is Verdict.REPLACED:
            # The event reported how the previous life ended; the engine still knows when that was.
            self._report_death(known, {**(reported or {}), "FinishedAt": state.get("FinishedAt")}, noticed)
        elif verdict in (Verdict.SAME, Verdict.RUNS):
            known.life, known.pid = began(state), state.get("Pid") or 0
            self._report(known, Found())

    def _schedule_sweep(self) -> None:
        """Sweep now and then periodically; runs on the event loop's thread."""
        if self._closed.is_set():
            return
        hang = self._loop.call_later(HANG_TIMEOUT, self._on_hang)
        self._queues.put(SWEEP, partial(self._sweep, hang))

    def _sweep(self, hang: asyncio.TimerHandle) -> None:
        answered = False
        try:
            answered = self._stream_error != "" or self._inspect_changed()
        finally:
            if not self._closed.is_set():
                self._loop.call_soon_threadsafe(self._swept, hang, answered)

    def _swept(self, hang: asyncio.TimerHandle, answered: bool) -> None:
        hang.cancel()
        if self._hangs and answered:
            self._hangs = False
            self._back()
        self._loop.call_later(SWEEP_INTERVAL, self._schedule_sweep)

    def _on_hang(self) -> None:
        if not self._closed.is_set():
            was_lost, self._hangs = self.lost, True
            if not was_lost:
                self._notify(_lost(UNREACHABLE))

    def _inspect_changed(self) -> bool:
        """Inspect each container whose state differs from what is known; return whether the engine has answered."""
        try:
            listed = self.containers.listed()
        except engine_errors():  # The event stream reports an engine that is unreachable.
            return False
        running = {entry["Id"] for entry in listed if entry.get("State") in ("running", "paused")}
        with self._lock:
            every = list(self._known.values())
        for known in every:
            gone = known.running and known.pid and not Path(f"/proc/{known.pid}").exists()
            if known.id is not None and (gone or known.running != (known.id in running)):
                self._schedule_inspection(known)
        return True

    # The following run on any of these threads.

    def _report_death(self, known: Known, state: Mapping[str, Any], noticed: float) -> None:
        with self._lock:
            if not known.running:
                return
            known.running = False
            killed_at = self._oom.pop(known.id or "", None)
            if self._oom_watch is not None and known.id is not None:
                killed_at = self._oom_watch.last_kill_in(known.id) or killed_at
        self._report(known, Exited(ended(state, killed_at, noticed)))

    def _report(self, known: Known, observation: Any) -> None:
        if not self._closed.is_set():
            self._loop.call_soon_threadsafe(self._sink, known.spec.name, known.instance, observation)


def _lost(reason: str) -> Event:
    return Event("engine_lost", None, {"reason": reason})


def _with_port_holder(reason: str, port: int) -> str:
    """Return an engine's error, and for a port that is taken also which process holds it."""
    if "address already in use" not in reason and "port is already allocated" not in reason:
        return reason
    taken = port_owners.taken(port)
    return f"{reason} ({taken})" if taken else reason
