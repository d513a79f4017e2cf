"""Plays a scenario on the running cluster.

Commands go through the cluster's supervisor; the clients run in this process.

Every fault is a lease that outlasts its step by a few seconds at most, so it expires even if this process is killed. It
is renewed where the step's actions take longer. When the scenario ends for any other reason, the faults are withdrawn
at once, and it returns once none is in effect.

The requests of a step begin once its faults are in effect, and those of the step before have begun before they were
ordered. So a request meets the faults of its step alone, unless it is in flight while they change. What a step does to
replicas it does under load.
"""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from comet.common.errors import UserError
from comet.config.fault_settings import FRONT
from comet.events import journal
from comet.faults.files import FAULT_FILE_DELAY
from comet.faults.orders import Change
from comet.load.closed_model import RequestSpec, ResultCounts, total
from comet.load.front import Front
from comet.scenario.actions import Action
from comet.scenario.client_command import ClientCommand
from comet.scenario.cluster_stop import ClusterStopped, unless_stopped
from comet.scenario.deaths import Deaths
from comet.scenario.expectations import Finding, Outcome, judged
from comet.scenario.file import Scenario, Step, scaled_names
from comet.scenario.load import Load
from comet.scenario.undo import Undo
from comet.state.control_socket import NotAnswering, call
from comet.state.directory import Cluster
from lb.system.process_setup import not_ignored

INTERRUPT_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

OVERLAP = 2.0
"""Seconds by which a lease outlasts its step, so that no gap opens before the lease is withdrawn."""

RENEWAL = 5.0
"""Seconds of a lease that is ordered again because its step lasts longer than it should."""

QUICK_TIMEOUT = 20.0
"""Seconds for a command that a supervisor answers at once."""

OPERATION_TIMEOUT = 3600.0
"""Seconds for a restart, a reload or a change of the number of replicas."""

CLIENT_POLL_PAUSE = 0.05
"""Seconds between two looks whether the user's client has ended."""

SLOW_COMMANDS = ("restart", "scale", "reload")


class Unreachable(UserError):
    """No supervisor runs any more."""


@dataclass
class PlayedStep:
    """A step, how long it took, what clients saw, and what became of the cluster."""

    step: Step
    counts: ResultCounts
    seconds: float = 0.0
    outcome: Outcome = field(default_factory=Outcome)


@dataclass
class ScenarioPlayer:
    """One run of a scenario; `report` returns its results even if it was interrupted.

    `client` is the command of the user's own client, if there is one, and `urls` what it gets.
    """

    scenario: Scenario
    cluster: Cluster
    addresses: list[tuple[str, int]]
    workers: Collection[str]
    notify: Callable[[str], None]
    client: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    tls: bool = False
    interrupted: int | None = None
    _played: list[PlayedStep] = field(default_factory=list)
    _owner: str = ""
    _has_faults: bool = False
    _complete: bool = False
    _left: list[str] = field(default_factory=list)
    """The orders that would undo what steps did, where no supervisor took them."""
    _command: ClientCommand | None = None
    _front: Front = field(init=False)
    _undo: Undo = field(default_factory=Undo)

    def __post_init__(self) -> None:
        self._choice = random.Random(self.scenario.seed)  # nosec B311  # experiments are repeated by their seed
        self._deaths = Deaths(journal.Tail(self.cluster.path("events.jsonl")))

    def run(self) -> None:
        """Play the scenario to its end, or until one of INTERRUPT_SIGNALS arrives.

        On a signal, `interrupted` is its number. Raises UserError, always with exit code 1, if the supervisor cannot be
        reached or refuses what a step does.
        """
        name = os.path.basename(self.scenario.file)
        self._owner = f"{name} (PID {os.getpid()})"
        asyncio.run(self._run())

    def report(self) -> dict[str, Any]:
        """Return what the clients observed, by step and in total, and which expectations hold."""
        steps = [
            {"step": each.step.name, "seconds": round(each.seconds, 1), **each.counts.as_dict()}
            for each in self._played
        ]
        seconds = round(sum(each.seconds for each in self._played), 1)
        findings = list(self._findings())
        client = None if self._command is None else self._command.as_dict()
        return {
            "scenario": os.path.basename(self.scenario.file),
            "description": self.scenario.description,
            "complete": self._complete,
            "seed": self.scenario.seed,
            "steps": steps,
            "total": {"seconds": seconds, **self._total().as_dict()},
            "expectations": [finding.as_dict() for finding in findings],
            "passed": self._complete
            and not self._left
            and all(finding.holds for finding in findings)
            and (client is None or client["exit_code"] == 0),
            "client": client,
        }

    def _total(self) -> ResultCounts:
        return total([each.counts for each in self._played])

    def _findings(self) -> Iterator[Finding]:
        for each in self._played:
            for expectation in each.step.expected:
                yield judged(each.step.name, expectation, each.counts, each.outcome)
        if self._played:
            recoveries = [pair for each in self._played for pair in each.outcome.recoveries]
            stopped = dict.fromkeys(name for each in self._played for name in each.outcome.stopped)
            last = Outcome(recoveries, self._played[-1].outcome.states, list(stopped))
            for expectation in self.scenario.expected:
                yield judged(None, expectation, self._total(), last)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._steps())

        def interrupt(number: int) -> None:
            self.interrupted = number
            task.cancel()
            # A second signal ends this process at once; the leases then expire by themselves.
            for each in INTERRUPT_SIGNALS:
                loop.remove_signal_handler(each)

        for number in not_ignored(*INTERRUPT_SIGNALS):
            loop.add_signal_handler(number, interrupt, number)
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def play(self, owner: str) -> None:
        """Play the scenario as a task of a running loop; cancelled, it withdraws its faults first."""
        self._owner = owner
        task = asyncio.create_task(self._steps())
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            self.interrupted = signal.SIGTERM
            task.cancel()
            await asyncio.wait([task])
            raise

    async def _steps(self) -> None:
        plan = self.scenario
        request = RequestSpec(plan.path, plan.method, plan.body.encode(), plan.headers, self.tls)
        load = Load(self.addresses, request, plan.timeout)
        self._front = Front(self.addresses, self._rows, load.redirect)
        following = asyncio.create_task(self._front.follow())
        is_over = False
        try:
            await unless_stopped(self.cluster, self._steps_with(load))
            self._complete = True
        except ClusterStopped:
            is_over = True
            raise
        except UserError as error:
            error.exit_code = 1  # What a command refuses as bad usage comes after the steps before it.
            raise
        finally:
            following.cancel()
            if not is_over:
                # Withdraw the faults first, so that requests which hang on them can end.
                await asyncio.to_thread(self._clear_faults)
            if self.interrupted is None and not is_over:
                await load.stop()
            await load.end()
            if self._command is not None:
                self._command.end()

    async def _steps_with(self, load: Load) -> None:
        await self._front.look()
        for number, step in enumerate(self.scenario.steps, 1):
            self.notify(f"step {number} of {len(self.scenario.steps)}: {step.name} ({step.seconds:g} s)")
            await self._step(step, load)
        await self._await_client()

    async def _await_client(self) -> None:
        if self._command is not None and self._command.exit_code is None:
            self.notify("the steps are over: waiting for the client to end (Ctrl-C ends it)")
            while self._command.exit_code is None:
                await asyncio.sleep(CLIENT_POLL_PAUSE)

    async def _step(self, step: Step, load: Load) -> None:
        started = time.monotonic()
        played = PlayedStep(step, ResultCounts())
        self._played.append(played)
        self._deaths.forget()
        orders = self._fault_orders(step)
        renewing = asyncio.create_task(self._renew_faults(step, orders))
        try:
            if orders:
                load.hold()
                await _to_its_end(self._order_faults, step, orders, step.seconds + OVERLAP)
                if set(orders) != {FRONT}:
                    await asyncio.sleep(FAULT_FILE_DELAY)
            started = time.monotonic()
            if self.client and self._command is None:
                self._command = ClientCommand(self.client, self.urls)
            played.counts = load.start(step)
            await _to_its_end(self._act_all, step)
            await self._pass_time(step, started)
            played.outcome = await asyncio.to_thread(self._outcome, step)  # While its faults hold.
        finally:
            played.seconds = time.monotonic() - started
            renewing.cancel()
            await asyncio.wait([renewing])
            if not renewing.cancelled() and (problem := renewing.exception()) is not None:
                raise problem

    async def _pass_time(self, step: Step, started: float) -> None:
        """Return at the end of the step; its kills are repeated meanwhile."""
        ends, again = started + step.seconds, step.every or step.seconds
        while (left := ends - time.monotonic()) > 0:
            await asyncio.sleep(min(left, again))
            if step.every is not None and time.monotonic() < ends:
                await asyncio.to_thread(self._kill, step)

    def _fault_orders(self, step: Step) -> Mapping[str, dict[str, Any]]:
        """Return the faults to order, by target; none where the step has none and the one before had none."""
        used = {target for each in self.scenario.steps for target in each.faults}
        return targets(step, self.workers, used) if step.faults or self._has_faults else {}

    async def _renew_faults(self, step: Step, orders: Mapping[str, dict[str, Any]]) -> None:
        """Order the faults again where the step lasts longer than they do: until its actions are done."""
        pause = step.seconds + OVERLAP / 2
        while step.faults:
            await asyncio.sleep(pause)
            with contextlib.suppress(UserError):  # Whatever else the step does says so.
                await _to_its_end(self._order_faults, step, orders, RENEWAL + OVERLAP)
            pause = RENEWAL + OVERLAP / 2

    def _order_faults(self, step: Step, orders: Mapping[str, dict[str, Any]], seconds: float) -> None:
        self._has_faults = self._has_faults or bool(step.faults)
        for target, settings in orders.items():
            change = (
                Change(settings, seconds=round(seconds, 3), owner=self._owner)
                if settings
                else Change(clear=True, owner=self._owner)
            )
            self._call("faults", target=target, **change.as_dict())
        self._has_faults = bool(step.faults)

    def _act_all(self, step: Step) -> None:
        self._kill(step)
        for action in step.actions:
            self._act(action)

    def _kill(self, step: Step) -> None:
        if step.kill:
            self._act(Action("kill", step.kill, {"signal": "KILL"}))

    def _act(self, action: Action) -> None:
        """Do an action; a kill or a signal needs no live replica."""
        for command, fields in action.orders(self._names() if action.names else [], self._choice):
            with contextlib.suppress(UserError) if command == "kill" else contextlib.nullcontext():
                leaving = self._leaving(action)
                is_death = command == "kill" and _signal(fields) == "KILL"
                with (
                    self._deaths.killing(fields["name"]) if is_death else contextlib.nullcontext(),
                    self._front.without(leaving) if leaving else contextlib.nullcontext(),
                ):
                    before = self._call("picture")["total"] if command == "pause" else {}
                    done = self._call(command, **fields)
                self.workers = scaled_names(action, "worker", self.workers)
                self.notify(f"  {command} {' '.join(str(value) for value in fields.values())}".rstrip())
                self._remember(command, fields, done, before)

    def _leaving(self, action: Action) -> Collection[str]:
        """Return the load balancers that an action stops for good."""
        if action.command != "scale":
            return ()
        return set(self._front.ports) - set(scaled_names(action, "lb", self._front.ports))

    def _remember(
        self, command: str, fields: Mapping[str, Any], done: Mapping[str, Any], before: Mapping[str, Any]
    ) -> None:
        """Note what has to be undone at the end; `before` is the cluster's total before a pause."""
        if command in ("drain", "undrain") and done["changed"]:
            self._undo.changed_drain(command, fields["name"])
        elif command == "kill" and _signal(fields) == "STOP":
            self._undo.stopped(fields["name"])
        elif command == "pause":
            self._undo.paused(fields["for"], before)
        elif command == "resume":
            self._undo.resumed()

    def _names(self) -> list[str]:
        return [row["name"] for row in self._rows()]

    def _rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._call("picture")["replicas"]
        return rows

    def _outcome(self, step: Step) -> Outcome:
        """Return what became of the cluster in a step; nothing where nobody asks, or the supervisor is gone."""
        if not (step.expected or self.scenario.expected):
            return Outcome()
        try:
            states = {row["name"]: row["state"] for row in self._rows()}
        except UserError:
            states = {}
        return Outcome(self._deaths.recoveries(), states, self._deaths.stopped())

    def _clear_faults(self) -> None:
        for command, fields in self._undo.orders():
            try:
                self._call(command, **fields)
            except (Unreachable, NotAnswering) as error:
                self._left.append(f"{command} {fields.get('name', '')}".rstrip())
                self.notify(f"{error.message}; what a step did stays until: python supervisor.py {self._left[-1]}")
            except UserError:  # It is dead, or has been undone by a step.
                continue
        if not self._has_faults:
            return
        try:
            self._call("faults", target="all", **Change(clear=True, owner=self._owner).as_dict())
        except UserError as error:
            self.notify(f"{error.message}; the scenario's faults end with their leases")
        else:
            time.sleep(FAULT_FILE_DELAY)  # What comes after the scenario meets none of them.

    def _call(self, command: str, **fields: Any) -> Any:
        timeout = OPERATION_TIMEOUT if command in SLOW_COMMANDS else QUICK_TIMEOUT
        try:
            return call(self.cluster, command, timeout=timeout, **fields)
        except ConnectionError as error:
            raise Unreachable(f"the supervisor no longer answers ({error})") from None


def _signal(fields: Mapping[str, Any]) -> str:
    return str(fields["signal"]).upper().removeprefix("SIG")


async def _to_its_end(command: Callable[..., None], *arguments: Any) -> None:
    """Run a command in a thread; an interrupt waits for it, as it must not take effect after its withdrawal."""
    running = asyncio.ensure_future(asyncio.to_thread(command, *arguments))
    try:
        await asyncio.shield(running)
    finally:
        await running


def targets(step: Step, workers: Collection[str], used: Collection[str]) -> Mapping[str, dict[str, Any]]:
    """Return the fault commands for a step: one for `all` if all workers get the same faults, else one per worker.

    `used` are the targets of the whole scenario: others are left alone. The front's command comes last, as one for
    `all` that clears faults clears the front's too.
    """
    wanted = {name: step.settings(name) for name in workers} if set(used) - {FRONT} else {}
    per_worker = list(wanted.values())
    same = per_worker and all(each == per_worker[0] for each in per_worker)
    front = {FRONT: step.settings(FRONT)} if FRONT in used else {}
    return ({"all": per_worker[0]} if same else wanted) | front
