"""Explains to the user why a replica does not become ready.

The report is the reason and the replica's last output, which is gone once the replica is removed.
"""

from collections.abc import Callable

from comet.events import exit_markers
from comet.events.event import exit_text
from comet.reconcile.replica import Replica, public_name
from comet.runtimes import logs
from comet.state.directory import Cluster

LINES = 12

WIDTH = 1000
"""Maximum number of characters quoted of a line."""


def of(cluster: Cluster, replica: Replica, hint_of: Callable[[Replica], str]) -> str:
    """Return the report of a replica's failure; `hint_of` says what keeps it from its port, if anything does.

    It asks the engine where the replica is a container, so it must not run on the event loop's thread.
    """
    ended = f"it ended {replica.failures} times in a row"
    if replica.last_exit is not None:
        ended += f" ({exit_text(replica.last_exit.code, replica.last_exit.signal, replica.last_exit.oom)})"
    log = _lines(cluster, replica)
    hint = hint_of(replica)
    quoted = "".join(f"\n  | {line}" for line in log)
    return (
        f"{replica.reason or ended}" + (f"; {hint}" if hint else "") + (f"; its last log lines:{quoted}" if log else "")
    )


def _lines(cluster: Cluster, replica: Replica) -> list[str]:
    """Return the last lines that the replica printed in the life that failed."""
    name = public_name(replica.name)
    printed = exit_markers.last_life(logs.recent(cluster, name, replica.spec.kind), name, is_over=not replica.reason)
    lines = printed.decode(errors="replace").split("\n")
    shown = [line.rstrip("\r") for line in lines[:-1] + lines[-1:] * bool(lines[-1])][-LINES:]
    return [line if len(line) <= WIDTH else f"{line[:WIDTH]} …" for line in shown]
