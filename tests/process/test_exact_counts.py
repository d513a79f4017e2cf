"""200 clients at once: what they saw is what was counted, to the request."""

import os
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import docker
import pytest
import requests

from tests.support.cluster import TestCluster
from tests.support.waiting import PATIENCE, wait_until

CLIENTS = 200
REQUESTS = 5000 if os.environ.get("COMET_TEST_FULL") else 2000


def ask(cluster: TestCluster, requests_each: int, barrier: threading.Barrier, number: int) -> Counter[str]:
    seen: Counter[str] = Counter()
    with requests.Session() as session:
        barrier.wait(60 * PATIENCE)
        for _ in range(requests_each):
            try:
                answer = session.get(f"{cluster.lb(number % 2)}/api/v1/hello", timeout=60)
            except requests.RequestException as error:
                seen[repr(error)] += 1
                continue
            kind = "injected" if answer.text == '{"error":"injected failure"}' else str(answer.status_code)
            seen[kind] += 1
            seen[f"by {answer.headers.get('X-Comet-Worker')}"] += 1
    return seen


def run_clients(cluster: TestCluster, during: Callable[[], None] | None = None) -> Counter[str]:
    barrier = threading.Barrier(CLIENTS + 1)
    with ThreadPoolExecutor(CLIENTS) as pool:
        asked = [pool.submit(ask, cluster, REQUESTS // CLIENTS, barrier, number) for number in range(CLIENTS)]
        barrier.wait(60 * PATIENCE)
        if during is not None:
            during()
        return sum((each.result() for each in asked), Counter())


def figures(cluster: TestCluster, key: str) -> dict[str, float]:
    listed = requests.get(f"{cluster.lb()}/worker/stats", timeout=30).json()[key]
    return {name: value for entry in listed for name, value in entry.items()}


def test_counts_equal_what_200_clients_saw(make_cluster: Callable[..., TestCluster], runtime: str) -> None:
    # A check that is late on a busy machine would take a worker out, and with it its share.
    cluster = make_cluster(worker=3, pool=2, failure=12, avg_delay=50, runtime=runtime, health_timeout=30)
    cluster.start()
    seen = run_clients(cluster)
    assert seen["200"] + seen["injected"] == REQUESTS, seen
    assert figures(cluster, "TotalRequests")["total"] == REQUESTS
    assert figures(cluster, "SuccessfulRequests")["total"] == seen["200"]
    assert figures(cluster, "FailedRequests")["total"] == seen["injected"]
    assert 0.12 * REQUESTS * 0.7 < seen["injected"] < 0.12 * REQUESTS * 1.3
    # Load is even: round robin gives each load balancer's share out to the request.
    shares = [seen[f"by worker-{number}"] for number in range(3)]
    assert max(shares) - min(shares) <= 2
    assert sum(row["requests"] for row in cluster.replicas().values() if row["role"] == "lb") >= REQUESTS
    cluster.stop()


@pytest.mark.docker
def test_counts_hold_with_a_worker_killed_on_the_way(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=3, pool=2, failure=0, avg_delay=100)
    cluster.start()
    victim = cluster.replicas()["worker-1"]["id"]

    def kill() -> None:
        wait_until(lambda: figures(cluster, "TotalRequests")["total"] > REQUESTS / 10, what="a tenth of the requests")
        engine = docker.from_env()
        engine.api.kill(victim)
        engine.close()

    seen = run_clients(cluster, kill)
    assert seen["200"] == REQUESTS, seen  # Nobody saw an error.
    counted = figures(cluster, "TotalRequests")["total"]
    repeated = counted - REQUESTS
    # Each request is counted where it was answered; one that was repeated may have been handled by the dead worker too.
    assert 0 <= repeated <= CLIENTS, (counted, REQUESTS)
    wait_until(lambda: cluster.replicas()["worker-1"]["state"] == "ready")
    cluster.stop()
    cluster.assert_nothing_left()
