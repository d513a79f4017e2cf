"""Answers of `/api/v1/cluster` for tests that need no cluster: a calm one, one in trouble, one with 50 workers.

Made by rule and not by chance, so that two runs draw the same.
"""

import math
from datetime import UTC, datetime
from typing import Any

NOW = 1_795_000_000.0
STEPS = {
    "lb": (1.9, 2.1, 7.4, 12.8),
    "process": (1.7, 2.2, 6.1, 188.0),
    "container": (31.0, 36.5, 301.0, 447.0),
}
"""When a death was noticed, a restart decided, the replica started and ready, in ms after the death."""


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def lease(settings: dict[str, Any], seconds: float | None, count: int | None = None, left: int | None = None) -> Any:
    """A limited order, as a snapshot shows it."""
    return {
        "settings": settings, "left_s": seconds, "count": count, "count_left": left, "age_s": 4.0, "owner": None,
    }  # fmt: skip


class Scene:
    """A cluster of `workers` and `lbs` that has run for `age` seconds."""

    def __init__(self, workers: int = 3, lbs: int = 2, age: float = 900.0) -> None:
        self.age = age
        self.events: list[dict[str, Any]] = []
        self.rows: dict[str, dict[str, Any]] = {}
        self.requests_per_s = 24.0
        for number in range(lbs):
            self._row(f"lb-{number}", "lb", "process", str(4250 + number), 4250 + number, 5050 + number)
        for number in range(workers):
            self._row(f"worker-{number}", "worker", "container", f"fdbaa57c{number:04x}", 4300 + number, 6000 + number)
        self.load: dict[str, Any] | None = None
        self.silent_s = 0.2
        self.front: dict[str, Any] = {}

    def event(self, ago: float, name: str, replica: str | None = None, **fields: Any) -> None:
        """Something happened `ago` seconds before NOW."""
        row = self.rows.get(replica or "")
        about = {} if row is None else {"replica": replica, "kind": row["kind"], "id": row["id"]}
        text = f"{replica + ' ' if replica else ''}{name.replace('replica_', '').replace('_', ' ')}"
        self.events.append({"at": iso(NOW - ago), "event": name, **about, **fields, "text": text})

    def death(self, ago: float, replica: str, factor: float = 1.0, backoff: float = 0.0) -> None:
        """It was killed, and came back as fast as its kind does, after `backoff` ms of waiting."""
        row = self.rows[replica]
        noticed, *later = (round(factor * step, 1) for step in STEPS["lb" if row["role"] == "lb" else row["kind"]])
        decided, started, ready = (round(step + backoff, 1) for step in later)
        self.event(
            ago - noticed / 1000, "replica_exited", replica, code=-9, signal="SIGKILL", oom=False, detect_ms=noticed
        )
        self.event(ago - decided / 1000, "replica_restarting", replica, attempt=1, delay_ms=0.1)
        waited = {"backoff": round(noticed + backoff, 1)} if backoff else {}
        steps = {"died": 0.0, "noticed": noticed, **waited, "decided": decided, "started": started, "ready": ready}
        self.event(ago - ready / 1000, "replica_ready", replica, start_ms=round(ready - decided, 1), timeline_ms=steps)
        self.event(
            ago - (ready + 6.2) / 1000,
            "first_answer",
            replica,
            timeline_ms={**steps, "first answer": round(ready + 6.2, 1)},
        )
        row |= {"restarts": row["restarts"] + 1, "uptime_s": round(ago, 1)}
        row["last_exit"] = {"code": -9, "signal": "SIGKILL", "oom": False, "at": iso(NOW - ago)}

    def unhealthy(self, replica: str, state: str, reason: str, ago: float, **fields: Any) -> None:
        """It is not well now."""
        self.rows[replica] |= {"state": state, "reason": reason, "requests_per_s": 0.0, **fields}
        self.event(
            ago,
            "replica_unhealthy" if state == "unhealthy" else "backoff_entered",
            replica,
            reason=reason,
            attempt=4,
            delay_ms=2900,
        )

    def front_fault(self, seconds: float, **settings: Any) -> None:
        self.front |= {
            "front_faults": settings,
            "front_fault_orders": {"from": dict.fromkeys(settings, "lease"), "leases": [lease(settings, seconds)]},
        }

    def fault(self, worker: str, seconds: float, **settings: Any) -> None:
        """A command has ordered these faults, with so many seconds left."""
        row = self.rows[worker]
        row["faults"] = {**row["faults"], **settings}
        row["fault_orders"]["from"] |= dict.fromkeys(settings, "lease")
        row["fault_orders"]["leases"].append(lease(settings, seconds))

    def as_dict(self) -> dict[str, Any]:
        events = sorted(self.events, key=lambda each: each["at"])
        lbs = [row for row in self.rows.values() if row["role"] == "lb"]
        workers = [row for row in self.rows.values() if row["role"] == "worker"]
        up = [row for row in workers if row["state"] == "ready"]
        for row in lbs:
            row["requests_per_s"] = round(self.requests_per_s / len(lbs), 2)
        for row in up:
            row["requests_per_s"] = round(self.requests_per_s / len(up), 2)
        for row in workers:
            found = {"healthy": row["state"] == "ready", "reason": (row["reason"] or "").partition(": ")[2] or None}
            found["check_ms"] = 1.42 if row["state"] == "ready" else 2000.3
            row["health"] = {lb["name"]: found for lb in lbs}
        edges = [self._edge(lb, worker, len(lbs)) for lb in lbs for worker in workers]
        return {
            "at": iso(NOW),
            "supervisor": {
                "pid": 4242, "running": True, "uptime_s": self.age, "version": "0.1.0", "cpu_percent": 2.13,
                "memory_bytes": 71_000_000,
                "problem": f"not answering: it is stopped; continue it with: kill -CONT {4242}"
                if self.silent_s > 5 else None,
            },
            "replicas": list(self.rows.values()),
            "edges": edges,
            "total": {
                "requests_per_s": self.requests_per_s, "errors_per_s": 0.4 if self.requests_per_s else 0.0,
                "p50_ms": 21.3 if self.requests_per_s else None, "p99_ms": 48.0 if self.requests_per_s else None,
                "requests": sum(row["requests"] for row in lbs),
                "errors": 31, "in_flight": sum(edge["in_flight"] for edge in edges), "queued": 0, **self.front,
            },
            "config": {"worker": len(workers), "pool": len(lbs), "avg-delay": 500.0, "failure": 12.0, "faults": {}},
            "front": {"scheme": "http", "host": "127.0.0.1", "path": "/api/v1/hello"},
            "load": self.load,
            "writable": True,
            "silent_s": self.silent_s,
            "history": self._history(),
            "events": [{"number": number, **event} for number, event in enumerate(events, 1)],
        }  # fmt: skip

    def _row(self, name: str, role: str, kind: str, identity: str, pid: int, port: int) -> None:
        self.rows[name] = {
            "name": name, "role": role, "kind": kind, "id": identity, "pid": pid, "port": port, "state": "ready",
            "restarts": 0,
            "uptime_s": self.age, "cpu_percent": 1.4, "memory_bytes": 36_000_000, "last_exit": None, "in_flight": 1,
            "requests": 7291,
            "reason": None, "next_start_s": None, "orphan": False, "requests_per_s": 0.0, "errors_per_s": 0.0,
            "p50_ms": 21.3,
            "p99_ms": 48.0, "errors": 3,
            "health": {} if role == "worker" else None,
            "faults": {"avg-delay": 500.0, "failure": 12.0} if role == "worker" else None,
            "fault_orders": {"from": {}, "leases": []} if role == "worker" else None,
        }  # fmt: skip

    def _edge(self, lb: dict[str, Any], worker: dict[str, Any], lbs: int) -> dict[str, Any]:
        healthy = worker["state"] == "ready"
        return {
            "lb": lb["name"], "worker": worker["name"], "requests_per_s": round(worker["requests_per_s"] / lbs,
            2) if healthy else 0.0,
            "errors_per_s": 0.0, "p50_ms": 20.1 if healthy else None, "p99_ms": 47.0 if healthy else None,
            "requests": 3645, "errors": 0,
            "in_flight": 1 if healthy and lb["name"] == "lb-0" and self.requests_per_s else 0, "healthy": healthy,
            "reason": None if healthy else worker["reason"],
        }  # fmt: skip

    def _history(self) -> dict[str, list[Any]]:
        seconds = range(-299, 1)
        wave = [
            round(self.requests_per_s * (1 + 0.15 * math.sin(second / 9) + 0.05 * math.sin(second / 2.3)), 2)
            for second in seconds
        ]
        errors = [4.0 if self.requests_per_s and second % 60 in range(20, 23) else 0.0 for second in seconds]
        return {"at": [NOW + second for second in seconds], "requests_per_s": wave, "errors_per_s": errors}


def calm() -> Scene:
    return Scene()


def trouble() -> Scene:
    """Deaths of both kinds, faults, a worker that waits and one that is unhealthy."""
    scene = Scene(workers=4)
    scene.event(270, "scaled", worker=4, pool=2)
    scene.event(
        240, "faults_changed", "worker-1", workers=["worker-1"], settings={"failure": 50.0}, clear=False, for_s=45.0
    )
    scene.event(95, "faults_changed", None, workers=[], settings={"avg-delay": 200.0}, clear=False, for_s=30.0)
    scene.death(230, "lb-0")
    scene.death(205, "worker-1")
    scene.death(150, "lb-1", 1.3)
    scene.death(120, "worker-0", 0.9)
    scene.death(60, "lb-0", 1.1)
    scene.death(58, "worker-1", 1.2)
    scene.event(12.2, "replica_exited", "worker-3", code=1, signal=None, oom=False, detect_ms=33.0)
    scene.unhealthy("worker-3", "backoff", "it ends at once", 12, next_start_s=2.9, uptime_s=None, pid=None)
    scene.unhealthy("worker-2", "unhealthy", "lb-0: no answer within 2 s", 7)
    scene.rows["worker-0"]["errors_per_s"] = 0.9
    return scene


def mixed() -> Scene:
    """Workers in both forms, deaths of both, and one that had to wait for its further attempt."""
    scene = Scene(workers=4)
    for name in ("worker-1", "worker-3"):
        scene.rows[name] |= {"kind": "process", "id": str(scene.rows[name]["pid"])}
    for ago, factor in ((200, 1.0), (150, 1.1), (100, 0.9)):
        scene.death(ago, "worker-0", factor)
        scene.death(ago, "worker-1", factor)
    scene.death(120, "lb-0")
    steps = {"died": 0.0, "noticed": 1.9, "backoff": 401.9, "decided": 402.3, "started": 406.0, "ready": 592.0}
    scene.event(60, "replica_exited", "worker-3", code=-9, signal="SIGKILL", oom=False, detect_ms=1.9)
    scene.event(59.4, "replica_ready", "worker-3", start_ms=190.0, timeline_ms=steps)
    return scene


def load() -> Scene:
    """The page's own server sends requests; a fault is active."""
    scene = Scene()
    scene.load = {"kind": "load", "name": None, "rate": 20.0, "left_s": 184.0}
    scene.event(2, "faults_changed", "worker-1", workers=["worker-1"], settings={"hang": 5.0}, clear=False, for_s=33.0)
    scene.fault("worker-1", 31.0, hang=5.0)
    return scene


def beginning() -> Scene:
    """It has just started, and no request has come."""
    scene = Scene(age=21)
    scene.requests_per_s = 0.0
    scene.event(21.4, "supervisor_started", None)
    for name in scene.rows:
        scene.event(20, "replica_starting", name)
        scene.event(18, "replica_ready", name, start_ms=2000.0)
        scene.rows[name] |= {"requests": 0, "p50_ms": None, "p99_ms": None, "in_flight": 0, "errors": 0}
    return scene


def fault() -> Scene:
    """A worker hangs because a fault is active; another one's answers fail."""
    scene = Scene()
    scene.fault("worker-2", 31.0, hang=100.0)
    scene.fault("worker-0", 12.0, failure=60.0, status=503)
    scene.event(
        4, "faults_changed", "worker-2", workers=["worker-2"], settings={"hang": 100.0}, clear=False, for_s=35.0
    )
    scene.unhealthy("worker-2", "unhealthy", "lb-0: no answer within 2 s", 2)
    scene.rows["worker-0"] |= {"errors_per_s": 7.2}
    return scene


def killed() -> Scene:
    """A process and a container were killed a moment ago; the container is not back yet."""
    scene = Scene(workers=4)
    scene.death(40, "worker-1")
    scene.death(4, "lb-0")
    scene.event(1.9, "replica_exited", "worker-0", code=-9, signal="SIGKILL", oom=False, detect_ms=31.0)
    scene.event(1.9, "replica_restarting", "worker-0", attempt=1, delay_ms=0.1)
    scene.rows["worker-0"] |= {"state": "starting", "requests_per_s": 0.0, "uptime_s": 1.9, "restarts": 1}
    return scene


def stopped() -> Scene:
    """The supervisor was stopped by a signal."""
    scene = trouble()
    scene.silent_s = 14.2
    return scene


def forty() -> Scene:
    """Forty workers behind eight load balancers, with faults, errors and deaths."""
    scene = Scene(workers=40, lbs=8)
    scene.requests_per_s = 1240.0
    for number, ago in ((3, 250), (17, 222), (17, 160), (31, 131), (8, 30)):
        scene.death(ago, f"worker-{number}", 1 + number / 100)
    for number in (0, 3, 6):
        scene.death(140 - 20 * number, f"lb-{number}")
    for number in (5, 6, 7, 8, 9):
        scene.fault(f"worker-{number}", 48.0, failure=30.0)
        scene.rows[f"worker-{number}"]["errors_per_s"] = 9.1
    scene.fault("worker-22", 20.0, hang=100.0)
    scene.unhealthy("worker-22", "unhealthy", "lb-1: no answer within 2 s", 9)
    return scene


def crowd() -> Scene:
    """Fifty workers behind four load balancers; a few have died."""
    scene = Scene(workers=50, lbs=4)
    scene.requests_per_s = 812.0
    for number, ago in ((3, 250), (17, 222), (17, 160), (31, 131), (44, 80), (8, 30)):
        scene.death(ago, f"worker-{number}", 1 + number / 100)
    scene.death(140, "lb-2")
    scene.death(31, "lb-0")
    scene.unhealthy("worker-29", "unhealthy", "lb-1: connection refused", 9)
    return scene
