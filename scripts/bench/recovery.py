"""`bench.sh recovery`: measures the time from kill -9 to the next 200, of Comet and of other programs that keep
processes and containers alive.

In every round each target is killed once, so that disturbances of the machine affect all alike. Before its next kill
each target has been up for as long as restart policies take to forget a crash, so that every restart is a first one.
The clock starts with the kill; attempts begin at the death.
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comet.report.model import Bars, Table
from scripts.bench import keepers, machine, mishaps, programs, rotation
from scripts.bench.cluster import BenchCluster, temporary_cluster
from scripts.bench.kills import KILL_TIMEOUT, Outcome, Target, ask, kill
from scripts.bench.mishaps import Mishap
from scripts.bench.proc import BenchError, wait_for
from scripts.bench.report import Result, Samples, begin, finish, say
from scripts.bench.stats import median, percentile

STABLE_TIME = 10.4  # seconds after which Comet (restart-stable) and Docker forget a crash
STEPS = ("noticed", "decided", "started", "listening", "ready")
WATCHED = "comet, worker container"  # the target whose absence from the rotation is timed
WORDS = ("refused", "broken", "timeout")

GOAL_MS, GOAL_RATIO = 15.0, 50  # Comet's LB, median; and the minimum ratio of supervisord's time to it


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="kills of each target; default 20")
    parser.add_argument("--no-docker", action="store_true", help="skip what needs a Docker engine")
    parser.add_argument("--check", action="store_true", help="exit 1 if a goal is missed")


class Stage:
    """All targets, running."""

    def __init__(self, stack: ExitStack, report: Result, use_docker: bool) -> None:
        self.folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="comet-bench-", ignore_cleanup_errors=True))
        )
        self.folder.chmod(0o755)
        self.targets: list[Target] = []
        self.clusters: dict[str, tuple[BenchCluster, str]] = {}
        quiet = {"worker": 2, "pool": 1, "avg_delay": 1, "failure": 0}
        processes = stack.enter_context(temporary_cluster(runtime="process", **quiet))
        self._add(processes, "comet", "LB", "lb-0", processes.lb_port(0), None)
        for program, keeper in (("supervisord", keepers.supervisord), ("circusd", keepers.circus)):
            try:
                if programs.find(program) is None:
                    raise BenchError(f"{program} (pip could not install it)")
                self.targets.append(stack.enter_context(keeper(self.folder, processes.worker_port(1))))
                report.versions[program] = programs.version(program)
            except BenchError as error:  # Comet's own figures are useful without a rival's.
                report.notes.append(f"left out: {error}")
                say(report.notes[-1])
        if keepers.has_systemd():
            self.targets.append(stack.enter_context(keepers.systemd(self.folder, processes.worker_port(1))))
        else:
            report.notes.append("left out: systemd (does not run here, or not as root)")
        self.mishaps = stack.enter_context(temporary_cluster(runtime="process", **quiet | {"pool": 2}))
        self.rotation_ms: list[float] = []
        self._add(processes, "comet", "worker process", "worker-0", processes.worker_port(0), processes.lb_port(0))
        if use_docker and os.geteuid() == 0:
            containers = stack.enter_context(temporary_cluster(**quiet))
            self._add(
                containers, "comet", "worker container", "worker-0", containers.worker_port(0), containers.lb_port(0)
            )
            container = containers.rows()["worker-0"]["id"]
            shown = subprocess.run(["docker", "inspect", container], capture_output=True, text=True, check=True)
            self.targets.append(stack.enter_context(keepers.docker_restart(self.folder, json.loads(shown.stdout)[0])))
            report.versions["docker"] = machine.version("docker", "version", "-f", "{{.Server.Version}}")
        else:
            reason = (
                "no Docker engine, or not root, who alone may kill a container's process"
                if use_docker
                else "no Docker, as asked or found"
            )
            report.notes.append(f"left out: containers ({reason})")

    def _add(self, cluster: BenchCluster, keeper: str, what: str, replica: str, port: int, beside: int | None) -> None:
        def pid() -> int | None:
            found = cluster.rows()[replica]
            return int(found["pid"]) if found["state"] == "ready" else None

        self.targets.append(Target(f"{keeper}, {what}", what, port, "/healthz", pid, beside))
        self.clusters[self.targets[-1].name] = cluster, replica


@dataclass
class Measured:
    """The outcome: kills and Comet's own timelines by target, other failures by kind, and remarks."""

    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)
    steps: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    others: dict[str, list[Mishap]] = field(default_factory=lambda: {mishaps.HANGS: [], mishaps.ADOPTED: []})
    remarks: list[str] = field(default_factory=list)

    def remark(self, text: str) -> None:
        self.remarks.append(text)
        say(text)


def run(options: argparse.Namespace) -> int:
    report, found = begin("recovery"), Measured()
    use_docker = not options.no_docker and shutil.which("docker") is not None
    with ExitStack() as stack:
        say("starting Comet (workers as processes and as containers), supervisord, circus and the others")
        stage = Stage(stack, report, use_docker)
        targets = stage.targets
        ready = dict.fromkeys([each.name for each in targets], time.monotonic())
        say(
            f"{options.kills} kills each of {len(targets)}, {STABLE_TIME:g} s apart: about "
            f"{options.kills * 12 / 60:.1f} minutes"
        )
        for number in range(options.kills):
            for target in targets[number % len(targets) :] + targets[: number % len(targets)]:
                time.sleep(max(0.0, ready[target.name] + STABLE_TIME - time.monotonic()))
                _strike(stage, target, number + 1, found)
                ready[target.name] = time.monotonic()
            for name, happen in ((mishaps.HANGS, mishaps.hang), (mishaps.ADOPTED, mishaps.orphan)):
                found.others[name].append(happen(stage.mishaps))
                mishaps.wait_settled(stage.mishaps)
            say(f"round {number + 1} of {options.kills}")
    report.settings = {
        "kills": f"{options.kills} each by SIGKILL, interleaved, {STABLE_TIME:g} s apart",
        "others": "their defaults",
    }
    report.notes.extend(found.remarks)
    fill(report, found.outcomes, found.steps)
    fill_others(report, found.others, stage.rotation_ms)
    if options.check and any("MISSED" in note for note in report.notes):
        report.passed = False
    return finish(report, options.json)


def _strike(stage: Stage, target: Target, number: int, found: Measured) -> None:
    """Kill once, and record the outcome."""
    if ask(target.port, target.path) != "200":
        found.remark(f"{target.name}: left out of round {number}, because it does not serve")
        return
    outcome = _kill_watched(stage, target) if target.name == WATCHED else _kill(target)
    found.outcomes.setdefault(target.name, []).append(outcome)
    if target.name in stage.clusters:
        cluster, replica = stage.clusters[target.name]
        known = _timeline(cluster, replica, outcome.at) if outcome.answer_ms else {}
        found.steps.setdefault(target.name, []).append(known)
    if outcome.answer_ms is None:
        found.remark(
            f"{target.name}: no answer within {KILL_TIMEOUT:g} s of kill {number}{_account(stage, target, outcome.at)}"
        )


def _account(stage: Stage, target: Target, since: float) -> str:
    """Return what Comet's events say about a restart that did not happen."""
    if target.name not in stage.clusters:
        return ""
    cluster, replica = stage.clusters[target.name]
    return "; events: " + " | ".join(
        json.dumps(event) for event in cluster.all_events(since) if event.get("replica") in (replica, None)
    )


def _kill(target: Target) -> Outcome:
    try:
        return kill(target)
    except BenchError:
        time.sleep(2)  # Its keeper may still be about to list it.
        return kill(target)


def _kill_watched(stage: Stage, target: Target) -> Outcome:
    """Kill a container, and return also when it was out of the rotation."""
    cluster, replica = stage.clusters[target.name]
    container = str(cluster.rows()[replica]["id"])
    with rotation.watching(cluster.folder, replica) as watched:
        outcome = _kill(target)
        if (seconds := rotation.out_after(watched, container, outcome.at)) is not None:
            stage.rotation_ms.append(seconds * 1000)
    return outcome


def _timeline(cluster: BenchCluster, replica: str, since: float) -> dict[str, float]:
    """Return Comet's own timeline of the restart: milliseconds since the death, if it is known, by step."""

    def look() -> dict[str, Any] | None:
        found = [
            each
            for each in cluster.all_events(since)
            if each["event"] == "replica_ready" and each.get("replica") == replica
        ]
        return found[-1] if found else None

    event = wait_for(look, 20, f"the event replica_ready of {replica}") or {}
    return {key: float(value) for key, value in (event.get("timeline_ms") or {}).items()}


def _times(found: list[Outcome]) -> list[float]:
    return [float("inf") if each.answer_ms is None else each.answer_ms for each in found]


def verdict(is_met: bool) -> str:
    return ", met" if is_met else ", MISSED"


def fill(report: Result, outcomes: dict[str, list[Outcome]], steps: dict[str, list[dict[str, float]]]) -> None:
    """Make tables, picture and raw data from the measurements."""
    report.parts.append(_outcome_table(outcomes))
    report.parts.append(_step_table(steps))
    medians = {name: median(_times(found)) for name, found in outcomes.items()}
    report.notes += _goal_notes(medians)
    report.data = {name: [vars(each) for each in found] for name, found in outcomes.items()} | {"steps": steps}
    answered = {
        name: [each.answer_ms for each in found if each.answer_ms is not None] for name, found in outcomes.items()
    }
    report.samples = {name: Samples("ms", "less", times) for name, times in answered.items()}
    chart = Bars(
        "kill -9 until the next 200, milliseconds (median)",
        "less is better",
        ["ms"],
        list(medians),
        [[each] for each in medians.values()],
    )
    report.parts.append(chart)


def _outcome_table(outcomes: dict[str, list[Outcome]]) -> Table:
    columns = [
        "who",
        "kills",
        "median ms",
        "p90 ms",
        "lowest",
        "highest",
        "refused",
        "broken",
        "timeout",
        "other status",
        "errors through the LB",
    ]
    table = Table("kill -9 until the next 200", columns)
    for name, found in outcomes.items():
        times = _times(found)
        failures = [sum(each.attempts.get(word, 0) for each in found) for word in WORDS]
        other = sum(count for each in found for word, count in each.attempts.items() if word not in WORDS)
        beside = (
            sum(count for each in found for word, count in each.beside.items() if word != "200")
            if any(each.beside for each in found)
            else None
        )
        row = [name, len(found), median(times), percentile(times, 90), min(times), max(times), *failures, other, beside]
        table.rows.append(row)
    return table


def _step_table(steps: dict[str, list[dict[str, float]]]) -> Table:
    title = "Comet's own account of the same restarts (median ms since it could know of the death)"
    table = Table(title, ["who", *STEPS])
    for name, known in steps.items():
        values = [[step[key] for step in known if key in step] for key in STEPS]
        table.rows.append([name, *[median(each) if each else None for each in values]])
    return table


def _goal_notes(medians: dict[str, float]) -> list[str]:
    """Compare Comet's load balancer with its goal and with the supervisors that were measured."""
    own = medians.get("comet, LB")
    if own is None:
        return []
    notes = [f"Comet's LB: {own:.1f} ms (goal: at most {GOAL_MS:g}{verdict(own <= GOAL_MS)})"]
    for name in medians:
        if name in ("supervisord", "circus", "systemd"):
            ratio = medians[name] / own
            goal = f" (goal: at least {GOAL_RATIO}{verdict(ratio >= GOAL_RATIO)})" if name == "supervisord" else ""
            notes.append(f"{name} takes {ratio:.0f} times as long{goal}")
    return notes


def fill_others(report: Result, others: dict[str, list[Mishap]], rotation_ms: list[float]) -> None:
    """Add the other measurements."""
    report.parts.append(mishaps.table(others))
    report.notes.extend(f"{text}{verdict(is_met)}" for text, is_met in mishaps.goals(others, rotation_ms))
    report.data |= {name: [vars(each) for each in found] for name, found in others.items()} | {
        "out of every rotation, ms": rotation_ms
    }
    for name, found in others.items():
        report.samples[name] = Samples("ms", "less", [each.over_ms for each in found if each.over_ms is not None])
