"""Containers of a cluster whose `.comet/` is lost: the label with its folder says whose they are."""

import shutil
from collections.abc import Callable

from tests.support.cluster import TestCluster
from tests.support.waiting import wait_until


def test_containers_end_though_no_process_and_state_is_left(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=2, pool=1)
    cluster.start()
    left = set(cluster.containers())
    assert len(left) >= 2
    cluster.kill_supervisor()
    cluster.kill_processes()
    wait_until(lambda: cluster.processes() == [], what="no process is left")
    shutil.rmtree(cluster.folder / ".comet")
    done = cluster.comet("stop")
    assert done.returncode == 0, done.stderr
    with cluster.engine() as engine:
        assert left.isdisjoint(entry["Id"] for entry in engine.api.containers(all=True))
