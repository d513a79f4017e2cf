"""The statistics as a user reads and resets them while a real cluster runs."""

import contextlib
import json
import sqlite3
from collections.abc import Callable

import pytest
import requests

from tests.support.cluster import TestCluster


def shown(cluster: TestCluster) -> dict[str, list[str]]:
    """The lines of the table by their first word."""
    done = cluster.comet("stats")
    assert done.returncode == 0, done.stderr
    return {line.split()[0]: line.split() for line in done.stdout.splitlines()}


def test_a_stats_reset_drops_former_workers(make_cluster: Callable[..., TestCluster], runtime: str) -> None:
    cluster = make_cluster(worker=2, runtime=runtime)
    cluster.start()
    former = cluster.replicas()["worker-1"]["id"]
    for number in range(8):
        assert cluster.hello(number % 2).status_code == 200
    assert cluster.comet("restart", "worker-1").returncode == 0
    living = {row["id"] for name, row in cluster.replicas().items() if name.startswith("worker")}
    assert former in cluster.counts()
    done = cluster.comet("stats", "--reset")
    assert (done.returncode, done.stdout, done.stderr) == (0, "statistics set back to zero\n", "")
    # At once, not when a worker next looks for its row: whoever asks now must find every worker, with zeros.
    listed = json.loads(cluster.comet("stats", "--json").stdout)
    assert {key: value for entry in listed["TotalRequests"] for key, value in entry.items()} == dict.fromkeys(
        ["total", *living], 0
    )
    for number in range(6):
        assert cluster.hello(number % 2).status_code == 200
    assert cluster.counts()["total"] == 6
    assert set(cluster.counts()) == {"total", *living}
    cluster.stop()


def test_stats_shows_percentiles_injections_and_fixed_json(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=1, pool=1, runtime="process", failure=100)
    cluster.start()
    for _ in range(5):
        assert cluster.hello().status_code == 500
    lines = shown(cluster)
    row = lines["worker-0"]
    assert row[1:4] == ["5", "0", "5"]
    assert row[-2:] == ["failure", "5"]
    assert lines["WORKER"] == [
        "WORKER",
        "REQUESTS",
        "SUCCESSFUL",
        "FAILED",
        "AVERAGE",
        "ms",
        "P50",
        "ms",
        "P99",
        "ms",
        "INJECTED",
    ]
    assert lines["total"][-2:] == ["failure", "5"]
    answer = requests.get(f"{cluster.lb()}/worker/stats", timeout=10)
    assert cluster.comet("stats", "--json").stdout == answer.text + "\n"
    cluster.stop()


@pytest.mark.parametrize("arguments", [["--reset"], ["--reset", "--json"], ["--json"], []], ids=" ".join)
def test_a_database_that_a_start_refused_is_told_as_unused(
    make_cluster: Callable[..., TestCluster], arguments: list[str]
) -> None:
    cluster = make_cluster(worker=1, pool=1, runtime="process")
    file = cluster.folder / "worker-stats.db"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE comet_schema (version)")
        connection.execute("INSERT INTO comet_schema VALUES (99)")
        connection.commit()
    before = file.read_bytes()
    done = cluster.comet("run")
    assert done.returncode == 1
    assert "made by a newer Comet" in done.stderr
    done = cluster.comet("stats", *arguments)
    remedy = "start the cluster: it takes the file over, or says why not"
    said = f"there are no statistics yet: {file} is not in use ({remedy})\n"
    assert (done.returncode, done.stdout, done.stderr) == (3, "", said)
    assert file.read_bytes() == before
    file.unlink()
    done = cluster.comet("stats", *arguments)
    said = f"there are no statistics yet: {file} does not exist (start the cluster first)\n"
    assert (done.returncode, done.stdout, done.stderr) == (3, "", said)
