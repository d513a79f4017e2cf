"""`access-log: true`, through a whole cluster and the restart of a load balancer."""

import json
from collections.abc import Callable

from tests.support.cluster import TestCluster
from tests.support.waiting import wait_until


def test_access_log_has_every_request_across_a_restart(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=2, pool=1, runtime="process", access_log="true")
    cluster.start()
    assert [cluster.hello().status_code for _ in range(4)] == [200] * 4
    path = cluster.folder / ".comet/logs/lb-0.access.log"
    wait_until(lambda: path.exists() and path.read_text().count("\n") == 4)
    assert cluster.comet("kill", "lb-0").returncode == 0
    assert cluster.hello().status_code == 200
    wait_until(lambda: path.read_text().count("\n") == 5)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["worker"] for record in records[:4]] == ["worker-0", "worker-1"] * 2
    assert path.stat().st_mode & 0o777 == 0o600
    cluster.stop()
    cluster.assert_nothing_left()


def test_no_access_log_by_default(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=1, pool=1, runtime="process")
    cluster.start()
    assert cluster.hello().status_code == 200
    cluster.stop()
    assert list((cluster.folder / ".comet/logs").glob("*.access.log*")) == []
