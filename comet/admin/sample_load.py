"""Sends requests to the cluster for a visitor of the page: at a constant rate, or as a demonstration of a minute.

The load is bounded in rate and time, and there is one at a time; what runs is shown as such in the cluster's state. It
runs on a thread of its own, and ends with the admin server. The demonstration's faults are leases, so that they end
even if the server dies.
"""

import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from comet.common.errors import Busy, UserError
from comet.state.directory import Cluster

if TYPE_CHECKING:
    import asyncio  # Imported where a load is started: most servers never do.

    from comet.load.closed_model import RequestSpec

MAX_OUTSTANDING = 64
TIMEOUT = 10.0
"""Seconds until a request that got no answer is given up."""

STOP_TIMEOUT = 5.0
"""Seconds that a load may take to end: its connections are closed, and the demonstration's faults are withdrawn."""


class SampleLoad:
    """The load of one admin server; `read_state` returns the latest message with the cluster's state, if any."""

    def __init__(self, cluster: Cluster, read_state: Callable[[], Mapping[str, Any] | None]) -> None:
        self._cluster = cluster
        self._read_state = read_state
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._shown: dict[str, Any] = {}
        self._ends_at = 0.0

    @property
    def state(self) -> dict[str, Any] | None:
        """What runs: its kind, the step of a demonstration, requests a second, and the seconds left; None: nothing."""
        thread = self._thread
        if thread is None or not thread.is_alive():
            return None
        return {**self._shown, "left_s": round(max(0.0, self._ends_at - time.monotonic()), 1)}

    def send(self, rate: float, seconds: float) -> dict[str, Any]:
        """Send requests at this rate for so long, in place of what runs; a rate of 0 ends it."""
        import asyncio

        from comet.load.closed_model import RequestSpec
        from comet.load.front import Front
        from comet.load.open_model import OpenModel

        addresses, request = self._front() if rate else ([], RequestSpec(""))

        async def work() -> None:
            model = OpenModel(addresses, [request], rate, lambda _: None, MAX_OUTSTANDING, TIMEOUT)
            front = Front(addresses, lambda: (self._read_state() or {}).get("replicas", ()), model.redirect)
            following = asyncio.create_task(front.follow())
            try:
                async with asyncio.timeout(seconds):
                    await model.send()
            except TimeoutError:
                pass
            finally:
                following.cancel()
                await model.end()

        with self._lock:
            self._stop()
            if rate:
                self._start(work, {"kind": "load", "name": None, "rate": rate}, seconds)
        return {"rate": rate, "for": seconds if rate else 0}

    def demonstrate(self) -> dict[str, Any]:
        """Play a minute of requests, deaths and a fault; Busy while one plays."""
        from comet.scenario.demo import scenario
        from comet.scenario.player import ScenarioPlayer

        addresses, request = self._front()
        state = self._read_state() or {}
        config = state["config"]
        custom = any(config.get(key) for key in ("worker-image", "worker-command", "upstreams"))
        plan = replace(scenario(state["replicas"], not custom or config.get("fault-point") == "lb"), path=request.path)
        workers = [row["name"] for row in state["replicas"] if row["role"] == "worker"]

        def show_step(line: str) -> None:
            self._shown = {**self._shown, "name": line.partition(": ")[2].partition(" (")[0] or line}

        player = ScenarioPlayer(plan, self._cluster, addresses, workers, show_step, tls=request.tls)
        with self._lock:
            if (self.state or {}).get("kind") == "demo":
                raise Busy("the demonstration is running")
            self._stop()
            shown = {"kind": "demo", "name": plan.steps[0].name, "rate": None}
            self._start(lambda: player.play("the page's demo"), shown, plan.seconds)
        return {"for": plan.seconds}

    def _front(self) -> "tuple[list[tuple[str, int]], RequestSpec]":
        """Return the addresses of the load balancers, and what to ask them for."""
        from comet.load.closed_model import RequestSpec

        state = self._read_state()
        balancers = [row["port"] for row in (state or {}).get("replicas", ()) if row["role"] == "lb"]
        if state is None or not balancers:
            raise UserError("there is no load balancer to send requests to")
        front = state["front"]
        request = RequestSpec(str(front["path"]), tls=front["scheme"] == "https")
        return [(front["host"], port) for port in balancers], request

    def _start(self, work: Callable[[], Awaitable[None]], shown: dict[str, Any], seconds: float) -> None:
        import asyncio

        ready = threading.Event()

        async def run() -> None:
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
            ready.set()
            await work()

        def body() -> None:
            try:
                asyncio.run(run())
            except (asyncio.CancelledError, UserError, OSError):
                pass  # It was stopped, or the supervisor is gone, which the page says.
            finally:
                ready.set()

        self._shown, self._ends_at = shown, time.monotonic() + seconds
        self._thread = threading.Thread(target=body, name="sample-load", daemon=True)
        self._thread.start()
        ready.wait()

    def _stop(self) -> None:
        if self._thread is None or not self._thread.is_alive() or self._loop is None or self._task is None:
            return
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(STOP_TIMEOUT)
        if self._thread.is_alive():
            raise Busy("what was started before is still ending; try again")
