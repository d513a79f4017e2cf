"""Remembers the signals that replicas were sent: which have yet to die of one, and which are stopped.

A replica that is killed is seen dead a moment later. Until then it is still ready, so a wait for readiness has to begin
with its death.
"""

import contextlib
from collections.abc import Callable

from comet.api.event_log import Event

SURVIVABLE = frozenset(("SIGCHLD", "SIGURG", "SIGWINCH", "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU"))
"""Signals that never end a process (signal(7)); any other does, unless the process handles or ignores it."""

SURVIVED = 3.0
"""Seconds beyond `shutdown_grace` after which a replica that got a signal counts as one that has handled it."""


class SentSignals:
    """The signals of one cluster's replicas; `stopped` are the names of those that were stopped and not continued."""

    def __init__(self) -> None:
        self.stopped: set[str] = set()
        self._deadly: dict[str, tuple[int, bool]] = {}
        """Number of the last event before the signal by replica, and whether it must die of the signal."""

    def note(self, name: str, signal: str, since: int) -> None:
        """Remember a signal, by its name, that was sent after the event number `since`."""
        if signal not in SURVIVABLE:
            self._deadly[name] = since, signal == "SIGKILL"
        elif signal == "SIGSTOP":
            self.stopped.add(name)
        elif signal == "SIGCONT":
            self.stopped.discard(name)

    def await_deaths(self, wait_for: Callable[..., Event], timeout: float, grace: float) -> None:
        """Return once each replica has died of its signal; raise TimeoutError if one does not within `timeout` seconds.

        One that may handle its signal has `grace` and SURVIVED seconds for it.
        """
        for name, (since, must_die) in list(self._deadly.items()):
            if must_die:
                wait_for("replica_exited", replica=name, timeout=timeout, since=since)
            else:
                with contextlib.suppress(TimeoutError):
                    wait_for("replica_exited", replica=name, timeout=min(timeout, grace + SURVIVED), since=since)
            del self._deadly[name]
