"""Measures system calls with and without the engine's filter, disks, and work under a CPU quota, in both kinds."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from comet.common.errors import UserError
from comet.compare.layers.running import Worker, measured, measured_in_container
from comet.compare.results.findings import GUARDS, PLACES, Findings
from comet.engine.connection import connect

CALLS, DISK, CPU = "system calls", "disk", "CPU"

PERIOD, QUOTA = 100_000, 50_000
"""Microseconds: half a core."""

WORK_TIME = "2"
"""Seconds of work under each condition."""

UNITS = {
    "sequential write, synced at the end": "MiB/s",
    "stream": "MiB/s",
    "database commits": "commits/s",
    "CPU of the machine": "µs/request",
}
"""Of what is measured neither in microseconds nor, under a quota, in milliseconds."""

Run = Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class Probe:
    """One round of one question: where its figures go, and the container that others are made like."""

    worker: Worker
    labels: Mapping[str, str]
    round: int
    findings: Findings
    section: str

    def note(self, way: str, suffix: str, run: Run) -> None:
        """Enter what `run` measures; a failure is noted, too, and ends nothing else."""
        with self.findings.excused(f"round {self.round + 1}: {self.section}{suffix}, {way}"):
            for name, value in run().items():
                unit = UNITS.get(name, "ms" if self.section == CPU else "µs")
                self.findings.measure(self.section, f"{name}{suffix}", unit).note(way, self.round, value)

    def contained(self, arguments: list[str], **settings: Any) -> Run:
        return partial(measured_in_container, self.worker, arguments, self.labels, **settings)


def calls(worker: Worker, labels: Mapping[str, str], round_: int, findings: Findings) -> None:
    """Measure system calls; the further lines of each have the container with a guard off."""
    probe = Probe(worker, labels, round_, findings, CALLS)
    own = worker["HostConfig"].get("SecurityOpt") or []
    probe.note("process", "", partial(measured, ["calls"]))
    probe.note("container", "", probe.contained(["calls"]))
    for guard in guards(connect().info().get("SecurityOptions") or []):
        suffix = f", {guard} off"
        probe.note("process", suffix, partial(measured, ["calls"]))
        probe.note("container", suffix, probe.contained(["calls"], SecurityOpt=[*own, f"{guard}=unconfined"]))


def guards(options: Sequence[str]) -> list[str]:
    """Return which guards of system calls the engine has, by its security options: `name=seccomp,profile=default`."""
    return [guard for guard in GUARDS if any(f"name={guard}" in option.split(",") for option in options)]


def disk(worker: Worker, labels: Mapping[str, str], round_: int, findings: Findings, state: Path) -> None:
    """Measure the container's layer, a mounted folder of the host and memory, each next to the host's own."""
    probe = Probe(worker, labels, round_, findings, DISK)
    with tempfile.TemporaryDirectory(prefix="comet-compare-", dir=state) as folder:
        Path(folder).chmod(0o777)
        binds = [*(worker["HostConfig"].get("Binds") or []), f"{folder}:/mounted"]
        memory = "/dev/shm"  # nosec B108  # The measuring program makes a folder of its own in it.
        ways: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
            (PLACES[0], folder, "/", {"ReadonlyRootfs": False, "user": "0:0"}),
            (PLACES[1], folder, "/mounted", {"Binds": binds}),
            (PLACES[2], memory, "/memory", {"Tmpfs": {"/memory": "rw,mode=1777"}}),
        )
        for place, here, there, settings in ways:
            probe.note("process", f", {place}", partial(measured, ["disk", here]))
            probe.note("container", f", {place}", probe.contained(["disk", there], **settings))


def cpu(worker: Worker, labels: Mapping[str, str], round_: int, findings: Findings) -> None:
    """Measure units of work: alone, with half a core, and next to busy neighbors."""
    probe = Probe(worker, labels, round_, findings, CPU)
    work = ["work", WORK_TIME]
    probe.note("process", ", alone", partial(measured, work))
    probe.note("container", ", alone", probe.contained(work))
    probe.note("process", ", half a core", partial(_measured_in_group, work))
    probe.note("container", ", half a core", probe.contained(work, CpuPeriod=PERIOD, CpuQuota=QUOTA))
    with burners():
        probe.note("process", ", busy neighbors", partial(measured, work))
        probe.note("container", ", busy neighbors", probe.contained(work))


def _measured_in_group(arguments: list[str]) -> dict[str, float]:
    with group() as made:
        return measured(arguments, lambda pid: (made / "cgroup.procs").write_text(f"{pid}\n"))


@contextlib.contextmanager
def group() -> Iterator[Path]:
    """Make a control group with half a core, of version 1 or 2; UserError where none may be made."""
    for base, limit in ((Path("/sys/fs/cgroup/cpu"), ("cpu.cfs_quota_us", f"{QUOTA}")),
                        (Path("/sys/fs/cgroup"), ("cpu.max", f"{QUOTA} {PERIOD}"))):  # fmt: skip
        made = base / f"comet-compare-{os.getpid()}-{time.monotonic_ns()}"
        try:
            made.mkdir()
        except OSError:
            continue
        try:
            if not (made / limit[0]).exists():
                continue
            (made / limit[0]).write_text(limit[1])
            yield made
            return
        finally:
            with contextlib.suppress(OSError):
                made.rmdir()
    raise UserError("no control group for CPU time may be made here")


@contextlib.contextmanager
def burners() -> Iterator[None]:
    """Keep every core busy with a process."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for each in running:
            each.kill()
            each.wait()
