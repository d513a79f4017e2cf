"""Measures how start, memory and disk grow with the number of replicas.

In every round each kind grows from one replica through STEPS, one kind after the other, while the other kind has one
replica; the first kind alternates from round to round. Once, each grows further (density). Memory is the proportional
set size of everything that exists for the replicas: their processes, and for containers also the engine's shim and
proxies. What the control group accounts is noted separately, since it includes page cache. Disk is what is stored for
the replicas, without the image, which all containers share.
"""

import contextlib
import os
import time
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

from comet.compare.questions import meter
from comet.compare.questions.side import Side
from comet.compare.results import grown
from comet.compare.results.findings import Findings, Grown
from comet.engine.connection import connect

STEPS = (1, 5, 10, 20)
FURTHER = (40, 80, 160)
"""Replicas beyond STEPS, to which each kind grows once, as far as memory and time permit."""

BLOCK = 512
"""Bytes of the unit in which stat(2) counts a file's size on disk."""


def measure_all(sides: Iterable[Side], round_: int, findings: Findings) -> None:
    """Run one round: both kinds grow and return to one replica."""
    for side in sides:
        with findings.excused(f"round {round_ + 1}: {side.kind}, growth"):
            for each in growing(side, STEPS, round_):
                findings.growth.append(each)  # Also where a later step fails.
    grown.note(findings, round_, STEPS)


def measure_density(sides: Iterable[Side], findings: Findings) -> None:
    """Let each kind grow once beyond STEPS, as far as memory and time permit, by what the last step took."""
    for side in sides:
        reached = [each for each in findings.growth if each.kind == side.kind]
        if not reached:
            continue
        with findings.excused(f"{side.kind}, density"), contextlib.closing(growing(side, FURTHER, 0)) as steps:
            for replicas in FURTHER:
                if reason := grown.bound(reached[-1], replicas, meter.available()):
                    break
                reached.append(next(steps))
                findings.density.append(reached[-1])
                reason = f"{replicas} is the most that is tried"
            findings.bounds[side.kind] = reason


def growing(side: Side, steps: Sequence[int], round_: int) -> Generator[Grown, None, None]:
    """Grow from one replica through the steps, and return to one; yield what the replicas took and hold at each."""
    seconds = busy = 0.0
    try:
        for replicas in steps:
            began, before = time.monotonic(), meter.machine_busy()
            side.ask("scale", worker=replicas)
            if replicas > 1:
                seconds, busy = seconds + time.monotonic() - began, busy + meter.machine_busy() - before
            times = (seconds * 1000, busy * 1000) if replicas > 1 else (None, None)
            yield _held(side, round_, *times)
    finally:
        side.ask("scale", worker=1)


def _held(side: Side, round_: int, ready_ms: float | None, cpu_ms: float | None) -> Grown:
    rows = [row for row in side.ask("ps")["replicas"] if row["role"] == "worker" and row["pid"]]
    own = meter.memory(pid for row in rows for pid in meter.tree(row["pid"]))
    kept, cgroup = meter.Memory(), None
    if side.kind == "container":
        kept = meter.memory(meter.keepers((row["pid"] for row in rows), (row["port"] for row in rows)))
        cgroup = accounted([row["id"] for row in rows])
    disk = written(side, [row["name"] for row in rows])
    return Grown(
        side.kind, round_, len(rows), ready_ms, own.pss, own.rss, kept.pss, cgroup, cpu_ms, disk, own.private, own.files
    )


def note_memory(sides: list[Side], round_: int, findings: Findings) -> None:
    """Note the present memory and disk of one worker of each kind."""
    for side in sides:
        row = side.replica("worker-0")
        held = meter.memory(meter.tree(row["pid"]))
        kept = meter.memory(meter.keepers([row["pid"]], [row["port"]])) if side.kind == "container" else meter.Memory()
        sizes = {
            "PSS of a worker": held.pss,
            "RSS of a worker": held.rss,
            "PSS with the engine's own processes for it": (held + kept).pss,
        }
        if side.kind == "container" and (cgroup := accounted([row["id"]])) is not None:
            sizes["accounted by the control group, page cache included"] = cgroup
        for name, size in sizes.items():
            findings.measure("memory", name, "MiB").note(side.kind, round_, size / 2**20)
        disk = written(side, ["worker-0"]) / 2**10
        findings.measure("memory", "disk of a worker without the image", "KiB").note(side.kind, round_, disk)


def written(side: Side, names: list[str]) -> int:
    """Return the bytes on disk of these replicas' own files (log, faults).

    For containers they include their layers and the files that the engine keeps for them, as far as these may be read
    (usually only by root).
    """
    own = [path for name in names for path in side.folder.glob(f".comet/*/{name}.*")]
    layers = 0
    if side.kind == "container" and names:
        api = connect().api
        ids = [row["id"] for row in side.ask("ps")["replicas"] if row["name"] in names and row["id"]]
        layers = sum(int(each.get("SizeRw") or 0) for each in api.containers(all=True, size=True, filters={"id": ids}))
        own += [path for each in ids for path in _kept_beside(api.inspect_container(each)["LogPath"])]
    return layers + sum(_allocated(path) for path in own)


def _kept_beside(log: str) -> list[Path]:
    """Return the files in the folder of a container's log; none where it may not be read, or the log is elsewhere."""
    with contextlib.suppress(OSError):
        return [Path(entry) for entry in os.scandir(os.path.dirname(log))] if log else []
    return []


def _allocated(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.lstat().st_blocks * BLOCK
    return 0


def accounted(containers: list[str]) -> int | None:
    """Return the bytes that the engine's control groups account to these containers; None where it reports none."""
    api = connect().api
    total = 0
    with contextlib.suppress(KeyError):
        for container in containers:
            total += int(api.stats(container, stream=False, one_shot=True)["memory_stats"]["usage"])
        return total
    return None
