"""Comet on a machine that is no manager: the swarm's manager is another one, reached by ssh or by TCP with TLS."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.support.cluster import TestCluster, open_cluster
from tests.support.waiting import wait_until
from tests.swarm.hosts import Hosts
from tests.swarm.remote import by_ssh, by_tls
from tests.swarm.scenes import OWN, all_ready, clients_of, error_line, on_machine, spread, start_everywhere, workers

SOUND = OWN | {"worker_command": "['--listen', '0.0.0.0:{port}', '--identity', 'container', '--no-faults']"}


@pytest.fixture(params=["ssh", "TLS"])
def way(request: pytest.FixtureRequest, lab: Hosts, keys: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment that leads from h2 to h1's engine."""
    with (
        by_ssh(lab, tmp_path / "ssh") if request.param == "ssh" else contextlib.nullcontext(by_tls(keys)) as environment
    ):
        yield environment


@pytest.fixture
def cluster(lab: Hosts, manager: docker.DockerClient, way: dict[str, str], tmp_path: Path) -> Iterator[TestCluster]:
    (tmp_path / "cluster").mkdir()
    with open_cluster(
        tmp_path / "cluster", worker=3, health_interval=1, health_timeout=1, start_timeout=120, **SOUND
    ) as cluster:
        on_machine(lab, cluster, 2).environment = way
        yield cluster


def test_a_remote_manager_works_like_a_local_one(cluster: TestCluster, lab: Hosts) -> None:
    start_everywhere(cluster)
    with clients_of(lab, cluster, 2) as clients:
        assert cluster.comet("scale", "worker=4").returncode == 0
        wait_until(all_ready(cluster, 4))
        assert "listening on" in cluster.comet("logs", "worker-3").stdout
        spread(cluster, frozenset({"h1"}))
        here = next(name for name, row in workers(cluster).items() if row["node"] == "h1")
        assert cluster.comet("kill", here).returncode == 0
        wait_until(lambda: workers(cluster)[here]["last_exit"], what="its death is told")
        wait_until(all_ready(cluster, 4))
    assert clients.failures == {}
    cluster.stop()
    cluster.assert_nothing_left()


@pytest.mark.parametrize("way", ["ssh"], indirect=True)
def test_an_unreachable_manager_is_reconnected(cluster: TestCluster, lab: Hosts) -> None:
    start_everywhere(cluster)
    with clients_of(lab, cluster, 2) as clients:
        lab.link(1, up=False)
        wait_until(lambda: cluster.events("engine_lost"), 60, "the manager is missed")
        assert "the swarm's manager does not answer" in cluster.events("engine_lost")[-1]["reason"]
        assert "manager does not answer; nothing was changed" in error_line(cluster, "scale", "worker=4")
        seen = clients.answers["200"]
        wait_until(lambda: clients.answers["200"] > seen + 100, what="the workers of the other machines serve")
    assert clients.failures == {}
    # The swarm ends their tasks, which it has replaced, as soon as it hears of them: nobody may serve for a moment.
    lab.link(1, up=True)
    wait_until(lambda: cluster.events("engine_back"), 60, "the manager is back")
    wait_until(all_ready(cluster), 60)
    cluster.stop()
    cluster.assert_nothing_left()


def test_a_refused_manager_connection_is_one_line(cluster: TestCluster, way: dict[str, str], tmp_path: Path) -> None:
    stranger = (
        {"PATH": way["PATH"], "DOCKER_HOST": way["DOCKER_HOST"].replace("root@", "nobody@")} if "PATH" in way else way
    )
    if "DOCKER_CERT_PATH" in way:
        stranger = {**way, "DOCKER_CERT_PATH": str(tmp_path)}
    cluster.environment = stranger
    line = error_line(cluster, "run", "--detach")
    assert f"the Docker engine at {stranger['DOCKER_HOST']} cannot be used: " in line
    assert "Permission denied" in line or "TLS" in line
    cluster.environment = way
