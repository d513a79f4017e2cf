"""What the events tell about deaths and returns: restarts by reason, and how long each recovery took, step by step, up to when it was heard
that the replica is ready. Pure.

Folded over the records of the journal as they are written, so that it costs nothing to ask.
"""

from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

from comet.wallclock import parse

Record = Mapping[str, Any]

BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper edges of the histogram of recovery times; its last count is of what took longer."""

KEPT = 50
"""Recoveries that are told one by one."""

REASONS = ("killed", "crashed", "out of memory", "unhealthy", "start failed", "unknown")


class Recoveries:
    """The deaths and returns of a cluster's time, whatever supervisors it had."""

    def __init__(self) -> None:
        self.restarts: dict[str, Counter[str]] = {}
        self.times: dict[str, list[int]] = {}
        self.seconds: dict[str, float] = {}
        self.recent: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._sick: set[str] = set()
        self._reason: dict[str, str] = {}
        self._exit: dict[str, Record] = {}

    def add(self, record: Record) -> None:
        """Take in a record of the journal."""
        name = str(record.get("replica") or "")
        match record.get("event"):
            case "supervisor_started":
                self._sick.clear()  # It sees for itself.
            case "replica_unhealthy":
                self._sick.add(name)
            case "replica_healthy" | "replica_moved":
                self._sick.discard(name)
            case "replica_exited":
                self._reason[name] = "unhealthy" if name in self._sick else reason(record)
                self._exit[name] = {"signal": record.get("signal"), "code": record.get("code")}
                self._sick.discard(name)
            case "replica_start_failed":
                self._reason[name] = "start failed"
            case "replica_restarting":
                self.restarts.setdefault(name, Counter())[self._reason.get(name, "unknown")] += 1
            case "replica_ready" if record.get("timeline_ms"):
                self._recovered(name, record)

    def _recovered(self, name: str, record: Record) -> None:
        steps = dict(record["timeline_ms"])
        took = float(steps.get("ready", 0.0))
        kind = str(record.get("kind") or "process")
        counts = self.times.setdefault(kind, [0] * (len(BOUNDS_S) + 1))
        counts[next((index for index, bound in enumerate(BOUNDS_S) if took / 1000 <= bound), len(BOUNDS_S))] += 1
        self.seconds[kind] = self.seconds.get(kind, 0.0) + took / 1000
        died = self._exit.get(name, {})
        self.recent.append(
            {
                "replica": name,
                "kind": kind,
                "ready_at": record.get("at"),
                "died_at_s": round((parse(str(record.get("at"))) or 0.0) - took / 1000, 3),
                "took_ms": took,
                "steps_ms": steps,
                "reason": self._reason.get(name, "unknown"),
                "signal": died.get("signal"),
                "code": died.get("code"),
            }
        )

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON: of the histogram, counts by kind (one for each of `bounds_s`, then the rest) and the sum in seconds."""
        return {
            "restarts": {name: dict(reasons) for name, reasons in self.restarts.items()},
            "bounds_s": list(BOUNDS_S),
            "times": {kind: {"counts": counts, "sum_s": round(self.seconds[kind], 6)} for kind, counts in self.times.items()},
            "recent": list(self.recent),
        }

    def kept(self) -> dict[str, Any]:
        """All of it as JSON, with what is under way, for `restored`."""
        return {**self.as_dict(), "reasons": self._reason, "exits": self._exit, "sick": sorted(self._sick)}

    @classmethod
    def restored(cls, kept: Mapping[str, Any]) -> "Recoveries":
        """What `kept` was made of. KeyError, TypeError, ValueError or AttributeError where it was made of something else."""
        if kept["bounds_s"] != list(BOUNDS_S):
            raise ValueError("a histogram with other bounds")
        made = cls()
        made.restarts = {str(name): Counter(_counts(reasons)) for name, reasons in kept["restarts"].items()}
        for kind, each in kept["times"].items():
            counts = [_count(count) for count in each["counts"]]
            if len(counts) != len(BOUNDS_S) + 1:
                raise ValueError("a histogram of another length")
            made.times[str(kind)], made.seconds[str(kind)] = counts, float(each["sum_s"])
        made.recent.extend(dict(recovery) for recovery in kept["recent"])
        made._sick = {str(name) for name in kept["sick"]}
        made._reason = {str(name): str(why) for name, why in kept["reasons"].items()}
        made._exit = {str(name): dict(exit) for name, exit in kept["exits"].items()}
        return made


def _counts(reasons: Mapping[str, Any]) -> dict[str, int]:
    return {str(why): _count(number) for why, number in reasons.items()}


def _count(number: Any) -> int:
    if not isinstance(number, int) or number < 0:
        raise ValueError("not a count")
    return number


def reason(record: Record) -> str:
    """Why a replica ended, in one of REASONS, by the record of its exit."""
    if record.get("oom"):
        return "out of memory"
    if record.get("signal") == "SIGKILL":
        return "killed"
    return "unknown" if record.get("code") is None and record.get("signal") is None else "crashed"
