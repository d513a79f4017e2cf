"""CPU and memory of the replicas, by psutil, from one pass over the process table however many replicas there are.

A container's main process is its init, whose child does the work: what counts is the whole tree below a replica's PID. CPU is the
share of one core since the last look. Of the supervisor, whose children are replicas, only itself counts; its share it tells itself.
"""

import time
from collections.abc import Mapping

import psutil

from comet.snapshot import Usage

SUPERVISOR = "supervisor"
"""The name of the one that is looked at without what it has started."""

FIELDS = ["pid", "ppid", "cpu_times", "memory_info"]


class Sampler:
    """Remembers the last look, for rates. Not for concurrent use."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[int, float, float]] = {}

    def knows(self, pids: Mapping[str, int | None]) -> bool:
        """Whether a sample now would have a former one to compare with, for every PID."""
        return all(pid is None or self._before.get(name, (None,))[0] == pid for name, pid in pids.items())

    def sample(self, pids: Mapping[str, int | None]) -> dict[str, Usage]:
        """The usage of each name's process tree, and of SUPERVISOR itself. CPU is None at the first look at a PID."""
        table = {info["pid"]: info for process in psutil.process_iter(FIELDS) if (info := process.info)["cpu_times"] is not None}
        children: dict[int, list[int]] = {}
        for pid, info in table.items():
            children.setdefault(info["ppid"], []).append(pid)
        now = time.monotonic()
        return {name: self._one(name, pid, table, children, now) for name, pid in pids.items() if pid in table and pid is not None}

    def _one(self, name: str, root: int, table: Mapping[int, dict[str, object]], children: Mapping[int, list[int]], now: float) -> Usage:
        seconds, memory = 0.0, 0
        pending = [root]
        while pending:
            pid = pending.pop()
            times, held = table[pid]["cpu_times"], table[pid]["memory_info"]
            seconds += times.user + times.system  # type: ignore[attr-defined]
            memory += held.rss  # type: ignore[attr-defined]
            pending.extend(children.get(pid, ()) if name != SUPERVISOR else ())
        before = self._before.get(name)
        self._before[name] = (root, now, seconds)
        if before is None or before[0] != root or now <= before[1]:
            return Usage(None, memory)
        return Usage(round(max(0.0, seconds - before[2]) / (now - before[1]) * 100, 1), memory)
