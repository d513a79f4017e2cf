"""200 clients at once: what they saw is what was counted, to the request."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import docker
import pytest
import requests

from tests.integration.clusters import House, eventually

pytestmark = [pytest.mark.docker, pytest.mark.slow]

CLIENTS = 200
REQUESTS = 5000


def ask(house: House, requests_each: int, barrier: threading.Barrier, number: int) -> Counter[str]:
    seen: Counter[str] = Counter()
    with requests.Session() as session:
        barrier.wait(60)
        for _ in range(requests_each):
            try:
                answer = session.get(f"{house.lb(number % 2)}/api/v1/hello", timeout=60)
            except requests.RequestException as error:
                seen[repr(error)] += 1
                continue
            kind = "injected" if answer.text == '{"error":"injected failure"}' else str(answer.status_code)
            seen[kind] += 1
            seen[f"by {answer.headers.get('X-Comet-Worker')}"] += 1
    return seen


def run_clients(house: House, during: Callable[[], None] | None = None) -> Counter[str]:
    barrier = threading.Barrier(CLIENTS + 1)
    with ThreadPoolExecutor(CLIENTS) as pool:
        asked = [pool.submit(ask, house, REQUESTS // CLIENTS, barrier, number) for number in range(CLIENTS)]
        barrier.wait(60)
        if during is not None:
            during()
        return sum((each.result() for each in asked), Counter())


def figures(house: House, key: str) -> dict[str, float]:
    listed = requests.get(f"{house.lb()}/worker/stats", timeout=30).json()[key]
    return {name: value for entry in listed for name, value in entry.items()}


def test_counts_equal_what_200_clients_saw_f20(make_house: Callable[..., House], runtime: str) -> None:
    house = make_house(worker=3, pool=2, failure=12, avg_delay=50, runtime=runtime)
    house.start()
    seen = run_clients(house)
    assert seen["200"] + seen["injected"] == REQUESTS, seen
    assert figures(house, "TotalRequests")["total"] == REQUESTS
    assert figures(house, "SuccessfulRequests")["total"] == seen["200"]
    assert figures(house, "FailedRequests")["total"] == seen["injected"]
    assert 0.12 * REQUESTS * 0.7 < seen["injected"] < 0.12 * REQUESTS * 1.3
    # Load is even: round robin gives each load balancer's share out to the request.
    shares = [seen[f"by worker-{number}"] for number in range(3)]
    assert max(shares) - min(shares) <= 2
    assert sum(row["requests"] for row in house.replicas().values() if row["role"] == "lb") >= REQUESTS
    house.stop()


def test_counts_hold_with_a_worker_killed_on_the_way(make_house: Callable[..., House]) -> None:
    house = make_house(worker=3, pool=2, failure=0, avg_delay=100)
    house.start()
    victim = house.replicas()["worker-1"]["id"]

    def kill() -> None:
        eventually(lambda: figures(house, "TotalRequests")["total"] > REQUESTS / 10, what="a tenth of the requests")
        engine = docker.from_env()
        engine.api.kill(victim)
        engine.close()

    seen = run_clients(house, kill)
    assert seen["200"] == REQUESTS, seen  # Nobody saw an error.
    counted = figures(house, "TotalRequests")["total"]
    repeated = counted - REQUESTS
    # Each request is counted where it was answered; one that was repeated may have been handled by the dead worker too.
    assert 0 <= repeated <= CLIENTS, (counted, REQUESTS)
    eventually(lambda: house.replicas()["worker-1"]["state"] == "ready")
    house.stop()
    house.assert_nothing_left()
