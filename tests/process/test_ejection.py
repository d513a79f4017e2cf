"""Ejection for answers in a whole cluster: seen in `ps`, events and metrics, and switched by a reload."""

from pathlib import Path

import requests

from tests.support.cluster import open_cluster
from tests.support.waiting import wait_until

SETTINGS = {
    "runtime": "process",
    "worker": 3,
    "pool": 1,
    "avg-delay": 0,
    "faults": "{worker-0: {failure: 100}}",
    "eject-after-5xx": 3,
    "eject-time": 3600,
    "eject-time-max": 3600,
}
"""One worker fails always, and is ejected for longer than a test."""


def test_an_ejected_worker_is_seen_and_comes_back(tmp_path: Path) -> None:
    with open_cluster(tmp_path, **SETTINGS) as cluster:
        cluster.write(admin_port=cluster.config["load-balancer-port"] + 50)
        cluster.start()
        wait_until(lambda: cluster.hello().status_code and cluster.events("worker_ejected"))
        assert {cluster.hello().status_code for _ in range(12)} == {200}
        event = cluster.events("worker_ejected")[0]
        assert (event["replica"], event["lb"], event["for_s"]) == ("worker-0", "lb-0", 3600)
        assert event["reason"] == "3 server errors in a row"
        wait_until(lambda: cluster.replicas()["worker-0"]["ejected"])
        row = cluster.replicas()["worker-0"]
        assert row["state"] == "ready"
        assert row["ejected"] == {"lb-0": "3 server errors in a row"}
        view = row["health"]["lb-0"]
        assert (view["healthy"], view["reason"]) == (False, "ejected: 3 server errors in a row")
        edges = {edge["worker"]: (edge["ejected"], edge["healthy"]) for edge in cluster.ps()["edges"]}
        assert edges == {"worker-0": (True, False), "worker-1": (False, True), "worker-2": (False, True)}
        assert "ejected by lb-0: 3 server errors in a row" in cluster.comet("ps").stdout
        url = f"http://127.0.0.1:{cluster.config['admin-port']}/metrics"
        sample = 'comet_edge_ejected{lb="lb-0",worker="worker-0"} 1.0'
        wait_until(lambda: sample in requests.get(url, timeout=60).text)
        cluster.write(eject_after_5xx=0)
        assert cluster.comet("reload").returncode == 0
        wait_until(lambda: cluster.events("worker_readmitted"))
        wait_until(lambda: not cluster.replicas()["worker-0"]["ejected"])
        assert 500 in {cluster.hello().status_code for _ in range(12)}


def test_a_new_supervisor_shows_who_is_ejected(tmp_path: Path) -> None:
    with open_cluster(tmp_path, **SETTINGS) as cluster:
        cluster.start()
        wait_until(lambda: cluster.hello().status_code and cluster.replicas()["worker-0"]["ejected"])
        before = cluster.replicas()["worker-0"]["ejected"]
        cluster.kill_supervisor()
        cluster.start()
        assert cluster.events("adopted", "lb-0")
        wait_until(lambda: cluster.replicas()["worker-0"]["ejected"] == before, what="an ejection that is shown")
        cluster.write(eject_after_5xx=0)
        assert cluster.comet("reload").returncode == 0
        wait_until(lambda: not cluster.replicas()["worker-0"]["ejected"])
