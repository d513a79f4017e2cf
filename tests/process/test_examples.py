"""The examples as their README tells them: each started by its one command, asked through its load balancers, and put
through what Comet offers: kills, rolling restarts, faults, statistics.

They run in copies of their folders, with ports of the tests' own; what they install goes into the copies and is gone
with them.
"""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import requests
import yaml

from comet.load.closed_model import ClosedModel, ResultCounts
from tests.support.cluster import ROOT, TestCluster, open_folder
from tests.support.waiting import wait_until

NAMES = sorted(path.parent.name for path in (ROOT / "examples").glob("*/config.yaml"))
NGINX_IMAGE = "comet-example-nginx"
LEFT_OUT = shutil.ignore_patterns(".comet", ".venv", ".caddy", "packages*")


class Example(TestCluster):
    """A copy of an example, which keeps its own config but for the ports."""

    def write(self, **changes: object) -> None:
        path = self.folder / "config.yaml"
        ports = {
            key: value
            for key, value in self.config.items()
            if key in ("load-balancer-port", "worker-port", "load-balancer-host")
        }
        config = yaml.safe_load(path.read_text()) | ports | {"admin-port": 0}
        if os.getuid() == 0 and config.get("runtime") == "process":
            # The tests' folders and their interpreter may be root's alone.
            config["worker-user"] = "root"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        self.config = yaml.safe_load(path.read_text())

    def script(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """scripts/example.sh with this copy."""
        argv = [str(ROOT / "scripts/example.sh"), str(self.folder), *arguments]
        return subprocess.run(argv, cwd="/", capture_output=True, text=True, timeout=300, check=False)


@contextlib.contextmanager
def running(name: str) -> Iterator[Example]:
    """The example, started by its one command, the image of the nginx one included."""
    with open_folder() as folder:
        copy = Path(shutil.copytree(ROOT / "examples" / name, folder / name, ignore=LEFT_OUT))
        made = Example(copy)
        try:
            done = made.script("--detach")
            assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
            assert f"http://127.0.0.1:{made.config['load-balancer-port']}/" in done.stdout.split()
            yield made
        finally:
            made.destroy()


@pytest.fixture(scope="module")
def nginx() -> Iterator[Example]:
    with contextlib.closing(docker.from_env()) as engine:
        before = engine.images.list(NGINX_IMAGE)
        try:
            with running("nginx") as made:
                yield made
        finally:
            if not before:
                with contextlib.suppress(docker.errors.APIError):
                    engine.images.remove(NGINX_IMAGE, force=True)


@pytest.fixture(scope="module")
def caddy() -> Iterator[Example]:
    with running("caddy") as made:
        yield made


@pytest.fixture(scope="module")
def pypi() -> Iterator[Example]:
    with running("pypi") as made:
        yield made


def asked(example: Example, *command: str) -> ResultCounts:
    """What strict clients of both load balancers saw while a command ran; it must work."""

    async def both() -> ResultCounts:
        first = example.config["load-balancer-port"]
        crowd = ClosedModel([("127.0.0.1", first), ("127.0.0.1", first + 1)], "/", 10.0)
        try:
            book = crowd.start(8, 0.01)
            done = await asyncio.to_thread(example.comet, *command)
            await crowd.stop()
        finally:
            crowd.end()
            await crowd.wait_closed()
        assert done.returncode == 0, done.stderr
        return book

    return asyncio.run(both())


def returned(example: Example, before: dict[str, Any]) -> dict[str, Any]:
    """The replica's row once it is ready in a later life than that row's."""

    def later() -> dict[str, Any] | None:
        row = example.replicas()[before["name"]]
        return row if row["state"] == "ready" and row["restarts"] == before["restarts"] + 1 else None

    row = wait_until(later, what=f"{before['name']} comes back")
    assert row is not None
    return row


def ends_clean(example: Example) -> None:
    """`stop` by the script leaves nothing."""
    done = example.script("stop")
    assert done.returncode == 0, done.stderr
    example.assert_nothing_left()


@pytest.mark.docker
def test_nginx_serves_the_folder_from_three_containers(nginx: Example) -> None:
    answers = [requests.get(nginx.lb(), timeout=10) for _ in range(6)]
    assert {(each.status_code, each.headers["Server"].split("/")[0], each.text) for each in answers} == {
        (200, "nginx", (ROOT / "examples/nginx/site/index.html").read_text())
    }
    assert Counter(each.headers["X-Comet-Worker"] for each in answers) == {"worker-0": 2, "worker-1": 2, "worker-2": 2}
    assert {row["kind"] for row in nginx.replicas().values() if row["role"] == "worker"} == {"container"}


@pytest.mark.docker
def test_nginx_is_replaced_one_by_one_and_no_request_is_lost(nginx: Example) -> None:
    before = {row["id"] for row in nginx.replicas().values()}
    book = asked(nginx, "restart", "worker")
    assert (book.errors, book.ok) == (Counter(), book.requests)
    assert book.requests > 100
    after = {row["id"] for row in nginx.replicas().values() if row["role"] == "worker"}
    assert len(after) == 3
    assert not after & before


@pytest.mark.docker
def test_nginx_comes_back_and_its_death_loses_no_request(nginx: Example) -> None:
    before = nginx.replicas()["worker-1"]
    book = asked(nginx, "kill", "worker-1")
    assert (book.errors, book.ok) == (Counter(), book.requests)
    after = returned(nginx, before)
    assert (after["id"], after["last_exit"]["signal"]) == (before["id"], "SIGKILL")


@pytest.mark.docker
def test_nginx_fails_where_faults_say_so_and_they_are_counted(nginx: Example) -> None:
    assert nginx.comet("stats", "--reset").returncode == 0
    assert nginx.comet("faults", "worker-0", "--failure", "100", "--for", "60s").returncode == 0
    statuses = Counter(requests.get(nginx.lb(), timeout=10).status_code for _ in range(6))
    assert nginx.comet("faults", "all", "--clear").returncode == 0
    assert statuses == {200: 4, 500: 2}
    told = json.loads(nginx.comet("stats", "--json").stdout)
    assert told["TotalRequests"][:4] == [{"total": 6}, {"worker-0": 2}, {"worker-1": 2}, {"worker-2": 2}]
    assert told["FailedRequests"][:2] == [{"total": 2}, {"worker-0": 2}]
    ends_clean(nginx)


def test_caddy_is_told_its_place_by_variables(caddy: Example) -> None:
    first = caddy.config["worker-port"]
    answers = {requests.get(caddy.lb(), timeout=10).text.strip() for _ in range(6)}
    assert answers == {f"worker-{number} answers 127.0.0.1 on port {first + number}" for number in range(3)}
    book = asked(caddy, "restart", "worker")
    assert (book.errors, book.ok) == (Counter(), book.requests)
    ends_clean(caddy)


def test_a_package_index_serves_a_package_whole(pypi: Example) -> None:
    (package,) = (pypi.folder / "packages/idna").iterdir()
    listing = requests.get(
        f"{pypi.lb()}/simple/idna/", headers={"Accept": "application/vnd.pypi.simple.v1+json"}, timeout=10
    ).json()
    assert [file["filename"] for file in listing["files"]] == [package.name]
    before = pypi.replicas()["worker-0"]
    assert pypi.comet("kill", "worker-0").returncode == 0
    found = requests.get(requests.compat.urljoin(f"{pypi.lb()}/simple/idna/", listing["files"][0]["url"]), timeout=10)
    assert (found.status_code, found.content) == (200, package.read_bytes())
    returned(pypi, before)
    ends_clean(pypi)


def test_every_example_is_tested_and_told() -> None:
    assert NAMES == ["caddy", "nginx", "pypi"]
    told = (ROOT / "examples/README.md").read_text()
    assert all(f"scripts/example.sh {name}" in told for name in NAMES)


def test_an_example_that_does_not_exist_is_told_in_one_line() -> None:
    done = subprocess.run(
        [ROOT / "scripts/example.sh", "apache"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "there is no example apache" in done.stderr
    assert done.stderr.rstrip().endswith("NAME one of: caddy nginx pypi")
