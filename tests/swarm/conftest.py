"""Machines for the tests in a swarm of their own; where one fails it tells what they were like then.

All tests share three machines, as an engine and its images cost more than most of the tests. Each leaves all of them
on, connected, and without a service.
"""

import contextlib
from collections.abc import Generator, Iterator
from pathlib import Path

import docker
import pytest

from comet.images import base_image
from comet.images import worker_image as images
from comet.state.directory import Cluster
from tests.support.cluster import remove_services
from tests.support.waiting import wait_until
from tests.swarm.evidence import gather_evidence
from tests.swarm.hosts import Hosts, hosts
from tests.swarm.remote import tls_options
from tests.swarm.scenes import IMAGE


@pytest.fixture(scope="package")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the keys are by which h1's engine is reached over TCP."""
    return tmp_path_factory.mktemp("keys") / "tls"


@pytest.fixture(scope="package")
def lab(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Hosts]:
    with furnished(tmp_path_factory.mktemp("image"), 3, tls_options(keys)) as machines:
        yield machines


@contextlib.contextmanager
def furnished(folder: Path, count: int, options: str = "") -> Iterator[Hosts]:
    """So many machines with our image on each; `options` as `Hosts` takes them."""
    Cluster(folder).create()
    source = docker.from_env()
    with contextlib.closing(source), hosts(count, options) as machines:
        # Where the base is the official one, a load balancer's machine without it would take another image for the
        # right one.
        base = base_image.present(source)
        wanted = [
            images.ensure_image(source, folder, lambda told: None),
            *([base.reference] if base is not None else []),
        ]
        machines.load(source, wanted)
        for number in machines.numbers:
            machines.client(number).images.get(wanted[0]).tag(*IMAGE.split(":"))
        yield machines


@pytest.fixture(scope="module")
def manager(lab: Hosts) -> Iterator[docker.DockerClient]:
    """What manages the swarm, in which the three are from the first use on. No service is left in it."""
    client = lab.client(1)
    if client.info()["Swarm"]["LocalNodeState"] == "inactive":
        lab.swarm()
    wait_until(lambda: [each.attrs["Status"]["State"] for each in client.nodes.list()] == ["ready"] * lab.count)
    yield client
    for number in lab.numbers:
        if not lab.is_on(number):  # A failed test's.
            lab.start(number)
        lab.link(number, up=True)
    remove_services(client)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.failed and isinstance(lab, Hosts):
        report.sections.append(("the machines", gather_evidence(lab)))
    return report
