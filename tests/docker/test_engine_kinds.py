"""A cluster on every kind of engine: Docker and Podman, of root and of an ordinary user, and Docker with
userns-remap.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from comet.common.errors import UserError
from comet.engine import traits as engine_traits
from comet.engine.connection import connect
from comet.host.oom_kills import OomWatch
from comet.images import base_image
from comet.images import worker_image as image
from comet.runtimes import logs
from comet.state.directory import WORKER_UID, Cluster
from tests.support import postgres
from tests.support.cluster import ROOT, TestCluster
from tests.support.engine_kinds import Engine, engine_of, missing_requirement, selected_kinds
from tests.support.network_faults import QUICK, answers, helpers
from tests.support.waiting import wait_until

pytestmark = pytest.mark.root

PRINTER = """import os, threading, time
def errors():
    for number in range(3000): os.write(2, b"error %d\\n" % number)
for turn in range(4):
    for _ in range(20): os.write(1, b"same\\n")
    os.write(2, b"error\\n"); os.write(1, b"in "); time.sleep(0.25); os.write(1, b"two\\n")
other = threading.Thread(target=errors)
other.start()
for number in range(3000): os.write(1, b"%d\\n" % number)
other.join()
time.sleep(1)
os.write(1, b"x" * 40000 + b"\\n")
"""
PRINTED = {
    1: (b"same\n" * 20 + b"in two\n") * 4 + b"".join(b"%d\n" % n for n in range(3000)) + b"x" * 40000 + b"\n",
    2: b"error\n" * 4 + b"".join(b"error %d\n" % n for n in range(3000)),
}


class Visitor(TestCluster):
    """A cluster of the user whose engine it is, with the engine's network."""

    def __init__(self, engine: Engine, **config: Any) -> None:
        super().__init__(engine.home / "cluster", **config)
        os.chown(self.folder / "config.yaml", engine.uid, engine.uid)
        self.command = (*engine.argv(sys.executable, str(ROOT / "supervisor.py")),)
        self.environment = engine.environment


@pytest.fixture(scope="module")
def worker_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The worker image as a file, made by the user's engine."""
    folder = tmp_path_factory.mktemp("image")
    with contextlib.closing(connect()) as client, (folder / "tar").open("wb") as file:
        for piece in client.images.get(image.ensure_image(client, folder, print)).save(named=True):
            file.write(piece)
    return folder / "tar"


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(kind, marks=pytest.mark.machine(partial(missing_requirement, kind))) for kind in selected_kinds()
    ],
)
def engine(request: pytest.FixtureRequest, worker_image: Path, postgres_server: postgres.Server) -> Iterator[Engine]:
    """One engine of each kind; PostgreSQL is started before the tests are where an engine's network is another one."""
    with engine_of(request.param) as made:
        if os.environ.get("COMET_TEST_FULL"):
            image.ensure_image(made.client, worker_image.parent, print)
        else:
            with worker_image.open("rb") as file:
                made.client.images.load(file)
        with made.inside():
            yield made


def worker_tag(engine: Engine) -> str:
    return next(tag for each in engine.client.images.list() for tag in each.tags if "comet-worker:" in tag)


def test_engine_traits_are_detected(engine: Engine, record_property: Callable[[str, object], None]) -> None:
    traits = engine_traits.of(engine.client)
    record_property("engine", traits.title)
    assert (traits.kind, traits.rootless, traits.remapped) == {
        "docker": ("docker", False, False),
        "docker-user": ("docker", False, False),
        "docker-remap": ("docker", False, True),
        "docker-rootless": ("docker", True, False),
        "podman": ("podman", False, False),
        "podman-rootless": ("podman", True, False),
    }[engine.kind]


def test_a_cluster_starts_serves_recovers_and_stops(engine: Engine) -> None:
    visitor = Visitor(engine, worker=2, pool=1)
    try:
        visitor.start()
        assert [visitor.hello().status_code for _ in range(10)] == [200] * 10
        assert visitor.counts()["total"] == 10
        database = (visitor.folder / "worker-stats.db").resolve()
        assert {path.stat().st_uid for path in database.parent.iterdir()} == {engine.uid or WORKER_UID}

        before = visitor.replicas()["worker-0"]
        os.kill(engine.client.api.inspect_container(before["id"])["State"]["Pid"], signal.SIGKILL)
        wait_until(lambda: (now := visitor.replicas()["worker-0"])["restarts"] == 1 and now["state"] == "ready")
        assert visitor.replicas()["worker-0"]["last_exit"]["signal"] == "SIGKILL"
        assert "listening on" in visitor.comet("logs", "worker-0").stdout

        assert visitor.comet("restart", "worker-1").returncode == 0
        wait_until(lambda: visitor.replicas()["worker-1"]["state"] == "ready")
        assert [visitor.hello().status_code for _ in range(10)] == [200] * 10
        assert visitor.counts()["total"] == 20
        visitor.stop()
        visitor.assert_nothing_left()
    finally:
        visitor.destroy()


def test_a_workers_network_can_fail(engine: Engine) -> None:
    visitor = Visitor(engine, worker=2, pool=1, **QUICK)
    try:
        visitor.start()
        if engine.kind == "podman-rootless":
            done = visitor.comet("faults", "worker-1", "--partition", "--for", "5s")
            assert (done.returncode, done.stderr.count("\n")) == (2, 1)
            assert "published ports bypass its network on rootless Podman" in done.stderr
            return
        for words in (("--partition",), ("--partition", "--loss", "100%", "--bandwidth", "50kB/s")):
            done = visitor.comet("faults", "worker-1", *words, "--for", "1h")
            assert done.returncode == 0, done.stderr
            assert len(helpers(visitor, engine.client)) == 1
            assert not answers(visitor, 1)
            assert answers(visitor, 0)
        assert visitor.comet("faults", "worker-1", "--clear").returncode == 0
        assert helpers(visitor, engine.client) == []
        assert answers(visitor, 1)
        assert visitor.comet("faults", "all", "--partition", "--for", "1h").returncode == 0
        visitor.stop()
        visitor.assert_nothing_left()
    finally:
        visitor.destroy()


def test_a_database_on_the_hosts_loopback_is_reached_or_named(engine: Engine, postgres_server: postgres.Server) -> None:
    database = postgres.database(postgres_server)
    visitor = Visitor(engine, worker=1, pool=1, stats_dir=database.url)
    try:
        done = visitor.comet("run", "--detach")
        if engine.kind == "docker-rootless":
            assert (done.returncode, "rootless Docker do not reach this machine's loopback" in done.stderr) == (
                2,
                True,
            ), done.stderr
            assert done.stderr.strip().count("\n") == 0
        elif engine.kind == "podman":  # In its own network nobody listens on the loopback.
            assert (done.returncode, "Connection refused" in done.stderr) == (2, True), done.stderr
        else:
            assert done.returncode == 0, done.stderr
            assert visitor.hello().status_code == 200
            assert visitor.counts()["total"] == 1
            visitor.stop()
            visitor.assert_nothing_left()
    finally:
        visitor.destroy()


def test_an_oom_killed_container_is_detected(engine: Engine) -> None:
    traits = engine_traits.of(engine.client)
    if not traits.limits:
        assert "no effect" in traits.lacks[0]
        return
    api, kills = engine.client.api, OomWatch()
    host = api.create_host_config(mem_limit=64 << 20, memswap_limit=64 << 20)
    tag = worker_tag(engine)
    made = api.create_container(
        image=tag, entrypoint=["python3", "-c", "bytearray(300 << 20)"], host_config=host, user="0:0"
    )["Id"]
    api.start(made)
    assert api.wait(made)["StatusCode"] == 137
    assert kills.last_kill_in(made)
    if traits.reports_oom:  # By an event of its own, which may come after that of the end.
        wait_until(lambda: api.inspect_container(made)["State"]["OOMKilled"], what="the engine's word of it")
    assert api.inspect_container(made)["State"]["OOMKilled"] is traits.reports_oom


def test_logs_are_followed_line_by_line(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.environment["DOCKER_HOST"])
    cluster = Cluster(tmp_path)
    cluster.create()
    api, traits = engine.client.api, engine_traits.of(engine.client)
    labels = {"comet.cluster": cluster.id, "comet.replica": "worker-0"}
    host = api.create_host_config(log_config={"Type": traits.log_driver, "Config": traits.log_options})
    tag = worker_tag(engine)
    made = api.create_container(
        image=tag, entrypoint=["python3", "-c", PRINTER], labels=labels, host_config=host, user="0:0"
    )["Id"]
    api.start(made)

    def printed(count: int, follow: bool) -> bytes:
        return b"".join(logs.pieces(cluster, "worker-0", "container", count, follow))

    with ThreadPoolExecutor() as threads:
        followers = [threads.submit(printed, 100000, True)]
        while api.inspect_container(made)["State"]["Running"]:
            followers.append(threads.submit(printed, 1, True))
            time.sleep(0.15)
    whole = printed(100000, False)
    lines = whole.splitlines(keepends=True)
    for stream in PRINTED:
        assert b"".join(line for line in lines if line.startswith(b"error") == (stream == 2)) == PRINTED[stream]
    # The order between the two streams is the engine's, and always the same.
    followed = [follower.result() for follower in followers]
    assert followed[0] == whole
    assert [each for each in followed if not (b"\n" + whole).endswith(b"\n" + each)] == []
    assert printed(1, False) == b"x" * 40000 + b"\n"


def test_a_base_image_is_imported_under_its_name(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = tmp_path / "maker.py"
    maker.write_text("import sys, tarfile\nwith tarfile.open(sys.argv[1], 'w') as tar: tar.add(__file__, 'file')\n")
    monkeypatch.setattr(base_image, "MAKER", maker)
    base = dataclasses.replace(base_image.own_base(), reference="comet-base:ofthetest")
    base_image.ensure(engine.client, base, print, threading.Event())
    assert engine.client.images.get("comet-base:ofthetest").labels["comet.image"] == "base"


def test_a_build_that_fails_is_quoted(engine: Engine) -> None:
    steps, tag = list[str](), worker_tag(engine)
    recipe = (
        'ARG BASE\nFROM ${BASE} AS one\nRUN python3 -c "print(6, end=chr(32)); print(7)"\nFROM one\nRUN echo '
        "failing && false\n"
    )
    context = image.context({"Dockerfile": recipe.encode()}, ())
    with pytest.raises(UserError) as caught:
        image.build(engine.client, "comet-test:1", tag, context, steps.append, threading.Event())
    assert [step for step in steps if "RUN echo failing" in step]
    assert "RUN echo failing" in caught.value.message.splitlines()[0]
    assert "    failing" in caught.value.message.splitlines()
