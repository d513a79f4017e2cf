"""The counts of the load balancers, read from their files once a second."""

import contextlib
import sys
from pathlib import Path
from types import FrameType

import pytest

from comet.state.directory import Cluster
from comet.telemetry import traffic
from lb.interface.counters import EDGE_LATENCY, EDGE_US, REQUESTS, Counters

BALANCERS, WORKERS = 8, 25


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """A cluster whose load balancers have sent each worker two requests, half of them before they were replaced."""
    cluster = Cluster(tmp_path)
    cluster.create()
    for balancer in range(BALANCERS):
        for slot in traffic.SLOTS:
            counts = Counters(cluster.path("run", f"lb-{balancer}.{slot}.counters"))
            counts.slots[REQUESTS] += WORKERS
            for worker in range(WORKERS):
                edge = counts.edge(f"worker-{worker}")
                for index in (2, EDGE_US, EDGE_LATENCY):  # 2: responses of 2xx.
                    edge[index] += 1
                edge.release()
            with contextlib.suppress(BufferError):
                counts.close()
    return cluster


def test_a_workers_counts_are_of_all_balancers_past_and_present(cluster: Cluster) -> None:
    seen = traffic.read(cluster, traffic.names(cluster), (), 0.0)
    assert seen.replicas["worker-3"].responses == (0, 2 * BALANCERS, 0, 0, 0)
    assert seen.replicas["lb-0"].latency[0] == seen.replicas["lb-0"].requests == 2 * WORKERS
    assert seen.edges["lb-1", "worker-0"].latency[0] == 2
    assert seen.total.requests == seen.total.latency_us == 2 * WORKERS * BALANCERS


def test_a_reading_does_little_for_each_edge(cluster: Cluster) -> None:
    """With many replicas the supervisor would do nothing but read, and answer no command."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    names = traffic.names(cluster)
    sys.setprofile(count)
    try:
        traffic.read(cluster, names, (), 0.0)
    finally:
        sys.setprofile(None)
    assert calls / (BALANCERS * WORKERS * len(traffic.SLOTS)) < 40
