"""Measures CPU and memory of the replicas with psutil, in one pass over the process table.

A container's main process is its init, whose child does the work: so the whole process tree below a replica's PID
counts. CPU is the share of one core since the last sample. Of the supervisor, whose children are replicas, only the
process itself counts; it reports its CPU share itself.
"""

import time
from collections.abc import Mapping

from comet.telemetry.snapshot import Usage

SUPERVISOR = "supervisor"
"""The name of the process that is measured without its children."""

FIELDS = ["pid", "ppid", "cpu_times", "memory_info"]


class Sampler:
    """Samples CPU and memory, and remembers the last sample for rates. Not for concurrent use."""

    def __init__(self) -> None:
        self._previous: dict[str, tuple[int, float, float]] = {}

    def has_samples_of(self, pids: Mapping[str, int | None]) -> bool:
        """Whether, for every PID, an earlier sample exists with which a new one can be compared."""
        return all(pid is None or self._previous.get(name, (None,))[0] == pid for name, pid in pids.items())

    def sample(self, pids: Mapping[str, int | None]) -> dict[str, Usage]:
        """Return the usage of each name's process tree, and of SUPERVISOR without its children.

        CPU is None in the first sample of a PID.
        """
        import psutil  # Not at the top: most admin servers are never asked.

        table = {
            info["pid"]: info
            for process in psutil.process_iter(FIELDS)
            if (info := process.info)["cpu_times"] is not None
        }
        children: dict[int, list[int]] = {}
        for pid, info in table.items():
            children.setdefault(info["ppid"], []).append(pid)
        now = time.monotonic()
        return {
            name: self._tree_usage(name, pid, table, children, now)
            for name, pid in pids.items()
            if pid in table and pid is not None
        }

    def _tree_usage(
        self,
        name: str,
        root: int,
        table: Mapping[int, dict[str, object]],
        children: Mapping[int, list[int]],
        now: float,
    ) -> Usage:
        seconds, memory = 0.0, 0
        pending = [root]
        while pending:
            pid = pending.pop()
            times, memory_info = table[pid]["cpu_times"], table[pid]["memory_info"]
            seconds += times.user + times.system  # type: ignore[attr-defined]
            memory += memory_info.rss  # type: ignore[attr-defined]
            pending.extend(children.get(pid, ()) if name != SUPERVISOR else ())
        previous = self._previous.get(name)
        self._previous[name] = (root, now, seconds)
        if previous is None or previous[0] != root or now <= previous[1]:
            return Usage(None, memory)
        return Usage(round(max(0.0, seconds - previous[2]) / (now - previous[1]) * 100, 1), memory)
