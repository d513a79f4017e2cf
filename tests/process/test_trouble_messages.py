"""A full disk, a renamed folder, a deleted image: said in these words, and mended where Comet can."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import TestCluster, fill, open_cluster, open_folder
from tests.support.engines import PrivateEngine
from tests.support.users import USER, argv_as, as_root
from tests.support.waiting import wait_until


def said(cluster: TestCluster, *command: str) -> subprocess.CompletedProcess[str]:
    """A command's outcome: never a traceback, and one line where it fails."""
    done = cluster.comet(*command)
    assert "Traceback" not in done.stdout + done.stderr, f"{command}: {done.stdout}\n{done.stderr}"
    if done.returncode:
        assert len(done.stderr.splitlines()) == 1, f"{command}: {done.stdout}\n{done.stderr}"
    return done


def fill_up(filler: Path) -> None:
    """Take what has become free since, such as the place of a file that was just written anew."""
    with filler.open("ab", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(b"x" * 4096)


def test_every_command_says_that_the_disk_is_full(small_disk: TestCluster) -> None:
    cluster = small_disk
    cluster.start()
    filler = fill(cluster.folder / ".comet")
    for command in (("faults", "worker-0", "--failure", "1"), ("stats", "--reset"), ("scale", "worker=2")):
        fill_up(filler)
        done = said(cluster, *command)
        assert done.returncode == 1, f"{command}: {done.stdout}"
        assert "disk is full" in done.stderr, f"{command}: {done.stderr}"
    for command in (("ps",), ("stats",), ("events",), ("logs", "worker-0"), ("faults",)):
        assert said(cluster, *command).returncode == 0, command
    said(cluster, "reload")
    said(cluster, "restart", "lb")
    assert cluster.hello().status_code in (200, 503)
    assert said(cluster, "stop").returncode == 0
    fill(cluster.folder / ".comet")  # What the stop has freed.
    for command in (("run",), ("run", "--detach")):
        done = said(cluster, *command)
        assert done.returncode == 1, f"{command}: {done.stdout}"
        assert "disk is full" in done.stderr, f"{command}: {done.stderr}"
    filler.unlink()
    cluster.start()
    cluster.stop()


@pytest.fixture(params=["closed", "open", pytest.param("user", marks=as_root)])
def process_house(request: pytest.FixtureRequest, make_cluster: Callable[..., TestCluster]) -> Iterator[TestCluster]:
    """A cluster of processes in a folder that is closed to their user, which is then shown what it needs under the path
    of the start; in one that is open; and an ordinary user's.
    """
    config: dict[str, Any] = {"worker": 1, "pool": 1, "runtime": "process"}
    if request.param == "closed":
        yield make_cluster(**config)
        return
    with open_folder() as folder:
        place = folder / "cluster"
        place.mkdir()
        with open_cluster(place, **config) as cluster:
            if request.param == "user":
                for path in (folder, place, place / "config.yaml"):
                    os.chown(path, USER, USER)
                cluster.command = tuple(argv_as(USER, *cluster.command))
                cluster.environment["HOME"] = str(folder)
            yield cluster


def test_commands_name_a_renamed_folder(process_house: TestCluster) -> None:
    cluster = process_house
    cluster.start()
    assert cluster.hello().status_code == 200
    first, second = cluster.folder, cluster.folder.with_name(f"{cluster.folder.name}-renamed")
    first.rename(second)
    cluster.folder = second
    words = f"renamed from {first} to {second}"
    try:
        wait_until(lambda: cluster.events("folder_moved"), what="the move noticed")
        assert words in cluster.events("folder_moved")[-1]["reason"]
        for command in (
            ("scale", "worker=2"),
            ("restart", "all"),
            ("reload",),
            ("faults", "all", "--failure", "50"),
            ("kill", "lb-0"),
        ):
            done = said(cluster, *command)
            assert done.returncode == 1, f"{command}: {done.stdout}"
            assert words in done.stderr
        for command in (("ps",), ("stats",), ("events",), ("logs", "worker-0")):
            assert said(cluster, *command).returncode == 0, command
        assert cluster.hello().status_code == 200
        assert cluster.counts()["total"] == 2
        os.kill(cluster.replicas()["worker-0"]["pid"], signal.SIGKILL)
        wait_until(lambda: cluster.events("replica_start_failed", "worker-0"), what="a start that fails")
        assert words in cluster.events("replica_start_failed", "worker-0")[-1]["reason"]
        second.rename(first)
        cluster.folder = first
        wait_until(lambda: cluster.hello().status_code == 200, what="all well again at the old place")
        first.rename(second)
        cluster.folder = second
        assert said(cluster, "stop").returncode == 0
        cluster.assert_nothing_left()
        assert not (second / ".comet/state.json").exists()
        cluster.start()
        assert cluster.hello().status_code == 200
        cluster.stop()
    finally:
        cluster.destroy()


def test_a_cluster_in_place_of_a_renamed_one_is_left_alone(
    make_cluster: Callable[..., TestCluster],
) -> None:
    cluster = make_cluster(worker=1, pool=1, runtime="process")
    cluster.start()
    first, second = cluster.folder, cluster.folder.with_name(f"{cluster.folder.name}-renamed")
    first.rename(second)
    first.mkdir()
    other = TestCluster(first, worker=1, pool=1, runtime="process")
    cluster.folder = second
    try:
        wait_until(lambda: cluster.events("folder_moved"), what="the move noticed")
        time.sleep(2.5)  # Two looks at its files.
        assert [entry.name for entry in first.iterdir()] == ["config.yaml"]
        other.start()
        state, events = (first / ".comet/state.json").read_text(), len(other.events())
        # What a supervisor writes where a replica dies, and cannot be started again.
        os.kill(cluster.replicas()["worker-0"]["pid"], signal.SIGKILL)
        wait_until(lambda: cluster.events("replica_start_failed", "worker-0"), what="a start that fails")
        time.sleep(2.5)
        assert said(cluster, "stop").returncode == 0
        cluster.assert_nothing_left()
        assert (first / ".comet/state.json").read_text() == state
        assert len(other.events()) == events
        assert "exited" not in (first / ".comet/logs/worker-0.log").read_text()
        assert {row["state"] for row in other.replicas().values()} == {"ready"}
        assert other.hello().status_code == 200
        assert other.counts()["total"] == 1
        other.stop()
    finally:
        other.destroy()
        cluster.destroy()


def test_every_command_names_a_missing_folder(make_cluster: Callable[..., TestCluster], tmp_path: Path) -> None:
    cluster = make_cluster(worker=1, pool=1, runtime="process")
    missing = tmp_path / "moved away" / "config.yaml"
    for command in (
        "run",
        "ps",
        "stop",
        "scale",
        "restart",
        "kill",
        "reload",
        "faults",
        "stats",
        "events",
        "logs",
        "clean",
        "check",
    ):
        arguments = {"scale": ["worker=1"], "restart": ["all"], "kill": ["lb-0"], "logs": ["worker-0"]}.get(command, [])
        done = said(cluster, command, *arguments, "--config", str(missing))
        assert done.returncode in (2, 3), f"{command}: {done.stdout}"
        assert str(missing.parent) in done.stderr, command
        assert "there is no such folder" in done.stderr, f"{command}: {done.stderr}"


@pytest.mark.docker
def test_a_deleted_image_is_rebuilt(make_cluster: Callable[..., TestCluster], engine: PrivateEngine) -> None:
    cluster = make_cluster(worker=2, pool=1)
    cluster.environment |= engine.environment
    cluster.start()
    before = {row["id"] for name, row in cluster.replicas().items() if name.startswith("worker")}
    tag = engine.client.containers.get(min(before)).attrs["Config"]["Image"]
    engine.client.images.remove(tag, force=True)
    for container in cluster.containers(engine.client):
        engine.client.api.remove_container(container, force=True, v=True)

    def built() -> bool:
        # At first the removal is not noticed, and all are ready still.
        rows = cluster.replicas()
        return all(row["state"] == "ready" for row in rows.values()) and before.isdisjoint(
            row["id"] for row in rows.values()
        )

    wait_until(built, 180, "workers of an image built again")
    assert [event["image"] for event in cluster.events("image_deleted")] == [tag]
    assert cluster.hello().status_code == 200
    cluster.stop()
