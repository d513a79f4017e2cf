"""Carries out what operators order of the traffic: drain and undrain a worker, pause and resume all requests.

An order has been carried out once every load balancer has acknowledged it. One that starts later, or that a supervisor
adopts, begins with the effective orders, which are kept in the cluster's folder. Load balancers end a pause with an end
by themselves, so that no supervisor is needed for that.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from math import inf
from typing import Any

from comet.balancers.router import Router
from comet.common.errors import UserError, os_error_text
from comet.events.event import Event
from comet.reconcile.replica import Replica, event
from comet.state import traffic_orders
from comet.state.directory import Cluster
from comet.state.traffic_orders import TrafficOrders
from lb.interface.settings import FOREVER


class TrafficControl:
    """The orders of one cluster, on the loop's thread."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, cluster: Cluster, router: Router, notify: Callable[[Event], None]
    ) -> None:
        self._loop = loop
        self._cluster = cluster
        self._router = router
        self._notify = notify
        self._orders = TrafficOrders()
        self._end_of_pause: asyncio.TimerHandle | None = None

    @property
    def paused(self) -> bool:
        return self._orders.paused_until is not None

    def open(self, workers: Iterable[str]) -> None:
        """Continue with the orders of an earlier supervisor that concern these workers."""
        found = traffic_orders.read(self._cluster)
        self._orders = replace(found, drained=found.drained & frozenset(workers))
        self._apply()

    def close(self) -> None:
        if self._end_of_pause is not None:
            self._end_of_pause.cancel()

    async def drain(self, worker: Replica) -> dict[str, Any]:
        """Let no load balancer send requests to a worker, whatever becomes of it, until `undrain`."""
        return await self._set_drained(worker, True, "drained")

    async def undrain(self, worker: Replica) -> dict[str, Any]:
        return await self._set_drained(worker, False, "undrained")

    def forget(self, names: Iterable[str]) -> None:
        """Forget the orders for workers that no longer exist: a later one of the same name is another one."""
        left = self._orders.drained.difference(names)
        if left != self._orders.drained:
            self._keep(replace(self._orders, drained=left))

    async def pause(self, seconds: float | None) -> dict[str, Any]:
        """Let requests wait in the load balancers, for these seconds or until `resume`."""
        until = inf if seconds is None else time.monotonic() + seconds
        self._keep(replace(self._orders, paused_until=until))
        # Before the wait, in which a short pause may end.
        self._notify(Event("paused", None, {} if seconds is None else {"for_s": seconds}))
        await self._router.applied()
        return {"paused": True, "for_s": seconds}

    async def resume(self) -> dict[str, Any]:
        changed = self.paused
        self._keep(replace(self._orders, paused_until=None))
        await self._router.applied()
        if changed:
            self._notify(Event("resumed", None, {"cause": "command"}))
        return {"paused": False, "changed": changed}

    async def _set_drained(self, worker: Replica, drained: bool, name: str) -> dict[str, Any]:
        changed = drained != (worker.name in self._orders.drained)
        if changed:
            self._keep(replace(self._orders, drained=self._orders.drained ^ {worker.name}))
        await self._router.applied()
        if changed:
            self._notify(event(name, worker))
        return {"name": worker.name, "drained": drained, "changed": changed}

    def _keep(self, orders: TrafficOrders) -> None:
        """Write the orders, then send them; UserError where they cannot be written, and nothing has changed then."""
        if orders == self._orders:
            return
        try:
            traffic_orders.write(self._cluster, orders)
        except OSError as error:
            path = self._cluster.path(traffic_orders.FILE)
            raise UserError(f"{path}: cannot be written: {os_error_text(error)}; nothing was changed") from None
        self._orders = orders
        self._apply()

    def _apply(self) -> None:
        self.close()
        until = self._orders.paused_until
        self._router.order(self._orders.drained, 0.0 if until is None else min(until, FOREVER))
        if until is not None and until < FOREVER:
            self._end_of_pause = self._loop.call_at(self._loop.time() + until - time.monotonic(), self._on_end_of_pause)

    def _on_end_of_pause(self) -> None:
        """Note the end of a pause, which the load balancers end by themselves."""
        try:
            self._keep(replace(self._orders, paused_until=None))
        except UserError:  # The disk is full. The file says when the pause has ended, so it does no harm.
            self._orders = replace(self._orders, paused_until=None)
            self._apply()
        self._notify(Event("resumed", None, {"cause": "time"}))
