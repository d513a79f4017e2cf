"""Machines for the tests in a swarm of their own; where one fails it tells what they were like then."""

import contextlib
from collections.abc import Generator, Iterator
from pathlib import Path

import docker
import pytest

from comet import base_image
from comet import image as images
from comet.cluster import Cluster
from tests.swarm.evidence import gathered
from tests.swarm.hosts import Hosts, hosts
from tests.swarm.scenes import IMAGE


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with furnished(tmp_path_factory.mktemp("image"), 3) as machines:
        yield machines


@contextlib.contextmanager
def furnished(folder: Path, count: int, options: str = "") -> Iterator[Hosts]:
    """So many machines with our image on each; `options` as `Hosts` takes them."""
    Cluster(folder).create()
    source = docker.from_env()
    with contextlib.closing(source), hosts(count, options) as machines:
        # Where the base is the official one, a load balancer's machine without it would take another image for the right one.
        base = base_image.present(source)
        wanted = [images.ensure_image(source, folder, lambda told: None), *([base.reference] if base is not None else [])]
        machines.load(source, wanted)
        for number in machines.numbers:
            machines.client(number).images.get(wanted[0]).tag(*IMAGE.split(":"))
        yield machines


@pytest.fixture(scope="module")
def manager(lab: Hosts) -> docker.DockerClient:
    """What manages the swarm, in which the three are from the first use on."""
    client = lab.client(1)
    if client.info()["Swarm"]["LocalNodeState"] == "inactive":
        lab.swarm()
    return client


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.failed and isinstance(lab, Hosts):
        report.sections.append(("the machines", gathered(lab)))
    return report
