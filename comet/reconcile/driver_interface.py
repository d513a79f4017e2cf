"""The interface of all drivers. No call waits: its outcome is reported to the sink, on the loop's thread.

A driver addresses replicas by name. It adds the number of the instance to every observation, so that a report about an
earlier instance is never applied to the current one.
"""

from collections.abc import Callable
from typing import Protocol

from comet.reconcile.observations import Observation
from comet.reconcile.replica import ReplicaSpec

Sink = Callable[[str, int | None, Observation], None]
"""Called with (name, instance, observation); instance None means the current one."""


class Driver(Protocol):
    def start(self, spec: ReplicaSpec, instance: int) -> None:
        """Start an instance -> Started or StartFailed; Exited when it ends."""

    def drain(self, name: str) -> None:
        """Let it finish its requests and accept no new ones -> Drained or Exited, where that can be observed.

        By default nothing is done: the router has the load balancers drain a worker, and reports when that is done.
        """
        return

    def terminate(self, name: str) -> None:
        """Send SIGTERM -> Exited."""

    def kill(self, name: str, signal: int) -> None:
        """Send a signal; SIGKILL -> Exited."""

    def remove(self, name: str) -> None:
        """Remove everything that is left of it -> Removed."""

    def release(self, name: str) -> None:
        """Give up what is held for later instances, if anything is: it will not be started again."""
        return

    def rename(self, former: str, name: str) -> None:
        """Call the replica `former` by the name `name` from now on; only a hand-over of a socket needs that."""
        raise ValueError(f"{former}: it keeps its name")

    def close(self) -> None:
        """Close the driver's own threads and connections; replicas stay as they are."""
        return
