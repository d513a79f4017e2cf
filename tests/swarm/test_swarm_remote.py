"""Comet on a machine that is no manager: the swarm's manager is another one, reached by ssh or by TCP with TLS."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.integration.clusters import House, eventually, house
from tests.swarm.conftest import furnished
from tests.swarm.hosts import Hosts
from tests.swarm.remote import by_ssh, by_tls, tls_options
from tests.swarm.scenes import OWN, at, crowd, settled, told, workers

pytestmark = [pytest.mark.slow, pytest.mark.docker]

SOUND = OWN | {"worker_command": "['--listen', '0.0.0.0:{port}', '--identity', 'container', '--no-faults']"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "tls"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Hosts]:
    with furnished(tmp_path_factory.mktemp("image"), 2, tls_options(keys)) as machines:
        yield machines


@pytest.fixture(params=["ssh", "TLS"])
def way(request: pytest.FixtureRequest, lab: Hosts, keys: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment that leads from h2 to h1's engine."""
    with by_ssh(lab, tmp_path / "ssh") if request.param == "ssh" else contextlib.nullcontext(by_tls(keys)) as environment:
        yield environment


@pytest.fixture
def made(lab: Hosts, manager: docker.DockerClient, way: dict[str, str], tmp_path: Path) -> Iterator[House]:
    (tmp_path / "cluster").mkdir()
    with house(tmp_path / "cluster", worker=2, health_interval=1, health_timeout=1, start_timeout=30, **SOUND) as cluster:
        at(lab, cluster, 2).environment = way
        yield cluster


def test_all_is_as_with_a_manager_here(made: House, lab: Hosts) -> None:
    made.start()
    assert {row["node"] for row in workers(made).values()} == {"h1", "h2"}
    with crowd(lab, made, 2) as clients:
        assert made.comet("scale", "worker=3").returncode == 0
        eventually(settled(made, 3))
        assert "listening on" in made.comet("logs", "worker-2").stdout
        here = next(name for name, row in workers(made).items() if row["node"] == "h1")
        assert made.comet("kill", here).returncode == 0
        eventually(lambda: workers(made)[here]["last_exit"], what="its death is told")
        eventually(settled(made, 3))
    assert clients.failures == {}
    made.stop()
    made.assert_nothing_left()


@pytest.mark.parametrize("way", ["ssh"], indirect=True)
def test_a_manager_that_is_out_of_reach_is_missed_and_found_again(made: House, lab: Hosts) -> None:
    made.start()
    with crowd(lab, made, 2) as clients:
        lab.link(1, up=False)
        eventually(lambda: made.events("engine_lost"), 60, "the manager is missed")
        assert "the swarm's manager does not answer" in made.events("engine_lost")[-1]["reason"]
        assert "manager does not answer; nothing was changed" in told(made, "scale", "worker=3")
        seen = clients.answers["200"]
        eventually(lambda: clients.answers["200"] > seen + 100, what="the worker of this machine serves")
    assert clients.failures == {}
    # The swarm ends the task of this machine, which it has replaced, as soon as it hears of it again: nobody may serve for a moment.
    lab.link(1, up=True)
    eventually(lambda: made.events("engine_back"), 60, "the manager is back")
    eventually(settled(made, 2), 60)
    made.stop()
    made.assert_nothing_left()


def test_who_is_not_let_in_is_told_why_in_one_line(made: House, way: dict[str, str], tmp_path: Path) -> None:
    stranger = {"PATH": way["PATH"], "DOCKER_HOST": way["DOCKER_HOST"].replace("root@", "nobody@")} if "PATH" in way else way
    if "DOCKER_CERT_PATH" in way:
        stranger = {**way, "DOCKER_CERT_PATH": str(tmp_path)}
    made.environment = stranger
    line = told(made, "run", "--detach")
    assert f"the Docker engine at {stranger['DOCKER_HOST']} cannot be used: " in line
    assert "Permission denied" in line or "TLS" in line
    made.environment = way
