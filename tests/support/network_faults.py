"""What a test sees of faults in the networks of a cluster's workers."""

from __future__ import annotations

import contextlib

import docker
import requests

from tests.support.cluster import TestCluster

QUICK = {"health_interval": 0.5, "health_timeout": 0.5, "health_restart": 1000, "request_timeout": 3}
"""A cluster that notices a fault soon, and restarts nothing for it."""


def answers(cluster: TestCluster, number: int) -> bool:
    """Whether a worker itself answers, asked at its own port."""
    with contextlib.suppress(requests.RequestException):
        return requests.get(f"{cluster.worker(number)}/healthz", timeout=0.5).status_code == 200
    return False


def helpers(cluster: TestCluster, client: docker.DockerClient) -> list[str]:
    """The containers that hold faults."""
    labels = [f"comet.cluster={cluster.cluster_id}", "comet.network"]
    return [entry["Id"] for entry in client.api.containers(all=True, filters={"label": labels})]
