"""How start, memory and disk grow with the number of replicas.

In every round each kind grows from one replica to STEPS, one after the other, while the other kind has one; the rounds alternate who is
first. Memory is the proportional set size of everything that exists for the replicas: their processes, and for containers also the
engine's shim and proxies. What the control group accounts is noted beside it: it also holds page cache. Disk is what lies there for the
replicas, but for the image, which all containers share.
"""

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

from comet.compare import grown, meter
from comet.compare.bed import Bed
from comet.compare.findings import Findings, Grown
from comet.engine import connect

STEPS = (1, 5, 10, 20)
BLOCK = 512
"""Bytes in which stat(2) counts what a file takes on disk."""


def ask_all(beds: Iterable[Bed], round_: int, findings: Findings) -> None:
    """One round: both grow and return to one replica."""
    for bed in beds:
        with findings.excused(f"round {round_ + 1}: {bed.kind}, growth"):
            try:
                grow(bed, round_, findings)
            finally:
                bed.ask("scale", worker=1)
    grown.note(findings, round_, STEPS)


def grow(bed: Bed, round_: int, findings: Findings) -> None:
    """From one replica to the last of STEPS: the times of the steps so far, and what the replicas hold."""
    seconds = busy = 0.0
    for replicas in STEPS:
        began, before = time.monotonic(), meter.machine_busy()
        bed.ask("scale", worker=replicas)
        if replicas > 1:
            seconds, busy = seconds + time.monotonic() - began, busy + meter.machine_busy() - before
        rows = [row for row in bed.ask("ps")["replicas"] if row["role"] == "worker" and row["pid"]]
        own = meter.memory(pid for row in rows for pid in meter.tree(row["pid"]))
        contained = bed.kind == "container"
        kept = meter.memory(pid for row in rows for pid in meter.keepers(row["pid"], row["port"])) if contained else meter.Memory()
        cgroup = accounted([row["id"] for row in rows]) if contained else None
        times = (seconds * 1000, busy * 1000) if replicas > 1 else (None, None)
        disk = written(bed, [row["name"] for row in rows])
        findings.growth.append(Grown(bed.kind, round_, len(rows), times[0], own.pss, own.rss, kept.pss, cgroup, times[1], disk))


def note_memory(beds: list[Bed], round_: int, findings: Findings) -> None:
    """The memory and disk of one worker of each kind, as they are now."""
    for bed in beds:
        row = bed.replica("worker-0")
        held = meter.memory(meter.tree(row["pid"]))
        kept = meter.memory(meter.keepers(row["pid"], row["port"])) if bed.kind == "container" else meter.Memory()
        findings.measure("memory", "PSS of a worker", "MiB").note(bed.kind, round_, held.pss / 2**20)
        findings.measure("memory", "RSS of a worker", "MiB").note(bed.kind, round_, held.rss / 2**20)
        findings.measure("memory", "PSS with the engine's own processes for it", "MiB").note(bed.kind, round_, (held + kept).pss / 2**20)
        if bed.kind == "container" and (cgroup := accounted([row["id"]])) is not None:
            findings.measure("memory", "accounted by the control group, page cache included", "MiB").note(bed.kind, round_, cgroup / 2**20)
        findings.measure("memory", "disk of a worker without the image", "KiB").note(bed.kind, round_, written(bed, ["worker-0"]) / 2**10)


def written(bed: Bed, names: list[str]) -> int:
    """Bytes on disk of these replicas' own files (log, faults) and, of containers, of their layers and of what the engine keeps for them,
    as far as it may be read (by root alone, as a rule)."""
    own = [path for name in names for path in bed.folder.glob(f".comet/*/{name}.*")]
    layers = 0
    if bed.kind == "container" and names:
        api = connect().api
        ids = [row["id"] for row in bed.ask("ps")["replicas"] if row["name"] in names and row["id"]]
        layers = sum(int(each.get("SizeRw") or 0) for each in api.containers(all=True, size=True, filters={"id": ids}))
        own += [path for each in ids for path in _kept_beside(api.inspect_container(each)["LogPath"])]
    return layers + sum(_allocated(path) for path in own)


def _kept_beside(log: str) -> list[Path]:
    """The files of a container's log's folder; none where it may not be read, or the log lies elsewhere."""
    with contextlib.suppress(OSError):
        return [Path(entry) for entry in os.scandir(os.path.dirname(log))] if log else []
    return []


def _allocated(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.lstat().st_blocks * BLOCK
    return 0


def accounted(containers: list[str]) -> int | None:
    """What the engine's control groups account to these containers, in bytes; None where it does not say."""
    api = connect().api
    total = 0
    with contextlib.suppress(KeyError):
        for container in containers:
            total += int(api.stats(container, stream=False, one_shot=True)["memory_stats"]["usage"])
        return total
    return None
