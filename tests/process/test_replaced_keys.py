"""Keys of `consistent-hash` while workers are replaced: no key of a worker that serves goes elsewhere."""

import threading
from pathlib import Path

import requests

from tests.support.cluster import TestCluster, open_cluster

KEYS = 60


def homes(cluster: TestCluster, session: requests.Session) -> dict[int, str]:
    """The worker of each key, by a request for each."""
    found = {}
    for key in range(KEYS):
        answer = session.get(cluster.lb(), headers={"X-Key": f"k{key}"}, timeout=60)
        found[key] = answer.headers["X-Comet-Worker"]
    return found


def test_a_restart_moves_no_key_of_other_workers(tmp_path: Path) -> None:
    settings = {"balance": "consistent-hash", "balance-key": "header:X-Key"}
    with (
        open_cluster(tmp_path, runtime="process", worker=3, pool=1, **settings) as cluster,
        requests.Session() as session,
    ):
        cluster.start()
        before = homes(cluster, session)
        restart = threading.Thread(target=cluster.comet, args=("restart", "worker-0"))
        restart.start()
        seen: set[tuple[str, str]] = set()
        while restart.is_alive():
            during = homes(cluster, session)
            seen |= {(before[key], during[key]) for key in before}
        restart.join()
        assert {now for was, now in seen if was != "worker-0"} == {"worker-1", "worker-2"}
        assert {now for was, now in seen if was == "worker-0"} <= {"worker-0", "worker-3"}
        assert homes(cluster, session) == before
        assert cluster.events("surge_started", "worker-3")
