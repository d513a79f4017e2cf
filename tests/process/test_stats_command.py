"""The statistics as a user reads and resets them while a real cluster runs."""

import json
from collections.abc import Callable

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
