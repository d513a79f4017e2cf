"""Decides what became of a container, from its known state and its present state. Pure.

Others start, stop and restart containers, too: the engine itself (`docker update --restart=always`), a person, another
program. Events about that may arrive late, twice, in another order or never. So no event decides: an event only
triggers an inspection, which compares the known life with the present one. A container has many lives; each is
identified by the time when it began (`State.StartedAt`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from comet.common.clock import parse
from comet.engine.exit_status import KILLED, of_container
from comet.reconcile.observations import Exit
from comet.reconcile.replica import ReplicaSpec

INSPECTED_EVENTS = ("die", "start", "restart", "stop", "pause", "unpause", "destroy")
"""The events after which a container is inspected."""

OOM_WINDOW = 3.0
"""Seconds from a kill for want of memory to the end of the container that it causes."""


@dataclass
class Known:
    """What is known of a replica's container.

    `life` is when its present life began, by the engine's clock ("": not known).
    """

    spec: ReplicaSpec
    instance: int
    id: str | None = None
    running: bool = False
    failed_starts: int = 0
    life: str = ""
    pid: int = 0


class Verdict(Enum):
    SAME = "the life that is known goes on"
    DIED = "it has ended"
    REPLACED = "it has ended, and another program has begun a new one"
    RUNS = "it was thought to be dead and runs"
    DEAD = "it is dead as it was known to be"


def runs(state: Mapping[str, Any]) -> bool:
    """Return whether a container's State is that of a living container.

    The engine says "running" also for a container that it is about to restart.
    """
    return bool(state.get("Running")) and not state.get("Restarting")


def compare(running: bool, life: str, state: Mapping[str, Any]) -> Verdict:
    """Return the verdict of an inspection.

    `running` and `life` are what was known ("": it is not known when the life began), `state` is the present State ({}:
    no container).
    """
    if not runs(state):
        return Verdict.DIED if running else Verdict.DEAD
    if not running:
        return Verdict.RUNS
    return Verdict.REPLACED if life and began(state) not in ("", life) else Verdict.SAME


def began(state: Mapping[str, Any]) -> str:
    return str(state.get("StartedAt") or "")


def is_earlier(record: Mapping[str, Any], life: str) -> bool:
    """Return whether an event is about a time before this life."""
    start = parse(life) if life else None
    at = record.get("timeNano")
    return start is not None and isinstance(at, int) and at / 1e9 < start


def publishes(seen: Mapping[str, Any], port: int) -> bool:
    """Return whether a running container can be reached at its port."""
    return bool(((seen.get("NetworkSettings") or {}).get("Ports") or {}).get(f"{port}/tcp"))


def ended(state: Mapping[str, Any], killed_at: float | None, noticed: float) -> Exit:
    """Return the exit of a container's State, whose ExitCode is 128 + N for signal N (docker run(1)).

    `state` is {} where nothing could be read. `noticed` is the wall time at which the death was noticed, `killed_at`
    that of the last kill for want of memory, where it is known.
    """
    code = None if state.get("ExitCode") is None else int(state["ExitCode"])
    oom = code == KILLED and _by_memory(state, killed_at, noticed)
    return of_container(code, str(state.get("FinishedAt", "")), noticed, oom)


def _by_memory(state: Mapping[str, Any], killed_at: float | None, noticed: float) -> bool:
    """Return whether memory, and no one's signal, killed a container.

    OOMKilled also means that the kernel once killed a child, which the container may have survived for days.
    """
    if killed_at is None:
        return bool(state.get("OOMKilled"))
    return (parse(str(state.get("FinishedAt", ""))) or noticed) - killed_at <= OOM_WINDOW
