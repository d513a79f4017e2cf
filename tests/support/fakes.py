"""A clock that moves when told, and a loop that remembers what is due."""

from collections.abc import Callable
from typing import Any

from comet.events.event import Event
from comet.reconcile.replica import ManagedReplica, ReplicaSpec
from comet.reconcile.restart_policy import RestartPolicy
from comet.supervisor.reconcile_loop import Supervisor
from tests.support.fake_driver import FakeDriver, Script, healthy


class Timer:
    def __init__(self, due: float, call: Callable[[], None]) -> None:
        self.due = due
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeTime:
    """Clock and timers of a loop in one: `advance` moves the clock and runs what falls due on the way, in order."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[Timer] = []

    def __call__(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Callable[..., None], *arguments: Any) -> Timer:
        timer = Timer(self.now + delay, lambda: call(*arguments))
        self.timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            self.timers = [timer for timer in self.timers if not timer.cancelled]
            due = min((timer for timer in self.timers if timer.due <= end), key=lambda timer: timer.due, default=None)
            if due is None:
                break
            self.timers.remove(due)
            self.now = max(self.now, due.due)
            due.call()
        self.now = end


class SupervisorHarness:
    """A supervisor over one fake driver."""

    def __init__(self, *specs: ReplicaSpec, script: Script = healthy, spread: float = 0.0) -> None:
        self.time = FakeTime()
        self.events: list[Event] = []
        self.supervisor = Supervisor(self.time, self.events.append, clock=self.time, spread=lambda: spread)  # type: ignore[arg-type]
        self.driver = FakeDriver(self.supervisor.observe, script)
        self.supervisor.drivers = {"fake": self.driver}
        for spec in specs:
            self.supervisor.add(ManagedReplica(spec))
        self.supervisor.tick()

    def state(self, name: str) -> str:
        return self.supervisor.replicas[name].state.value

    def event_names(self, name: str) -> list[str]:
        return [event.name for event in self.events if event.replica == name]


def spec(name: str, rank: int = 0, **changes: Any) -> ReplicaSpec:
    defaults: dict[str, Any] = {
        "role": "worker",
        "kind": "process",
        "driver": "fake",
        "port": 6000,
        "restart": RestartPolicy(),
    }
    return ReplicaSpec(name=name, rank=rank, **(defaults | changes))
