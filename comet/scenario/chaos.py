"""Kills and freezes replicas of a running cluster at random while clients ask, and accounts for every request.

Requests fall due at a constant rate. One without an answer is explained by the end of the load balancer that had it,
by a kill or by a command: its connections end with it (docs/http.md promises no more). Every other error is
unexplained, and fails the run, as does a replica that is not ready again.
"""

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from comet.common.errors import UserError
from comet.events import journal
from comet.faults.files import FAULT_FILE_DELAY
from comet.faults.orders import Change
from comet.load.closed_model import RequestSpec, percentile_ms
from comet.load.front import FOLLOW_PAUSE, present
from comet.load.open_model import Address, CompletedRequest, OpenModel
from comet.scenario import CHAOS as KINDS
from comet.scenario.cluster_stop import unless_stopped
from comet.scenario.deaths import Deaths
from comet.scenario.victims import Chooser
from comet.state.control_socket import call
from comet.state.directory import Cluster

FREEZE_SECONDS = 1.0
"""Seconds until SIGCONT: less than the watchdog's time, so that nothing dies of it."""

OWNER = f"chaos (PID {os.getpid()})"

FAULT = Change({"failure": 50}, seconds=2, owner=OWNER)
"""The fault of one worker: its answers say that they are injected."""

DEATH_SPAN = 1.0
"""Seconds around the death of a load balancer in which its connections may end."""

SETTLE_TIMEOUT = 60.0
"""Seconds that the replicas have at the end to be ready again."""

CALL_TIMEOUT = 20.0


@dataclass(frozen=True)
class ChaosAction:
    """What was done to a replica, and when (monotonic seconds)."""

    action: str
    replica: str
    at: float


@dataclass
class ChaosRun:
    """One run on this cluster.

    `addresses` are those of the load balancers by name, also of those that a command has stopped. `absences` has the
    times between which each of these stops began: the load balancer was last seen before, and it was missed.
    """

    cluster: Cluster
    addresses: dict[str, Address]
    path: str
    seconds: float
    seed: int
    kinds: Sequence[str]
    rate: float
    timeout: float
    notify: Callable[[str], None]
    tls: bool = False
    actions: list[ChaosAction] = field(default_factory=list)
    requests: list[CompletedRequest] = field(default_factory=list)
    absences: list[tuple[str, float, float]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    complete: bool = False
    played: float = 0.0

    def __post_init__(self) -> None:
        self._chooser = Chooser(random.Random(self.seed), {kind: KINDS[kind] for kind in self.kinds})  # nosec B311
        self._deaths = Deaths(journal.Tail(self.cluster.path("events.jsonl")))
        self._frozen: set[str] = set()
        self._seen = dict.fromkeys(self.addresses, time.monotonic())

    def run(self) -> None:
        """Run to the end; what is frozen goes on and no fault is in effect any more, however this ends."""
        try:
            asyncio.run(self._run())
            self.complete = True
        finally:
            for name in list(self._frozen):
                self._thaw(name)
            self._clear_faults()

    async def _run(self) -> None:
        asks = [RequestSpec(self.path, tls=self.tls)]
        load = OpenModel(list(self.addresses.values()), asks, self.rate, self.requests.append, timeout=self.timeout)
        tasks = [asyncio.create_task(each) for each in (load.send(), self._follow(load))]
        try:
            await unless_stopped(self.cluster, self._act_all())
        finally:
            for task in tasks:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            await load.drained()
            await load.end()

    async def _follow(self, load: OpenModel) -> None:
        """Send to the load balancers that there are, as commands change them; one that has died is still sent to."""
        while True:
            with contextlib.suppress(UserError):  # Without a supervisor nothing changes them.
                looked = time.monotonic()
                self._note_balancers(await asyncio.to_thread(self._rows), looked)
                load.redirect([self.addresses[name] for name in self._seen] or list(self.addresses.values()))
            await asyncio.sleep(FOLLOW_PAUSE)

    def _note_balancers(self, rows: Sequence[Mapping[str, Any]], looked: float) -> None:
        host = next(iter(self.addresses.values()))[0]
        there = present(rows, {self.addresses[name][1] for name in self._seen})
        for name in self._seen.keys() - there.keys():
            self.absences.append((name, self._seen.pop(name), time.monotonic()))
        for name, port in there.items():
            self._seen[name], self.addresses[name] = looked, (host, port)

    async def _act_all(self) -> None:
        began = time.monotonic()
        ends = began + self.seconds
        try:
            while (left := ends - time.monotonic()) > 0:
                await asyncio.sleep(min(left, self._chooser.pause()))
                if time.monotonic() < ends:
                    await self._act()
        finally:
            self.played = min(self.seconds, round(time.monotonic() - began, 1))
        if not self.actions:
            await self._act()  # However short the run is: one in which nothing happens shows nothing.
        await self._settle()

    async def _act(self) -> None:
        kind = self._chooser.kind()
        rows = await asyncio.to_thread(self._rows)
        victim = self._chooser.victim(kind, rows)
        if victim is None:
            return
        name = str(victim["name"])
        action = ChaosAction(kind, name, time.monotonic())
        try:
            await asyncio.to_thread(self._do, kind, name)
        except UserError as error:  # It has just died, or is of a kind that nobody may kill.
            self.notify(f"  {kind} {name}: {error.message}")
            return
        self.actions.append(action)
        self.notify(f"  {kind} {name}")
        if kind == "freeze":
            await asyncio.sleep(FREEZE_SECONDS)
            await asyncio.to_thread(self._thaw, name)

    def _do(self, kind: str, name: str) -> None:
        if kind == "fault":
            self._call("faults", target=name, **FAULT.as_dict())
        elif kind == "freeze":
            self._frozen.add(name)
            self._call("kill", name=name, signal="STOP")
        else:
            with self._deaths.killing(name):
                self._call("kill", name=name, signal="KILL")

    def _thaw(self, name: str) -> None:
        with contextlib.suppress(UserError):  # It has died meanwhile.
            self._call("kill", name=name, signal="CONT")
        self._frozen.discard(name)

    def _clear_faults(self) -> None:
        if "fault" in self.kinds:  # Also one that was being ordered when this was interrupted.
            with contextlib.suppress(UserError):  # Without a supervisor they end with their leases.
                self._call("faults", target="all", **Change(clear=True, owner=OWNER).as_dict())
                time.sleep(FAULT_FILE_DELAY)

    async def _settle(self) -> None:
        """Wait until all replicas are ready again, for SETTLE_TIMEOUT at most."""
        self.notify("waiting until all replicas are ready again")
        ends = time.monotonic() + SETTLE_TIMEOUT
        while True:
            rows = await asyncio.to_thread(self._rows)
            self.left = [f"{row['name']} {row['state']}" for row in rows if row["state"] != "ready"]
            away = [name for name, ms in self._deaths.recoveries() if ms is None]
            if not self.left and not away:
                return
            if time.monotonic() > ends:
                self.left = self.left or [f"{name} not ready again" for name in dict.fromkeys(away)]
                return
            await asyncio.sleep(0.1)

    def _rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._call("picture")["replicas"]
        return rows

    def _call(self, command: str, **fields: Any) -> Any:
        try:
            return call(self.cluster, command, timeout=CALL_TIMEOUT, **fields)
        except ConnectionError as error:
            raise UserError(f"the supervisor no longer answers ({error})") from None

    def report(self) -> dict[str, Any]:
        """Return what was done, what clients saw, and the verdict."""
        found = Counter(self._outcome(request) for request in self.requests)
        unexplained = {what: count for what, count in found.items() if what not in ("ok", "injected", "explained")}
        times = [each.ended - each.due for each in self.requests if each.answer is not None]
        recoveries = self._deaths.recoveries()
        return {
            "complete": self.complete,
            "seconds": self.played,
            "seed": self.seed,
            "kinds": list(self.kinds),
            "actions": [
                {
                    "kind": kind,
                    "replica": replica,
                    "times": times_done,
                    "recovery_ms": _of(recoveries, replica) if kind in ("worker", "lb") else [],
                }
                for (kind, replica), times_done in sorted(
                    Counter((each.action, each.replica) for each in self.actions).items()
                )
            ],
            "requests": len(self.requests),
            "ok": found["ok"],
            "injected": found["injected"],
            "broken_with_lb": found["explained"],
            "unexplained": dict(sorted(unexplained.items())),
            "p50_ms": percentile_ms(times, 50),
            "p99_ms": percentile_ms(times, 99),
            "not_ready": self.left,
            "passed": self.complete and not unexplained and not self.left and bool(self.requests and self.actions),
        }

    def _outcome(self, request: CompletedRequest) -> str:
        """Return `ok`, `injected`, `explained`, or what the unexplained error is."""
        answer = request.answer
        if answer is not None:
            return "ok" if 200 <= answer.status < 400 else "injected" if answer.injected else str(answer.status)
        lb = next((name for name, address in self.addresses.items() if address == request.address), "")
        # The loop's clock is the monotonic one.
        died = any(
            each.action == "lb" and each.replica == lb and request.sent - DEATH_SPAN <= each.at <= request.ended
            for each in self.actions
        )
        left = any(
            name == lb and request.sent <= missed and seen <= request.ended for name, seen, missed in self.absences
        )
        return "explained" if died or left else request.failure


def _of(recoveries: Sequence[tuple[str, float | None]], name: str) -> list[float]:
    return [round(ms, 1) for replica, ms in recoveries if replica == name and ms is not None]
