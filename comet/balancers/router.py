"""Sends the routing table to every load balancer, and reports to the supervisor what they say of the workers.

The table follows from the fleet (`comet.balancers.routing_table`). Each load balancer has one control connection
(`comet.balancers.control_link`). At each change the whole table is sent on it, followed by a ping: the pong says that
this load balancer has applied the table. Once all have, no new request is sent to a worker that the table calls
draining, and the router reports it (`Drained`). A worker that an operator has drained is `given` as what it is, and
called draining in the table that is sent. For workers that may end during an answer, the pong also reports what is in
flight on them; the router then asks again and again until nothing is.

The same ping, about twice a second, is the watchdog: a load balancer that does not answer for a while is hung. Only
pings of a punctual watchdog count, so that on an overloaded machine, where the supervisor itself is late, no load
balancer is killed for being slow.

A worker is unhealthy while any load balancer finds it so. A view is forgotten when its load balancer ends or the worker
has restarted; what a load balancer reports before it knows of the restart concerns the previous instance and is
ignored.
"""

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from comet.balancers.control_link import LbLink
from comet.balancers.routing_table import keeps_view
from comet.reconcile.driver_interface import Sink
from comet.reconcile.observations import Answered, Drained, Ejected, Health, Hung, Ready
from lb.interface import messages
from lb.interface.settings import DRAINING, UP, UpstreamSpec

WATCH_INTERVAL = 0.48
"""Seconds between two pings of the watchdog.

No multiple of it is a whole second: the last ping within a timeout comes a little before its end, so that a hung load
balancer is dead within the timeout.
"""

PING_PAUSE = 0.02
"""Seconds after which load balancers are asked again whether requests on a draining worker have ended."""


def is_hung(unanswered: int, timeout: float) -> bool:
    """Whether a load balancer is hung after `unanswered` pings in a row: the next would exceed the timeout (seconds).

    The ping before them was answered, so the silence began after it.
    """
    return (unanswered + 1) * WATCH_INTERVAL >= timeout


@dataclass
class _Balancer:
    """A connected load balancer, and what it has said of the workers, by their names."""

    link: LbLink
    applied: int = 0
    """The version of the last table that it has applied."""
    view: dict[str, str | None] = field(default_factory=dict)
    """What it finds wrong with each worker that it has checked, None for nothing."""
    ejections: dict[str, str] = field(default_factory=dict)
    check_times: dict[str, float] = field(default_factory=dict)
    valid_from: dict[str, int] = field(default_factory=dict)
    """The table version from which on its reports of a worker count."""
    busy: dict[str, int] = field(default_factory=dict)

    def is_current(self, upstream: str) -> bool:
        """Whether its reports are about the present worker, not the one before a restart or change of address."""
        return self.applied >= self.valid_from.get(upstream, 0)


class Router:
    """Sends the table to every load balancer and reports their answers to the sink."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sink: Sink,
        watchdog_timeout: float = 3.0,
        waits_for_requests: bool = False,
    ) -> None:
        """Create the router; `waits_for_requests` says that a drain waits for what is in flight on the workers.

        That is needed where the workers may end at once on SIGTERM.
        """
        self._loop = loop
        self._sink = sink
        self._max_in_flight: int | None = None
        self._balancers: dict[str, _Balancer] = {}
        self._objections: dict[str, str] = {}
        """Why each worker that is reported as unhealthy is so: it stays so until a load balancer finds otherwise."""
        self._version = 0
        self._drained_version = 0
        self._waits_for_requests = waits_for_requests
        self._ping_timer: asyncio.TimerHandle | None = None
        self.watchdog_timeout = watchdog_timeout
        self._unanswered: dict[str, int] = {}
        self._watched_at = loop.time()
        self._watchdog = loop.call_later(WATCH_INTERVAL, self._watch)
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self.drained: frozenset[str] = frozenset()
        self.paused_until = 0.0
        self.given: tuple[UpstreamSpec, ...] = ()
        self.table: tuple[UpstreamSpec, ...] = ()
        self._front: messages.Message | None = None
        self.on_counts: Callable[[Mapping[str, Mapping[str, int]]], None] = lambda counts: None
        """Called with what workers said of their counted leases: the numbers left, by worker and lease."""

    def attach(self, name: str, instance: int, peer: socket.socket) -> None:
        """Take over the control connection of a load balancer that was just started or adopted."""
        self.detach(name)
        link = LbLink(
            self._loop,
            peer,
            lambda message: self._handle_message(link, instance, message),
            lambda: self._on_link_closed(link),
        )
        link.name = name
        self._balancers[name] = _Balancer(link)
        self._send_table(link, new=True)
        if self._front is not None:
            link.send(self._front)

    def inject(self, plan: Mapping[str, Any] | None, folder: str) -> None:
        """Have load balancers inject these faults at the front; None ends what was ordered before."""
        if plan is None and self._front is None:
            return
        self._front = messages.front(plan or {}, folder)
        self._send(self._front)

    def rename(self, former: str, name: str) -> None:
        """Change the name of a load balancer."""
        if former in self._balancers:
            self._balancers[name] = self._balancers.pop(former)
            self._balancers[name].link.name = name
        if former in self._unanswered:
            self._unanswered[name] = self._unanswered.pop(former)

    def configure(self, name: str, settings: messages.Message) -> None:
        """Send a load balancer the settings that are wanted now, and ask how it sees the workers."""
        if name in self._balancers:
            self._balancers[name].link.send(messages.settings(settings), messages.status())

    def reopen(self, name: str, run: str, control: str | None, counters: str) -> None:
        """Tell a load balancer to recreate its files."""
        if name in self._balancers:
            self._balancers[name].link.send(messages.reopen(run, control, counters))

    def detach(self, name: str) -> None:
        """Close the connection of a load balancer that has ended."""
        if name in self._balancers:
            self._balancers[name].link.close()
        self._unanswered.pop(name, None)

    def limit(self, max_in_flight: int | None) -> None:
        """Limit the requests that each load balancer may have in flight on a worker (None: no limit)."""
        if max_in_flight != self._max_in_flight:
            self._max_in_flight = max_in_flight
            self._send_all()

    def order(self, drained: frozenset[str], paused_until: float) -> None:
        """Let no load balancer send requests to the drained workers, nor to any before `paused_until` (monotonic)."""
        self.drained, self.paused_until = drained, paused_until
        self.table = self._with_drained(self.given)
        self._send_all()

    @property
    def _is_applied(self) -> bool:
        """Whether every load balancer has applied what it was sent until now."""
        return all(each.applied >= self._version for each in self._balancers.values())

    async def applied(self) -> None:
        """Return once every load balancer has applied what it was sent until now."""
        if not self._is_applied:
            done: asyncio.Future[None] = self._loop.create_future()
            self._waiting.append((self._version, done))
            await done

    async def confirmed(self) -> None:
        """Return once every load balancer has applied what it was sent until now, settings included."""
        self._send_all()
        await self.applied()

    def publish(self, new: tuple[UpstreamSpec, ...]) -> None:
        """Make `new` the table, and send it if it differs from the present one."""
        if new == self.given:
            return
        former = {spec.name: spec for spec in self.given}
        self._version += 1
        for spec in new:
            if spec.state == UP and not keeps_view(former.get(spec.name), spec):
                self._objections.pop(spec.name, None)
                for each in self._balancers.values():
                    each.view.pop(spec.name, None)
                    each.ejections.pop(spec.name, None)
                    each.valid_from[spec.name] = self._version
        self.given, self.table = new, self._with_drained(new)
        self._send_tables()
        self._report_drained()

    def _with_drained(self, given: tuple[UpstreamSpec, ...]) -> tuple[UpstreamSpec, ...]:
        return tuple(
            replace(each, state=DRAINING) if each.state == UP and each.name in self.drained else each for each in given
        )

    def _send_all(self) -> None:
        self._version += 1
        self._send_tables()

    def _send_tables(self) -> None:
        for each in list(self._balancers.values()):
            self._send_table(each.link)

    def _send(self, message: messages.Message) -> None:
        """Send a message to all; a connection that breaks meanwhile is removed."""
        for each in list(self._balancers.values()):
            each.link.send(message)

    def views(self) -> dict[str, dict[str, str | None]]:
        """Return what each load balancer finds wrong with each worker that it has checked, None for nothing."""
        return {name: dict(each.view) for name, each in self._balancers.items()}

    def check_times(self) -> dict[str, dict[str, float]]:
        """Return how long each load balancer's last check of each worker took, in ms."""
        return {name: dict(each.check_times) for name, each in self._balancers.items()}

    def ejections(self) -> dict[str, dict[str, str]]:
        """Return the workers that each load balancer does not use for their answers, with the reasons."""
        return {name: dict(each.ejections) for name, each in self._balancers.items()}

    def mark_suspect(self, name: str, reason: str) -> None:
        """Have each load balancer check a worker at once and use the other workers meanwhile."""
        self._send(messages.suspect(name, reason))

    def drain(self, name: str, grace: float, unused: int) -> bool:
        """Ask a load balancer to drain; return False when there is no connection to it.

        `unused` is the number of its listening sockets on which no other accepts.
        """
        if name not in self._balancers:
            return False
        self._balancers[name].link.send(messages.drain(grace, unused))
        return True

    def close(self) -> None:
        self._watchdog.cancel()
        if self._ping_timer is not None:
            self._ping_timer.cancel()
        for each in list(self._balancers.values()):
            each.link.close()

    def _watch(self) -> None:
        now = self._loop.time()
        punctual = now - self._watched_at < 1.5 * WATCH_INTERVAL
        self._watched_at = now
        self._watchdog = self._loop.call_later(WATCH_INTERVAL, self._watch)
        # Pings are counted only for load balancers that were ready: one that starts has its own deadline. One without a
        # connection takes no orders, so it is as good as hung.
        for name in list(self._unanswered):
            self._unanswered[name] += punctual
            if is_hung(self._unanswered[name], self.watchdog_timeout):
                self._unanswered[name] = 0
                self._sink(name, None, Hung(f"hung: no answer for {self.watchdog_timeout:g} s"))
            elif name in self._balancers:
                self._balancers[name].link.send(messages.ping(self._version))

    def _send_table(self, link: LbLink, new: bool = False) -> None:
        table = (
            [replace(each, objection=self._shared_objection(each.name)) for each in self.table] if new else self.table
        )
        link.send(
            messages.pause(self.paused_until),
            messages.upstreams(table, self._max_in_flight),
            messages.ping(self._version),
            table=True,
        )

    def _handle_message(self, link: LbLink, instance: int, message: messages.Message) -> None:
        name, kind = link.name, message["type"]
        if kind == "ready":
            self._unanswered[name] = 0
            self._sink(name, instance, Ready(message["at"]))
        elif kind == "pong":
            self._unanswered[name] = 0
            balancer = self._balancers[name]
            balancer.applied, balancer.busy = message["id"], message["busy"]
            balancer.check_times.update(message["checks"])
            self.on_counts(message["counts"])
            self._report_applied()
        elif kind == "first":
            upstream = message["upstream"]
            self._sink(upstream or name, None if upstream else instance, Answered(message["at"]))
        elif kind == "health":
            self._update_view(name, message["upstream"], message["healthy"], message["reason"])
        elif kind == "ejection":
            self._note_ejection(name, message["upstream"], message)
        elif kind == "status":
            for upstream in message["upstreams"]:
                self._update_view(name, upstream["upstream"], upstream["healthy"], "")
                if upstream["ejected"] is not None:  # None: from an older load balancer.
                    self._keep_ejection(name, upstream["upstream"], upstream["ejected"])

    def _update_view(self, name: str, upstream: str, healthy: bool, reason: str) -> None:
        if not healthy and not any(spec.name == upstream and spec.state == UP for spec in self.given):
            return  # The load balancer only repeats what the table says.
        balancer = self._balancers[name]
        if not healthy and not balancer.is_current(upstream):
            return
        balancer.view[upstream] = None if healthy else f"{name} finds: {reason or 'no answer'}"
        if not healthy:
            self._objections[upstream] = reason or "no answer"
        self._report_health(upstream)

    def _note_ejection(self, name: str, upstream: str, message: messages.Message) -> None:
        self._keep_ejection(name, upstream, message["reason"] if message["ejected"] else "")
        if message["seconds"] or not message["ejected"]:
            reason = message["reason"] if message["ejected"] else ""
            self._sink(upstream, None, Ejected(name, reason, message["seconds"]))

    def _keep_ejection(self, name: str, upstream: str, reason: str) -> None:
        balancer = self._balancers[name]
        if not reason:
            balancer.ejections.pop(upstream, None)
        elif balancer.is_current(upstream):
            balancer.ejections[upstream] = reason

    def _report_health(self, upstream: str) -> None:
        views = [each.view.get(upstream) for each in self._balancers.values()]
        reasons = [reason for reason in views if reason is not None]
        if not reasons:
            self._objections.pop(upstream, None)
        self._sink(upstream, None, Health(not reasons, reasons[0] if reasons else ""))

    def _shared_objection(self, upstream: str) -> str:
        """Return why a worker is unhealthy, "" where a load balancer uses it."""
        used = any(each.view.get(upstream, "") is None for each in self._balancers.values())
        return "" if used else self._objections.get(upstream, "")

    def _on_link_closed(self, link: LbLink) -> None:
        for upstream in self._balancers.pop(link.name).view:
            if any(upstream in each.view for each in self._balancers.values()):
                self._report_health(upstream)
        self._report_applied()

    def _report_applied(self) -> None:
        least = min((each.applied for each in self._balancers.values()), default=self._version)
        for version, done in self._waiting:
            if version <= least and not done.done():
                done.set_result(None)
        self._waiting = [each for each in self._waiting if not each[1].done()]
        self._report_drained()

    def _report_drained(self) -> None:
        """Report draining workers as drained once every load balancer has applied the present table.

        A router that waits for requests also waits until nothing is in flight on them.
        """
        if self._drained_version == self._version or not self._is_applied:
            return
        draining = [spec.name for spec in self.given if spec.state == DRAINING]
        busy = {name for each in self._balancers.values() for name in each.busy} if self._waits_for_requests else set()
        if not busy.intersection(draining):
            self._drained_version = self._version
        elif self._ping_timer is None:
            self._ping_timer = self._loop.call_later(PING_PAUSE, self._ping_all)
        for name in draining:
            if name not in busy:
                self._loop.call_soon(self._sink, name, None, Drained())

    def _ping_all(self) -> None:
        self._ping_timer = None
        self._send(messages.ping(self._version))
