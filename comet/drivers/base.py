"""What every driver offers. None of the calls waits: what comes of one is told to the sink, in the loop's thread.

A driver is told names; it knows the present instance behind a name and gives its number with every observation, so that news of a
former instance is never taken for news of the present one.
"""

from collections.abc import Callable
from typing import Protocol

from comet.observation import Observation
from comet.replica import ReplicaSpec

Sink = Callable[[str, int | None, Observation], None]
"""(name, instance, observation); instance None speaks of whichever is present."""


class Driver(Protocol):
    def start(self, spec: ReplicaSpec, instance: int) -> None:
        """Bring it to life -> Started or StartFailed; whenever it ends -> Exited."""

    def drain(self, name: str) -> None:
        """Let it finish what it has and take nothing new -> Drained or Exited, if it can tell."""

    def terminate(self, name: str) -> None:
        """Ask it to end (SIGTERM) -> Exited."""

    def kill(self, name: str, signal: int) -> None:
        """Send it a signal as an outsider would; SIGKILL -> Exited."""

    def remove(self, name: str) -> None:
        """Leave nothing of it -> Removed."""

    def release(self, name: str) -> None:
        """It will not be started again: let go of what is held for its successors."""

    def rename(self, former: str, name: str) -> None:
        """The replica known as `former` is called `name` from now on; nobody else is."""

    def close(self) -> None:
        """Give up threads and connections of the driver's own; replicas are left as they are."""
