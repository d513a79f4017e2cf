"""A container that a user starts from a committed worker has the worker's labels: it stays the user's."""

import contextlib
import secrets
from collections.abc import Callable, Iterator

import docker
import pytest

from tests.support.cluster import TestCluster


@contextlib.contextmanager
def copy_of(client: docker.DockerClient, container: str) -> Iterator[str]:
    """The id of a container that runs a committed one."""
    name = f"comet-test-copy-{secrets.token_hex(4)}"
    image = client.api.commit(container, name)["Id"]
    try:
        made = client.containers.run(image, name=name, entrypoint=["sh", "-c", "echo a copy; sleep 600"], detach=True)
        try:
            yield str(made.id)
        finally:
            with contextlib.suppress(docker.errors.NotFound):
                client.api.remove_container(made.id, force=True)
    finally:
        client.api.remove_image(image, force=True)


@pytest.mark.parametrize("committed_twice", [False, True], ids=["copy", "copy_of_copy"])
def test_a_copy_of_a_worker_is_its_users(make_cluster: Callable[..., TestCluster], committed_twice: bool) -> None:
    cluster = make_cluster(worker=1, pool=1)
    cluster.start()
    with cluster.engine() as client, contextlib.ExitStack() as held:
        copy = held.enter_context(copy_of(client, cluster.replicas()["worker-0"]["id"]))
        if committed_twice:
            copy = held.enter_context(copy_of(client, copy))

        def runs() -> bool:
            return bool(client.api.inspect_container(copy)["State"]["Running"])

        assert cluster.comet("restart", "worker-0").returncode == 0
        assert runs()
        assert "a copy" not in cluster.comet("logs", "worker-0").stdout
        cluster.kill_supervisor()
        assert [name for name in cluster.replicas() if name.startswith("worker")] == ["worker-0"]
        worker = cluster.replicas()["worker-0"]["id"]
        cluster.start()
        assert runs()
        assert cluster.replicas()["worker-0"]["id"] == worker
        cluster.stop()
        assert runs()
        assert cluster.comet("stop").returncode == 3, "nothing of the cluster is left"
        assert runs()


def test_a_worker_may_run_a_committed_worker(make_cluster: Callable[..., TestCluster]) -> None:
    """Its containers have the labels of their image, and are the cluster's all the same."""
    cluster = make_cluster(worker=1, pool=1)
    cluster.start()
    tag = f"comet-test-copy-{secrets.token_hex(4)}"
    with cluster.engine() as client:
        serves = {"Entrypoint": ["python3", "-m", "http.server", "--directory", "/usr", "8080"], "Cmd": []}
        image = client.api.commit(cluster.replicas()["worker-0"]["id"], tag, conf=serves)["Id"]
        try:
            assert client.api.inspect_image(image)["Config"]["Labels"]["comet.cluster"] == cluster.cluster_id
            cluster.stop()
            cluster.write(worker_image=tag, avg_delay=None, failure=None, health_path="/")
            cluster.start()
            worker = cluster.replicas()["worker-0"]["id"]
            cluster.kill_supervisor()
            cluster.start()
            assert cluster.replicas()["worker-0"]["id"] == worker
            assert cluster.comet("restart", "worker-0").returncode == 0
            assert len(cluster.containers()) == 1
            cluster.stop()
            cluster.assert_nothing_left()
        finally:
            cluster.destroy()
            client.api.remove_image(image, force=True)
