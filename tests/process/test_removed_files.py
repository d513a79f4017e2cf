"""Files that somebody removes under a living cluster: a cleaner of old files, `git clean -fdx`, `rm -rf .comet`."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from comet.host import process_identity
from comet.state.directory import Cluster
from tests.support.cluster import TestCluster, free_ports
from tests.support.shared import SharedCluster
from tests.support.waiting import wait_until

CONTENT = (
    "id",
    "id.spare",
    "lock",
    "state.json",
    "state.json.spare",
    "admin.token",
    "events.jsonl",
    "scale.json",
    "faults.json",
)


def everything(cluster: TestCluster) -> None:
    removal = ["rm", "-rf", str(cluster.folder / ".comet")]
    while subprocess.run(removal, stderr=subprocess.DEVNULL, check=False).returncode:
        pass  # What the cluster writes meanwhile keeps it from going.


def git_clean(cluster: TestCluster) -> None:
    """What `git clean -fdx` leaves is what is under version control."""
    if not (cluster.folder / ".git").exists():
        for words in (["init", "-q"], ["add", "config.yaml"]):
            subprocess.run(["git", *words], cwd=cluster.folder, check=True)
    subprocess.run(["git", "clean", "-qfdx"], cwd=cluster.folder, check=False)  # 1 where a file goes meanwhile.


def runs_content(cluster: TestCluster) -> None:
    """As a cleaner of temporary files does it."""
    for entry in (cluster.folder / ".comet/run").iterdir():
        entry.unlink(missing_ok=True)


def each_file(cluster: TestCluster) -> None:
    for name in CONTENT:
        (cluster.folder / ".comet" / name).unlink(missing_ok=True)


REMOVALS = (everything, runs_content, each_file, git_clean)


@contextmanager
def requested(cluster: TestCluster) -> Iterator[list[Any]]:
    """Requests go on meanwhile; what failed."""
    failed: list[Any] = []
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.02):
            try:
                # Not its own statistics: these are in what is removed.
                status = requests.get(f"{cluster.lb()}/healthz", timeout=30).status_code
            except requests.RequestException as error:
                failed.append(error)
            else:
                failed.extend([status] if status != 200 else [])

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield failed
    finally:
        over.set()
        thread.join()


def identities(cluster: TestCluster) -> dict[str, tuple[Any, Any]]:
    return {name: (row["id"], row["pid"]) for name, row in cluster.replicas().items()}


def balancers(cluster: TestCluster) -> dict[str, tuple[Any, Any]]:
    return {name: identity for name, identity in identities(cluster).items() if name.startswith("lb-")}


def settled(cluster: TestCluster, seconds: float = 1) -> None:
    """No worker is being replaced any more: a statistic can be counted, twice in a row."""

    def calm() -> bool:
        before = identities(cluster)
        time.sleep(seconds)
        rows = cluster.replicas().values()
        return (
            identities(cluster) == before
            and all(row["state"] == "ready" for row in rows)
            and cluster.hello().status_code == 200
        )

    wait_until(calm, 40, "all is calm")


def assert_whole(cluster: TestCluster, kept: dict[str, str]) -> None:
    """All is there again, says the same, and the cluster does what it is told."""
    state = cluster.folder / ".comet"
    wait_until(lambda: all((state / name).exists() for name in CONTENT), 10, "all files are there again")
    wait_until(lambda: len(list((state / "run").glob("lb-0.*"))) == 2, 10, "what a load balancer has in there")
    assert {name: (state / name).read_text() for name in kept} == kept
    assert state.stat().st_mode & 0o777 == 0o700
    assert (state / "admin.token").stat().st_mode & 0o777 == 0o600
    second = cluster.comet("run", "--detach")
    assert (second.returncode, "is running already" in second.stderr) == (1, True), second.stderr


def scaled_with_faults(cluster: TestCluster) -> None:
    cluster.start()
    assert cluster.comet("scale", "worker=2").returncode == 0
    assert cluster.comet("faults", "worker-0", "--avg-delay", "7").returncode == 0


def test_removed_state_files_are_recreated(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=1, pool=2, runtime="process", admin_port=free_ports(1))
    scaled_with_faults(cluster)
    supervisor, balancers_before, known = cluster.supervisor_pid(), balancers(cluster), cluster.cluster_id
    for number, remove in enumerate(REMOVALS, 1):
        kept = {
            name: (cluster.folder / ".comet" / name).read_text()
            for name in ("admin.token", "scale.json", "faults.json")
        }
        with requested(cluster) as failed:
            settled(cluster)
            remove(cluster)
            # At once, before anything can be there again.
            assert cluster.comet("run", "--detach").returncode == 1
            assert cluster.supervisor_pid() == supervisor
            assert_whole(cluster, kept)
            assert cluster.cluster_id == known
            assert balancers(cluster) == balancers_before
            assert cluster.comet("kill", "lb-1").returncode == 0
            wait_until(
                lambda number=number: cluster.replicas()["lb-1"]["restarts"] == number,  # type: ignore[misc]
                *(15, "a restart"),
            )
            wait_until(lambda: cluster.replicas()["lb-1"]["state"] == "ready", 15, "its successor")
            wait_until(lambda: cluster.hello().status_code == 200, 15, "an answer that is counted")
        assert failed == []
        balancers_before = balancers(cluster)
        wait_until(lambda number=number: len(cluster.events("files_restored")) >= number, 5)  # type: ignore[misc]
    # Its successor adopts all of it.
    workers = identities(cluster)
    everything(cluster)
    assert_whole(cluster, {})
    if os.getuid() == 0:  # Workers of another user have mounted what was removed.
        wait_until(lambda: identities(cluster)["worker-0"] != workers["worker-0"], 60, "the workers are replaced")
    settled(cluster, 4)  # Several looks at the files: what a look finds may have the workers replaced once more.
    before = identities(cluster)
    requests_before = cluster.replicas()["lb-0"]["requests"]
    assert requests_before > 0
    cluster.kill_supervisor()
    cluster.start()
    assert identities(cluster) == before
    assert cluster.replicas()["lb-0"]["requests"] >= requests_before
    everything(cluster)
    cluster.stop()
    cluster.assert_nothing_left()
    assert cluster.comet("stop").returncode == 3


@pytest.fixture(scope="module")
def shared(share_cluster: Callable[..., SharedCluster]) -> SharedCluster:
    return share_cluster(worker=1, pool=1, runtime="process")


@pytest.mark.parametrize(
    "plant", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)], ids=["fifo", "directory", "link"]
)
def test_a_replaced_database_is_recreated(shared: SharedCluster, plant: Callable[[Path], None]) -> None:
    cluster = shared.lend()
    known = len(cluster.events("files_restored"))
    assert cluster.hello().status_code == 200
    file = cluster.folder / ".comet/stats/worker-stats.db"

    def planted() -> bool:
        for suffix in ("", "-wal", "-shm"):
            file.with_name(f"{file.name}{suffix}").unlink(missing_ok=True)
        try:
            plant(file)
        except FileExistsError:  # A new database is there already.
            return False
        return True

    wait_until(planted, what="something else in its place")
    wait_until(file.is_file, what="a database")
    wait_until(lambda: cluster.hello().status_code == 200, what="an answer that is counted")
    assert cluster.counts()["total"] >= 1
    wait_until(
        lambda: any("the database" in "".join(event["files"]) for event in cluster.events("files_restored")[known:]),
        what="the event",
    )


@pytest.mark.docker
def test_recreated_folders_are_mounted_in_containers(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=2, pool=1)
    cluster.start()
    cluster.hello()
    before = identities(cluster)
    with requested(cluster) as failed:
        everything(cluster)
        wait_until(lambda: cluster.events("files_restored"), 15)
        wait_until(
            lambda: (
                not {cluster.replicas()[name]["id"] for name in ("worker-0", "worker-1")}
                & {row[0] for row in before.values()}
            ),
            60,
        )
    assert failed == []
    wait_until(lambda: all(row["state"] == "ready" for row in cluster.replicas().values()), 30)
    assert identities(cluster)["lb-0"] == before["lb-0"]
    total = cluster.counts()["total"]
    assert [cluster.hello().status_code for _ in range(4)] == [200] * 4
    assert cluster.counts()["total"] == total + 4
    assert cluster.comet("faults", "all", "--failure", "100").returncode == 0
    wait_until(lambda: cluster.hello().status_code == 500, 10)
    cluster.stop()
    cluster.assert_nothing_left()


def test_run_and_stop_find_replicas_without_state(make_cluster: Callable[..., TestCluster], runtime: str) -> None:
    cluster = make_cluster(worker=1, pool=1, runtime=runtime)
    removals = (everything, git_clean) if runtime == "docker" else (git_clean, everything)
    for end, remove in zip(("run", "stop"), removals, strict=True):
        cluster.start()
        known = cluster.cluster_id
        cluster.kill_supervisor()
        remove(cluster)
        assert set(cluster.replicas()) == {"lb-0", "worker-0"}
        if end == "run":
            cluster.start()
            assert cluster.cluster_id == known
            assert cluster.hello().status_code == 200
            assert [row["pid"] for row in cluster.replicas().values()]
            cluster.stop()
        else:
            done = cluster.comet("clean")
            assert done.returncode == 1, done.stdout
            cluster.stop()
        assert [
            pid for pid in process_identity.pids() if process_identity.environment(pid).get("COMET_CLUSTER") == known
        ] == []
        with cluster.engine() as engine:
            assert engine.api.containers(all=True, filters={"label": f"comet.cluster={known}"}) == []
        assert cluster.comet("stop").returncode == 3


@pytest.mark.docker
def test_a_folder_of_equal_path_or_inode_is_not_mistaken(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    mine.mkdir()
    other.mkdir()
    mark = Cluster(mine).mark
    assert Cluster(mine).is_marked(mark)
    assert not Cluster(other).is_marked(mark)
    for nonsense in ("", ":", "1", "x:y", f"{mine.stat().st_ino}", f"{mine}", "\0:\0"):
        assert not Cluster(other).is_marked(nonsense)
    mine.rename(tmp_path / "moved")
    assert Cluster(tmp_path / "moved").is_marked(mark)
    assert not Cluster(mine).is_marked(mark)  # What does not exist owns no processes of others.
    mine.mkdir()
    assert not Cluster(mine).is_marked(mark)


@pytest.fixture
def read_only() -> Iterator[Callable[[Path], None]]:
    """Lets a folder be on a file system that became read-only; its files may be open for writing."""
    as_root, mounted = [] if os.getuid() == 0 else ["sudo", "-n"], []

    def remount(folder: Path) -> None:
        subprocess.run([*as_root, "mount", "--bind", folder, folder], check=True)
        mounted.append(folder)
        subprocess.run([*as_root, "mount", "-o", "remount,ro,bind", folder], check=True)

    yield remount
    for folder in mounted:
        subprocess.run([*as_root, "umount", "-l", folder], check=True)


def test_on_a_read_only_file_system_deaths_and_stops_work(
    make_cluster: Callable[..., TestCluster], read_only: Callable[[Path], None]
) -> None:
    cluster = make_cluster(worker=1, pool=1, runtime="process")
    cluster.start()
    read_only(cluster.folder / ".comet/run")
    assert cluster.comet("kill", "lb-0").returncode == 0
    wait_until(lambda: cluster.events("replica_exited", "lb-0"), 15, "its death is noticed")
    cluster.stop()
    assert cluster.processes() == []
