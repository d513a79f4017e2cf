"""Containers that are left of a cluster without a supervisor are ended."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from comet.engine.clients import Engines
from comet.images.worker_image import ensure_image
from comet.runtimes import discovery
from comet.state.directory import Cluster

GRACE = 2
COUNT = 4


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of containers that ignore the order to end, as one does that finishes long requests."""
    cluster = Cluster(tmp_path)
    cluster.create()
    label = f"comet.cluster={cluster.id}"
    with contextlib.closing(docker.from_env()) as client:
        image = ensure_image(client, tmp_path, lambda _: None)
        try:
            for number in range(COUNT):
                labels = {"comet.cluster": str(cluster.id), "comet.replica": f"worker-{number}"}
                made = {"entrypoint": ["sleep", "600"], "labels": labels, "network_mode": "none", "detach": True}
                client.containers.run(image, **made)
            yield cluster
        finally:
            for each in client.containers.list(all=True, filters={"label": label}):
                each.remove(force=True)


def test_all_orphans_are_told_to_end_before_any_is_awaited(cluster: Cluster) -> None:
    engines = Engines()
    found = discovery.find(cluster, engines)
    began = int(time.time())
    said = list(discovery.end(cluster, found, engines, GRACE))
    assert len(said) == COUNT
    assert all("removed" in line for line in said)
    assert discovery.find(cluster, engines) == []
    seen = engines.get_local().events(
        since=began, until=int(time.time()) + 1, decode=True, filters={"label": f"comet.cluster={cluster.id}"}
    )
    actions = [each["Action"] for each in seen if each["Action"] in ("kill", "destroy")]
    assert actions[:COUNT] == ["kill"] * COUNT
    assert actions.count("destroy") == COUNT
