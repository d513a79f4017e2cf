"""Orders of faults, and the wait until all who inject them have read them.

The command returns after the time that this usually takes. A busy machine may need longer.
"""

from collections.abc import Callable
from typing import Any

from lb.faults import rules
from tests.support.cluster import TestCluster
from tests.support.waiting import wait_until
from worker_app.faults import plan


def order(cluster: TestCluster, *arguments: str) -> None:
    """Give `faults` these arguments; the order is effective afterwards."""
    done = cluster.comet("faults", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    await_faults(cluster)


def await_faults(cluster: TestCluster) -> None:
    """Return once all workers, or the load balancers in their place, inject what the files say."""
    wait_until(lambda: all(_has_read(cluster, *each) for each in _readers(cluster)), what="the faults are read")


def _readers(cluster: TestCluster) -> list[tuple[dict[str, Any], str]]:
    """Return the row of each who reads a file, and the worker that the file is of."""
    rows = cluster.replicas()
    workers = [name for name, row in rows.items() if row["role"] == "worker"]
    if cluster.config.get("fault-point") != "lb":
        return [(rows[name], name) for name in workers]
    return [(row, worker) for row in rows.values() if row["role"] == "lb" for worker in workers]


def _has_read(cluster: TestCluster, reader: dict[str, Any], worker: str) -> bool:
    """Whether the last thing that the reader has logged of a worker's faults is what their file says."""
    parse: Callable[[str], object]
    unsaid: str | None
    if reader["role"] == "worker":
        folder, parse, words, unsaid = "faults", plan.parse, "active faults: ", None
    else:  # A load balancer begins without faults, and says nothing of that.
        folder, parse, words, unsaid = "lb-faults", rules.parse, f"active faults of {worker}: ", str(rules.Plan())
    wanted = str(parse((cluster.folder / ".comet" / folder / f"{worker}.json").read_text()))
    life = _log(cluster, reader).rpartition(" accepts on port ")[2]
    logged = [line.partition(words)[2] for line in life.splitlines() if words in line]
    return (logged[-1] if logged else unsaid) == wanted


def _log(cluster: TestCluster, row: dict[str, Any]) -> str:
    """Return what a replica has printed."""
    if row["kind"] == "container":
        return cluster.comet("logs", row["name"]).stdout
    return (cluster.folder / ".comet/logs" / f"{row['name']}.log").read_text(errors="replace")
