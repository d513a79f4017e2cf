"""Injected errors of a whole cluster: every view tells them from unplanned ones."""

import contextlib
import socket
from collections.abc import Callable

import pytest
import requests

from tests.support.cluster import TestCluster, free_ports
from tests.support.fault_orders import order
from tests.support.shared import SharedCluster
from tests.support.waiting import wait_until


def test_injected_errors_are_told_apart(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(
        worker=1, pool=1, runtime="process", avg_delay=0, failure=50, admin_port=free_ports(1), retries=0
    )
    cluster.start()
    url, forged = f"{cluster.lb()}/api/v1/hello", {"X-Comet-Injected": "failure"}
    with requests.Session() as client:
        found = [client.get(url, headers=forged, timeout=30) for _ in range(40)]
        assert client.get(f"{cluster.lb()}/no-such-path", headers=forged, timeout=30).status_code == 404
    assert all("X-Comet-Injected" not in each.headers for each in found)
    failed = sum(each.status_code == 500 for each in found)
    assert 0 < failed < 40
    wait_until(lambda: cluster.ps()["total"]["injected"] == failed)
    seen = cluster.ps()
    views = [seen["total"], *seen["edges"], *seen["replicas"]]
    assert {(each["errors"], each["injected"]) for each in views} == {(failed, failed)}
    cluster.comet("kill", "worker-0")
    wait_until(lambda: cluster.replicas()["worker-0"]["restarts"] == 1)

    def told() -> list[float]:
        text = requests.get(f"http://127.0.0.1:{cluster.config['admin-port']}/metrics", timeout=30).text
        names = tuple(f"comet_{name}_injected_errors_total" for name in ("lb", "worker", "edge"))
        return [float(line.split()[-1]) for line in text.splitlines() if line.startswith(names)]

    # The server of the metrics is told a moment later.
    wait_until(lambda: told() == [failed] * 3, what="the metrics")
    heading = cluster.comet("ps").stdout.splitlines()[0]
    assert "INJECTED" in heading
    assert "ERRORS" not in heading
    cluster.stop()


@pytest.fixture(scope="module")
def shared(share_cluster: Callable[..., SharedCluster]) -> dict[str, SharedCluster]:
    """A worker that fails by order alone, of either kind."""
    config = {"worker": 1, "pool": 1, "avg_delay": 0, "failure": 0, "retries": 0, "request_timeout": "1s"}
    return {runtime: share_cluster(runtime=runtime, **config) for runtime in ("docker", "process")}


@pytest.mark.parametrize("fault", ["reset", "hang"])
def test_faults_without_an_answer_are_injected_errors_too(
    shared: dict[str, SharedCluster], fault: str, runtime: str
) -> None:
    cluster = shared[runtime].lend()
    before = cluster.ps()["total"]
    order(cluster, "worker-0", f"--{fault}", "99.9999")
    assert [cluster.hello().status_code for _ in range(3)] == [502 if fault == "reset" else 504] * 3
    total = wait_until(lambda: found if (found := cluster.ps()["total"])["errors"] >= before["errors"] + 3 else None)
    assert [total[key] - before[key] for key in ("errors", "injected")] == [3, 3]


def test_a_client_of_the_worker_itself_sees_no_announcement(shared: dict[str, SharedCluster]) -> None:
    cluster = shared["process"].lend()
    order(cluster, "worker-0", "--reset", "100")
    with socket.create_connection(("127.0.0.1", cluster.config["worker-port"]), timeout=30) as client:
        client.sendall(b"GET /api/v1/hello HTTP/1.1\r\nHost: a\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
