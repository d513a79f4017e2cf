"""How start, memory and disk grow with the number of replicas.

Memory is the proportional set size of everything that exists for the replicas: their processes, and for containers also the engine's shim
and proxies. What the control group accounts is noted beside it: it also holds page cache.
The growth is measured once; the memory of one worker in every round.
"""

import contextlib
import time

from comet.compare import meter
from comet.compare.bed import Bed
from comet.compare.findings import Findings, Grown
from comet.engine import connect

STEPS = (1, 5, 10, 20)


def ask(bed: Bed, replicas: int, findings: Findings) -> None:
    """Scale to so many and note what they cost; the caller scales back."""
    began, busy = time.monotonic(), meter.machine_busy()
    bed.ask("scale", worker=replicas)
    ready_ms = (time.monotonic() - began) * 1000 if replicas > 1 else None
    cpu_ms = (meter.machine_busy() - busy) * 1000 if replicas > 1 else None
    rows = [row for row in bed.ask("ps")["replicas"] if row["role"] == "worker" and row["pid"]]
    own = meter.memory(pid for row in rows for pid in meter.tree(row["pid"]))
    kept = (
        meter.memory(pid for row in rows for pid in meter.keepers(row["pid"], row["port"])) if bed.kind == "container" else meter.Memory()
    )
    ids = [row["id"] for row in rows] if bed.kind == "container" else []
    cgroup = accounted(ids) if ids else None
    disk = written(ids) if ids else None
    findings.growth.append(Grown(bed.kind, len(rows), ready_ms, own.pss, own.rss, kept.pss, cgroup, cpu_ms, disk))


def note_memory(beds: list[Bed], round_: int, findings: Findings) -> None:
    """The memory of one worker of each kind, as it is now."""
    for bed in beds:
        row = bed.replica("worker-0")
        held = meter.memory(meter.tree(row["pid"]))
        kept = meter.memory(meter.keepers(row["pid"], row["port"])) if bed.kind == "container" else meter.Memory()
        findings.measure("memory", "PSS of a worker", "MiB").note(bed.kind, round_, held.pss / 2**20)
        findings.measure("memory", "RSS of a worker", "MiB").note(bed.kind, round_, held.rss / 2**20)
        findings.measure("memory", "PSS with the engine's own processes for it", "MiB").note(bed.kind, round_, (held + kept).pss / 2**20)
        if bed.kind == "container" and (cgroup := accounted([row["id"]])) is not None:
            findings.measure("memory", "accounted by the control group, page cache included", "MiB").note(bed.kind, round_, cgroup / 2**20)


def written(containers: list[str]) -> int:
    """Bytes that these containers have on disk beside their image."""
    listed = connect().api.containers(all=True, size=True, filters={"id": containers}) if containers else []
    return sum(int(each.get("SizeRw") or 0) for each in listed)


def accounted(containers: list[str]) -> int | None:
    """What the engine's control groups account to these containers, in bytes; None where it does not say."""
    api = connect().api
    total = 0
    with contextlib.suppress(KeyError):
        for container in containers:
            total += int(api.stats(container, stream=False, one_shot=True)["memory_stats"]["usage"])
        return total
    return None
