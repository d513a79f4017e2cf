"""A driver that starts nothing: it keeps what it was told and answers as its script says."""

from collections.abc import Callable, Mapping

from comet.reconcile.driver_interface import Sink
from comet.reconcile.observations import Drained, Exit, Exited, Observation, Ready, Removed, Started, StartFailed
from comet.reconcile.replica import ReplicaSpec

Script = Callable[[str, int], tuple[Observation, ...]]
"""(name, instance) -> what is seen at once after a start."""


def healthy(name: str, instance: int) -> tuple[Observation, ...]:
    """Everything starts and is ready at once."""
    return (Started(1000 + instance, f"{name}.{instance}"), Ready())


def slow(name: str, instance: int) -> tuple[Observation, ...]:
    """Everything exists at once and is not ready yet."""
    return (Started(1000 + instance, f"{name}.{instance}"),)


def broken(name: str, instance: int) -> tuple[Observation, ...]:
    """Nothing can be started."""
    return (StartFailed("no such file"),)


class FakeDriver:
    """Obeys at once: drained when asked to, dead when killed or terminated, unless it is `stubborn`. News of a kind in
    `lost` never arrive; `look_again` then tells of the dead, as a driver does that finds out by a look what no event
    told it.
    """

    def __init__(self, sink: Sink, script: Script = healthy) -> None:
        self._sink = sink
        self.script = script
        self.calls: list[tuple[str, str]] = []
        self.alive: dict[str, int] = {}
        self.doubled: list[str] = []
        self.stubborn = False
        self.lost: frozenset[type[Observation]] = frozenset()

    def start(self, spec: ReplicaSpec, instance: int) -> None:
        self.calls.append(("start", spec.name))
        if spec.name in self.alive:
            self.doubled.append(spec.name)
        for observation in self.script(spec.name, instance):
            if isinstance(observation, Started):
                self.alive[spec.name] = instance
            self._notify(spec.name, instance, observation)

    def drain(self, name: str) -> None:
        self.calls.append(("drain", name))
        if not self.stubborn:
            self._notify(name, self.alive.get(name), Drained())

    def terminate(self, name: str) -> None:
        self.calls.append(("terminate", name))
        if not self.stubborn:
            self.die(name, Exit(code=0))

    def kill(self, name: str, signal: int) -> None:
        self.calls.append(("kill", name))
        if name in self.alive:
            self.die(name, Exit(code=-signal, signal="SIGKILL"))
        else:
            self._notify(name, None, Exited())

    def remove(self, name: str) -> None:
        self.calls.append(("remove", name))
        self.alive.pop(name, None)
        self._notify(name, None, Removed())

    def release(self, name: str) -> None:
        self.calls.append(("release", name))

    def rename(self, former: str, name: str) -> None:
        self.calls.append((f"rename to {name}", former))
        if former in self.alive:
            self.alive[name] = self.alive.pop(former)

    def close(self) -> None:
        self.alive.clear()

    def die(self, name: str, exit: Exit = Exit(code=1)) -> None:  # noqa: B008 - frozen
        """The present instance ends; nothing where none lives."""
        instance = self.alive.pop(name, None)
        if instance is not None:
            self._notify(name, instance, Exited(exit))

    def look_again(self, believed: Mapping[str, int]) -> None:
        """Tell of those among the instances `believed` to live that are dead."""
        for name, instance in believed.items():
            if self.alive.get(name) != instance:
                self._notify(name, instance, Exited())

    def _notify(self, name: str, instance: int | None, observation: Observation) -> None:
        if type(observation) not in self.lost:
            self._sink(name, instance, observation)

    def verbs(self, name: str) -> list[str]:
        return [verb for verb, called in self.calls if called == name]
