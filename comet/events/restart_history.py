"""The restart history: restarts by reason, and the duration of each recovery by step. Pure.

It is folded over the records of the journal as they are written, so reading it costs nothing.
"""

from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

from comet.common.clock import parse
from comet.common.json_values import require_shape
from comet.events import recovery_groups

Record = Mapping[str, Any]

BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the histogram of recovery times in seconds; a last count is for longer ones."""

MAX_RECENT = 50
"""Recoveries that are listed one by one."""

REASONS = ("killed", "crashed", "out of memory", "unhealthy", "start failed", "unknown")


class RestartHistory:
    """The deaths and recoveries of a cluster, across all of its supervisors."""

    def __init__(self) -> None:
        self.restarts: dict[str, Counter[str]] = {}
        self.times: dict[str, list[int]] = {}
        self.seconds: dict[str, float] = {}
        self.recent: deque[dict[str, Any]] = deque(maxlen=MAX_RECENT)
        self._unhealthy: set[str] = set()
        self._reason: dict[str, str] = {}
        self._exit: dict[str, Record] = {}

    def add(self, record: Record) -> None:
        """Count a record of the journal."""
        name = str(record.get("replica") or "")
        match record.get("event"):
            case "supervisor_started":
                self._unhealthy.clear()  # The new supervisor checks health itself.
            case "replica_unhealthy":
                self._unhealthy.add(name)
            case "replica_healthy" | "replica_moved":
                self._unhealthy.discard(name)
            case "replica_exited":
                self._reason[name] = "unhealthy" if name in self._unhealthy else reason(record)
                self._exit[name] = {"signal": record.get("signal"), "code": record.get("code")}
                self._unhealthy.discard(name)
            case "replica_start_failed":
                self._reason[name] = "start failed"
            case "replica_restarting":
                self.restarts.setdefault(name, Counter())[self._reason.get(name, "unknown")] += 1
            case "replica_ready" if record.get("timeline_ms"):
                self._recovered(name, record)

    def _recovered(self, name: str, record: Record) -> None:
        steps: dict[str, float] = dict(record["timeline_ms"])
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
        """Return it as JSON; the histogram has counts per kind (one per bound, then the rest) and a sum in seconds."""
        return {
            "restarts": {name: dict(reasons) for name, reasons in self.restarts.items()},
            "bounds_s": list(BOUNDS_S),
            "times": {
                kind: {"counts": counts, "sum_s": round(self.seconds[kind], 6)} for kind, counts in self.times.items()
            },
            "recent": [each | _compared(each) for each in self.recent],
        }

    def kept(self) -> dict[str, Any]:
        """Return it as JSON with what is under way, for `restored`."""
        return {**self.as_dict(), "reasons": self._reason, "exits": self._exit, "sick": sorted(self._unhealthy)}

    @classmethod
    def restored(cls, kept: Any) -> "RestartHistory":
        """Return the history that `kept` was made from; ValueError for anything else."""
        given = require_shape(kept, KEPT_SHAPE)
        if given["bounds_s"] != list(BOUNDS_S):
            raise ValueError("a histogram with other bounds")
        made = cls()
        made.restarts = {name: Counter(_counts(reasons)) for name, reasons in given["restarts"].items()}
        for kind, each in given["times"].items():
            histogram = require_shape(each, {"counts": list[int], "sum_s": float})
            if len(histogram["counts"]) != len(BOUNDS_S) + 1 or min(histogram["counts"]) < 0:
                raise ValueError("not a histogram")
            made.times[kind], made.seconds[kind] = histogram["counts"], float(histogram["sum_s"])
        made.recent.extend(require_shape(recovery, RECOVERY_SHAPE) for recovery in given["recent"])
        made._unhealthy = set(given["sick"])
        made._reason = given["reasons"]
        made._exit = {name: require_shape(exit, EXIT_SHAPE) for name, exit in given["exits"].items()}
        return made


EXIT_SHAPE: Mapping[str, Any] = {"signal": str | None, "code": int | None}
RECOVERY_SHAPE: Mapping[str, Any] = {
    **EXIT_SHAPE,
    "replica": str,
    "kind": str,
    "ready_at": str | None,
    "died_at_s": float,
    "took_ms": float,
    "steps_ms": dict[str, float],
    "reason": str,
}
KEPT_SHAPE: Mapping[str, Any] = {
    "bounds_s": list[float],
    "restarts": dict[str, dict[str, int]],
    "times": dict[str, dict[str, Any]],
    "recent": list[dict[str, Any]],
    "sick": list[str],
    "reasons": dict[str, str],
    "exits": dict[str, dict[str, Any]],
}
"""What `kept` makes."""


def _compared(recovery: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a recovery is compared by: its group, and its time without the backoff."""
    steps = recovery["steps_ms"]
    return {
        "group": recovery_groups.group(recovery["replica"], recovery["kind"]),
        "backoff_ms": recovery_groups.backoff_ms(steps),
        "own_ms": recovery_groups.own_ms(steps),
    }


def _counts(reasons: Mapping[str, int]) -> Mapping[str, int]:
    if any(count < 0 for count in reasons.values()):
        raise ValueError("not a count")
    return reasons


def reason(record: Record) -> str:
    """Why a replica ended, in one of REASONS, by the record of its exit."""
    if record.get("oom"):
        return "out of memory"
    if record.get("signal") == "SIGKILL":
        return "killed"
    return "unknown" if record.get("code") is None and record.get("signal") is None else "crashed"
