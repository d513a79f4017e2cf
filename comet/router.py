"""Which workers the load balancers may use, told to each of them; and what they tell of the workers in return.

The table follows from the fleet (`table`, pure). Each load balancer has one control connection (`LbLink`), on which the whole table is
sent at each change, followed by a ping: the pong says that this LB has applied it. Once all have, a worker that the table calls
draining is sent nothing new, and the router says so (`Drained`). Of workers that may end in the midst of an answer the pong also tells
what is in flight on them; that is waited for, and asked for again and again meanwhile.

The same ping, about twice a second, is the watchdog: a load balancer that answers none for a while is hung. Only the pings of a punctual
watchdog count, so that on a machine that is overloaded, where we are late ourselves, nobody is killed for being slow.

A worker is unhealthy while any load balancer finds it so. A view is forgotten when its LB goes, or when the worker comes up anew; what an
LB says before it has heard of that is about what was there before, and goes unheard.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Iterable, Mapping

from comet.drivers.base import Sink
from comet.observation import Answered, Drained, Endpoint, Health, Hung, Ready
from comet.replica import SERVING, Replica, State
from lb import messages
from lb.settings import DOWN, DRAINING, UP, UpstreamSpec

WATCH_INTERVAL = 0.48
"""Seconds between two pings of the watchdog. A number of them makes no whole second: the last one within a timeout comes a little before
it, so that what is hung is dead within it."""

ASK_PAUSE = 0.02
"""Seconds after which load balancers are asked again whether what was in flight on a draining worker has ended."""


def is_hung(unanswered: int, timeout: float) -> bool:
    """Whether so many pings in a row without an answer make a load balancer a hung one: with the next look the timeout (seconds) would have
    passed. The ping before them was answered, so it fell silent after that."""
    return (unanswered + 1) * WATCH_INTERVAL >= timeout


def table(fleet: Iterable[Replica], endpoints: Mapping[str, Endpoint]) -> tuple[UpstreamSpec, ...]:
    """The upstreams in rotation order: those of the fleet that have an endpoint, their own or, by name, a fixed one."""
    return tuple(
        UpstreamSpec(replica.name, endpoint.host, endpoint.port, _word(replica), endpoint.health_path)
        for replica in sorted(fleet, key=lambda replica: replica.spec.port)
        if (endpoint := replica.endpoint or endpoints.get(replica.name)) is not None and replica.state is not State.STOPPED
    )


def _same(former: UpstreamSpec | None, spec: UpstreamSpec) -> bool:
    """Whether a load balancer keeps its view of this worker: what it is asked for to see that it is well may be another path."""
    return former is not None and (former.host, former.port, former.state) == (spec.host, spec.port, spec.state)


def _word(replica: Replica) -> str:
    if replica.lost:
        return DOWN
    if replica.state in SERVING:
        return UP
    return DRAINING if replica.state is State.STOPPING and replica.alive else DOWN


class LbLink:
    """One control connection to a load balancer, non-blocking; `on_message(message)`, and `on_close()` once at its end."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        peer: socket.socket,
        on_message: Callable[[messages.Message], None],
        on_close: Callable[[], None],
    ) -> None:
        self.name = ""
        self._loop = loop
        self._peer = peer
        self._on_message = on_message
        self._on_close = on_close
        self._decoder = messages.Decoder()
        self._sending = b""
        self._queue: deque[tuple[bytes, bool]] = deque()
        self._closed = False
        peer.setblocking(False)
        loop.add_reader(peer, self._readable)

    def send(self, *batch: messages.Message, table: bool = False) -> None:
        """Queue messages, in order. A table takes the place of one that is still queued, so that a hung peer costs no more than one."""
        if self._closed:
            return
        idle = not self._sending
        if table:
            self._queue = deque(queued for queued in self._queue if not queued[1])
        self._queue.append((b"".join(messages.encode(message) for message in batch), table))
        if idle:
            self._writable()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._queue.clear()
        self._loop.remove_reader(self._peer)
        self._loop.remove_writer(self._peer)
        self._peer.close()
        self._on_close()

    def _writable(self) -> None:
        try:
            while self._sending or self._queue:
                if not self._sending:
                    self._sending = self._queue.popleft()[0]
                self._sending = self._sending[self._peer.send(self._sending) :]
        except BlockingIOError:
            self._loop.add_writer(self._peer, self._writable)
        except OSError:
            self.close()
        else:
            self._loop.remove_writer(self._peer)

    def _readable(self) -> None:
        try:
            data = self._peer.recv(65536)
            arrived = self._decoder.feed(data)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            self.close()
            return
        if not data:
            self.close()
            return
        for message in arrived:
            self._on_message(message)


class Router:
    """Tells every load balancer the table, and the sink what they answer."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sink: Sink, watchdog_timeout: float = 3.0, patient: bool = False) -> None:
        """`patient`: the workers may end at once when they are told to, so that a drain has to wait for what is in flight on them."""
        self._loop = loop
        self._sink = sink
        self._max_in_flight: int | None = None
        self._links: dict[str, LbLink] = {}
        self._applied: dict[str, int] = {}
        self._views: dict[str, dict[str, str | None]] = {}
        self._unheard: dict[str, dict[str, int]] = {}
        """By load balancer and worker: the version of the table from which on its word of that worker counts."""
        self._version = 0
        self._settled = 0
        self._patient = patient
        self._busy: dict[str, dict[str, int]] = {}
        self._asking: asyncio.TimerHandle | None = None
        self.watchdog_timeout = watchdog_timeout
        self._unanswered: dict[str, int] = {}
        self._watched_at = loop.time()
        self._watchdog = loop.call_later(WATCH_INTERVAL, self._watch)
        self.table: tuple[UpstreamSpec, ...] = ()

    def attach(self, name: str, instance: int, peer: socket.socket) -> None:
        """Take over the control connection of a load balancer that was just started or adopted."""
        self.detach(name)
        link = LbLink(self._loop, peer, lambda message: self._heard(link, instance, message), lambda: self._forget(link))
        link.name = name
        self._links[name] = link
        self._applied[name] = 0
        self._views[name] = {}
        self._unheard[name] = {}
        self._tell(link)

    def rename(self, former: str, name: str) -> None:
        """A load balancer is called otherwise from now on."""
        link = self._links.pop(former, None)
        if link is not None:
            link.name = name
            self._links[name] = link
            self._applied[name] = self._applied.pop(former)
            self._busy[name] = self._busy.pop(former, {})
            self._views[name] = self._views.pop(former)
            self._unheard[name] = self._unheard.pop(former)
            if former in self._unanswered:
                self._unanswered[name] = self._unanswered.pop(former)

    def configure(self, name: str, settings: messages.Message) -> None:
        """Give an adopted load balancer the settings that are wanted now, and ask how it sees the workers."""
        link = self._links.get(name)
        if link is not None:
            link.send(messages.settings(settings), messages.status())

    def detach(self, name: str) -> None:
        """Its load balancer is dead."""
        link = self._links.get(name)
        if link is not None:
            link.close()

    def limit(self, max_in_flight: int | None) -> None:
        """Let each load balancer have so many requests in flight on a worker (None: any number)."""
        if max_in_flight != self._max_in_flight:
            self._max_in_flight = max_in_flight
            self._version += 1
            for link in list(self._links.values()):
                self._tell(link)

    def publish(self, new: tuple[UpstreamSpec, ...]) -> None:
        """Make `new` the table, and tell it where it differs from the present one."""
        if new == self.table:
            return
        former = {spec.name: spec for spec in self.table}
        self._version += 1
        for spec in new:
            if spec.state == UP and not _same(former.get(spec.name), spec):
                for name, views in self._views.items():
                    views.pop(spec.name, None)
                    self._unheard[name][spec.name] = self._version
        self.table = new
        for link in list(self._links.values()):
            self._tell(link)
        self._settle()

    def views(self) -> dict[str, dict[str, str | None]]:
        """What each load balancer finds wrong with each worker that it has judged; None: nothing."""
        return {name: dict(view) for name, view in self._views.items()}

    def doubt(self, name: str, reason: str) -> None:
        """Have each load balancer check a worker at once, and meanwhile use the others."""
        for link in list(self._links.values()):
            link.send(messages.doubt(name, reason))

    def drain(self, name: str, grace: float) -> bool:
        """Ask a load balancer to drain; False when there is no connection to it."""
        link = self._links.get(name)
        if link is None:
            return False
        link.send(messages.drain(grace))
        return True

    def close(self) -> None:
        self._watchdog.cancel()
        if self._asking is not None:
            self._asking.cancel()
        for link in list(self._links.values()):
            link.close()

    def _watch(self) -> None:
        now = self._loop.time()
        punctual = now - self._watched_at < 1.5 * WATCH_INTERVAL
        self._watched_at = now
        self._watchdog = self._loop.call_later(WATCH_INTERVAL, self._watch)
        for name, link in list(self._links.items()):
            # Known only to those that were ready: one that starts has a deadline of its own.
            if name not in self._unanswered:
                continue
            self._unanswered[name] += punctual
            if is_hung(self._unanswered[name], self.watchdog_timeout):
                self._unanswered[name] = 0
                self._sink(name, None, Hung(f"hung: no answer for {self.watchdog_timeout:g} s"))
            else:
                link.send(messages.ping(self._version), table=False)

    def _tell(self, link: LbLink) -> None:
        link.send(messages.upstreams(self.table, self._max_in_flight), messages.ping(self._version), table=True)

    def _heard(self, link: LbLink, instance: int, message: messages.Message) -> None:
        name, kind = link.name, message["type"]
        if kind == "ready":
            self._unanswered[name] = 0
            self._sink(name, instance, Ready(message.get("at")))
        elif kind == "pong":
            self._unanswered[name] = 0
            self._applied[name] = int(message["id"])
            self._busy[name] = message.get("busy", {})
            self._settle()
        elif kind == "first":
            upstream = message.get("upstream")
            self._sink(upstream or name, None if upstream else instance, Answered(float(message["at"])))
        elif kind == "health":
            self._see(name, str(message["upstream"]), bool(message["healthy"]), str(message.get("reason") or ""))
        elif kind == "status":
            for upstream in message["upstreams"]:
                self._see(name, str(upstream["name"]), bool(upstream["healthy"]), "")

    def _see(self, name: str, upstream: str, healthy: bool, reason: str) -> None:
        if not healthy and not any(spec.name == upstream and spec.state == UP for spec in self.table):
            return  # It only repeats what it was told.
        if not healthy and self._applied[name] < self._unheard[name].get(upstream, 0):
            return  # It had not heard yet that this is another one, or has come up anew.
        self._views[name][upstream] = None if healthy else f"{name} finds: {reason or 'no answer'}"
        self._judge(upstream)

    def _judge(self, upstream: str) -> None:
        complaints = [complaint for views in self._views.values() if (complaint := views.get(upstream)) is not None]
        self._sink(upstream, None, Health(not complaints, complaints[0] if complaints else ""))

    def _forget(self, link: LbLink) -> None:
        name = link.name
        del self._links[name]
        del self._applied[name], self._unheard[name]
        self._busy.pop(name, None)
        self._unanswered.pop(name, None)
        for upstream in self._views.pop(name):
            self._judge(upstream)
        self._settle()

    def _settle(self) -> None:
        """Once every load balancer has applied the present table, its draining workers are drained; where that is waited for, once
        nothing is in flight on them, too."""
        if self._settled == self._version or any(applied < self._version for applied in self._applied.values()):
            return
        draining = [spec.name for spec in self.table if spec.state == DRAINING]
        busy = {name for counts in self._busy.values() for name in counts} if self._patient else set()
        if not busy.intersection(draining):
            self._settled = self._version
        elif self._asking is None:
            self._asking = self._loop.call_later(ASK_PAUSE, self._ask_again)
        for name in draining:
            if name not in busy:
                self._loop.call_soon(self._sink, name, None, Drained())

    def _ask_again(self) -> None:
        self._asking = None
        for link in list(self._links.values()):
            link.send(messages.ping(self._version))
