"""A cluster that an earlier version of Comet started: today's `run` takes it over, and neither a request nor a count is
lost.

The earlier version is the commit named here, taken from the repository's own history. It brings its own state file,
messages and counters; a test that edits today's files shows only what its author thought of.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import requests

from tests.process.test_crashes import clients
from tests.support.cluster import PYTHON, ROOT, TestCluster, open_folder
from tests.support.waiting import wait_until

EARLIER = "cf6cf3b4ed9502500c02c8fb51bbfcfc3c0ae8ad"
"""Version 0.1.0."""

pytestmark = pytest.mark.history(EARLIER)


@pytest.fixture(scope="module")
def earlier() -> Iterator[Path]:
    """The sources of the earlier version, in a folder that the workers' user may read."""
    archive = subprocess.run(["git", "archive", EARLIER], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    with open_folder() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.3 and older have none.
            files.extractall(folder)
        yield folder


@contextlib.contextmanager
def by(cluster: TestCluster, sources: Path) -> Iterator[None]:
    """Commands are those of another version, while the block runs."""
    today = cluster.command
    cluster.command = (sys.executable, str(sources / "supervisor.py"))
    try:
        yield
    finally:
        cluster.command = today


@contextlib.contextmanager
def without_its_images(cluster: TestCluster) -> Iterator[None]:
    """What the engine has got when the block ends is removed, but for what today's version made."""
    if cluster.config["runtime"] != "docker":
        yield
        return
    with cluster.engine() as engine:
        before = {image.id for image in engine.images.list(filters={"label": "comet.image"})}
        try:
            yield
        finally:
            cluster.destroy()
            todays = noted(cluster)
            for image in engine.images.list(filters={"label": "comet.image"}):
                if image.id not in before and not set(image.tags) & todays:
                    with contextlib.suppress(docker.errors.APIError):
                        engine.images.remove(str(image.id), force=True)


def noted(cluster: TestCluster) -> set[str]:
    """The images that this cluster has run."""
    note = cluster.folder / ".comet/cache/images"
    return set(note.read_text().split()) if note.exists() else set()


def counted(cluster: TestCluster) -> dict[str, int]:
    """How many requests the statistics have, by worker."""
    done = cluster.comet("stats", "--json")
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)["TotalRequests"]
    return {key: count for entry in listed for key, count in entry.items() if key != "total"}


def forwarded(cluster: TestCluster) -> int:
    """How many requests the load balancers have forwarded."""
    return sum(row["requests"] for row in cluster.replicas().values() if row["role"] == "lb")


SERVICE = {
    "worker-command": f"'{PYTHON} -m http.server {{port}} --bind {{host}}'",
    "health-path": "/",
    "avg-delay": None,
    "failure": None,
}
"""Its requests are counted by the load balancers alone."""


@pytest.mark.docker
@pytest.mark.parametrize(
    ("path", "config"),
    [
        pytest.param("/api/v1/hello", {"runtime": "docker"}, id="docker"),
        pytest.param("/api/v1/hello", {"runtime": "process"}, id="process"),
        pytest.param("/", {"runtime": "process", **SERVICE}, id="service"),
    ],
)
def test_run_takes_over_a_cluster_of_an_earlier_version(
    make_cluster: Callable[..., TestCluster], earlier: Path, path: str, config: dict[str, Any]
) -> None:
    cluster = make_cluster(worker=2, pool=2, **config)
    with without_its_images(cluster):
        with by(cluster, earlier):
            cluster.start()
            for number in range(20):
                assert requests.get(f"{cluster.lb(number % 2)}{path}", timeout=30).status_code == 200
            before, made = cluster.replicas(), counted(cluster)
            assert sum(made.values()) == 20
            os.kill(cluster.supervisor_pid(), signal.SIGKILL)
            wait_until(lambda: not cluster.ps()["supervisor"]["running"])
        assert {name: row["pid"] for name, row in cluster.replicas().items()} == {
            name: row["pid"] for name, row in before.items()
        }
        with clients(cluster, path=path) as strict:
            wait_until(lambda: all(client.good > 5 for client in strict), what="answers while no supervisor runs")
            cluster.start()
            seen = [client.good for client in strict]
            wait_until(
                lambda: all(client.good > count + 10 for client, count in zip(strict, seen, strict=True)),
                what="answers after it",
            )
        assert [client.bad for client in strict] == [[]] * len(strict)
        after = cluster.replicas()
        assert {name: row["state"] for name, row in after.items()} == dict.fromkeys(before, "ready")
        assert {row["restarts"] for row in after.values()} == {0}
        answered = 20 + sum(client.good for client in strict)
        now = counted(cluster)
        assert sum(now.values()) == answered
        assert {key for key in made if now.get(key, 0) < made[key]} == set()
        assert forwarded(cluster) >= answered
        cluster.stop()
        cluster.assert_nothing_left()
