"""What a worker plants in the folders that it writes to, and what stands in place of each file of `.comet/`, against
whole clusters.

Before this was guarded, a FIFO in place of the database's -shm froze the supervisor for good, a link made a start as
root change the owner of its target, and a FIFO in place of a log or of the journal made commands wait without end.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.cluster import TestCluster
from tests.support.users import USER, argv_as, as_root
from tests.support.waiting import wait_until
from tests.unit.host.test_files import (
    Plant,
    device,
    directory,
    fifo,
    hard_link,
    link,
    link_to_device,
    link_to_directory,
    unix_socket,
)

COMMAND_WITHIN = 60.0
"""Seconds that no command takes, however busy the machine: what waits for a FIFO waits for ever."""


@pytest.fixture(params=[pytest.param(0, marks=as_root, id="root"), pytest.param(USER, marks=as_root, id="user")])
def uid(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def owned(cluster: TestCluster, uid: int) -> TestCluster:
    """The cluster, run by this user from now on."""
    for path in (cluster.folder, *cluster.folder.rglob("*")):
        os.chown(path, uid, uid, follow_symlinks=False)
    groups = str(os.stat("/var/run/docker.sock").st_gid) if Path("/var/run/docker.sock").exists() else "0"
    cluster.command = tuple(
        word if word != "--clear-groups" else f"--groups={groups}" for word in argv_as(uid, *cluster.command)
    )
    return cluster


@pytest.fixture
def victim(tmp_path: Path, uid: int) -> Iterator[Path]:
    """A file that nobody may touch; beside it is room for one that nobody may make."""
    path = tmp_path / "victim"
    path.write_text("secret")
    path.chmod(0o600)
    os.chown(path, uid, uid)
    os.chown(tmp_path, uid, uid)
    yield path
    assert path.read_text() == "secret"
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (uid, uid, 0o600)
    assert not path.with_name("not-there").exists()


def exec_in(cluster: TestCluster, name: str, script: str) -> None:
    """Run Python code in /data of a worker's container, as its user."""
    with cluster.engine() as client:
        made = client.api.exec_create(
            cluster.replicas()[name]["id"], ["python3", "-c", f"import glob, os\nos.chdir('/data')\n{script}"]
        )
        said = client.api.exec_start(made["Id"])
        # Its output ends before the engine knows how it has ended.
        wait_until(lambda: not client.api.exec_inspect(made["Id"])["Running"], what="the end of what was executed")
        assert client.api.exec_inspect(made["Id"])["ExitCode"] == 0, said.decode()


@pytest.mark.docker
def test_a_compromised_container_stays_within_its_folder(
    make_cluster: Callable[..., TestCluster], uid: int, victim: Path
) -> None:
    cluster = owned(make_cluster(worker=1, pool=1, runtime="docker"), uid)
    cluster.start()
    assert cluster.hello().status_code == 200
    # The supervisor looks at the lock once a second: it must be alive long after it has met the FIFO.
    exec_in(cluster, "worker-0", "os.unlink('worker-stats.db-shm'); os.mkfifo('worker-stats.db-shm')")
    time.sleep(3)
    balancer = cluster.replicas()["lb-0"]
    os.kill(balancer["pid"], 9)
    wait_until(lambda: cluster.replicas()["lb-0"]["pid"] not in (None, balancer["pid"]), COMMAND_WITHIN, "a restart")
    exec_in(
        cluster,
        "worker-0",
        f"[os.unlink(each) for each in glob.glob('worker-stats.db*')]\nos.symlink('{victim}', "
        "'worker-stats.db-journal')\n"
        f"os.symlink('{victim.parent}/not-there', 'worker-stats.db'); os.mkfifo('worker-stats.db-shm')\n"
        "os.makedirs('worker-stats.db-wal/deep')",
    )
    cluster.stop()
    cluster.start()
    assert cluster.hello().status_code == 200
    assert cluster.counts()["total"] == 1
    cluster.stop()
    assert (cluster.folder / ".comet/stats/worker-stats.db-wal.unusable/deep").is_dir()


FILES = (
    "id", "events.jsonl", "events.jsonl.1", "state.json", "state.json.spare", "scale.json", "faults.json",
    "admin.token",
    "stats-reset.json", "cache/images", "logs/supervisor.log", "logs/admin.log", "logs/worker-0.log",
    "logs/worker-0.log.1",
    "logs/lb-0.log", "logs/lb-0.access.log", "logs/lb-0.access.log.1", "run/control.sock", "run/recoveries.json",
    "run/lb-0.a.counters",
    "run/lb-0.b.counters", "faults/worker-0.json", "lb-faults/worker-0.json", "lb-faults/worker-0.0.taken",
)  # fmt: skip
COMMANDS = (("ps", "--json"), ("stats",), ("events",), ("logs", "worker-0"), ("faults",), ("stop",))


def put_in_place(plant: Plant, path: Path, victim: Path) -> None:
    """Plant it elsewhere and rename it: a running supervisor writes a file that is missing at any moment."""
    draft = victim.with_name("draft")
    plant(draft, victim)
    while draft.is_symlink() or draft.exists():
        try:
            draft.rename(path)
        except NotADirectoryError:  # A folder takes no file's place.
            path.unlink(missing_ok=True)
        except IsADirectoryError:
            shutil.rmtree(path)


def plant_everywhere(cluster: TestCluster, plants: list[Plant], victim: Path) -> None:
    """Put one such thing after another in the place of the files of the cluster's state."""
    for number, name in enumerate(FILES):
        path = cluster.folder / ".comet" / name
        path.parent.mkdir(exist_ok=True)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        put_in_place(plants[number % len(plants)], path, victim)


def run_command(cluster: TestCluster, *command: str) -> subprocess.CompletedProcess[str]:
    """A command that ends soon, and says what is wrong in a line if it fails."""
    done = cluster.comet(*command, timeout=COMMAND_WITHIN)
    said = done.stdout + done.stderr
    assert "Traceback" not in said, f"{command}: {said}"
    assert "secret" not in said, f"{command}: {said}"
    assert done.returncode in (0, 1, 2, 3), f"{command}: {said}"
    if done.returncode:
        assert len(done.stderr.splitlines()) == 1, f"{command}: {said}"
    return done


@pytest.mark.parametrize("uid", [os.geteuid()], indirect=True, ids=["own"])
def test_planted_state_files_are_refused_or_replaced(make_cluster: Callable[..., TestCluster], victim: Path) -> None:
    cluster = make_cluster(worker=1, pool=1, runtime="process", access_log="true", fault_point="lb")
    cluster.start()
    cluster.stop()
    for plants in ([fifo], [link], [directory, hard_link, unix_socket, link_to_device]):
        plant_everywhere(cluster, plants, victim)
        for command in COMMANDS:
            run_command(cluster, *command)
        cluster.start()
        assert cluster.hello().status_code == 200
        assert run_command(cluster, "faults", "worker-0", "--failure", "100", "--count", "1").returncode == 0
        wait_until(lambda: cluster.hello().status_code == 500, 10, "a fault that was ordered")
        cluster.stop()
    plant_everywhere(cluster, [fifo, link, directory], victim)
    assert run_command(cluster, "clean").returncode == 0
    assert sorted(path.name for path in (cluster.folder / ".comet").iterdir()) == ["stats"]


@pytest.mark.parametrize("uid", [os.geteuid()], indirect=True, ids=["own"])
def test_a_planted_state_folder_ends_the_start_in_one_line(
    make_cluster: Callable[..., TestCluster], victim: Path
) -> None:
    cluster = make_cluster(worker=1, pool=1, runtime="process")
    plants = [fifo, link_to_directory, hard_link]
    for number, name in enumerate(("", "run", "logs", "faults", "lb-faults", "stats")):
        path = cluster.folder / ".comet" / name
        if name:
            (cluster.folder / ".comet").mkdir(mode=0o700, exist_ok=True)
        if path.exists():
            shutil.rmtree(path)
        plants[number % len(plants)](path, victim)
        done = run_command(cluster, "run")
        assert (done.returncode, str(path) in done.stderr) == (1, True), done.stderr
        run_command(cluster, *COMMANDS[number])
        path.unlink()
    assert [each.name for each in victim.parent.iterdir()] == ["victim"]


@pytest.mark.parametrize("uid", [os.geteuid()], indirect=True, ids=["own"])
@pytest.mark.parametrize(
    "plants",
    [[fifo], [directory], [hard_link], [unix_socket], [link, link_to_device], pytest.param([device], marks=as_root)],
    ids=lambda plants: plants[0].__name__,
)
def test_files_planted_in_a_running_cluster_are_replaced(
    make_cluster: Callable[..., TestCluster], victim: Path, plants: list[Plant]
) -> None:
    cluster = make_cluster(worker=2, pool=2, runtime="process", fault_point="lb")
    cluster.start()
    before = cluster.replicas()
    state = cluster.folder / ".comet"
    # The database is its workers', and a process's log stays what that process has open.
    every = [
        path
        for path in state.rglob("*")
        if not path.is_dir() and not path.name.startswith(("worker-stats", "worker-0.log", "worker-1.log"))
    ]
    for number, path in enumerate(sorted(every)):
        if os.path.lexists(path):  # Else it was a draft, which has its name by now.
            put_in_place(plants[number % len(plants)], path, victim)
    wait_until(
        lambda: run_command(cluster, "faults", "worker-0", "--failure", "100", "--count", "1").returncode == 0,
        COMMAND_WITHIN,
    )
    wait_until(lambda: cluster.hello().status_code == 500, 10, "a fault that was ordered")
    for command in (
        ("ps",),
        ("events",),
        ("logs", "lb-0"),
        ("stats",),
        ("kill", "lb-0"),
        ("scale", "worker=3"),
        ("restart", "worker-0"),
    ):
        assert run_command(cluster, *command).returncode == 0, command
    wait_until(lambda: {row["state"] for row in cluster.replicas().values()} == {"ready"})
    after = cluster.replicas()
    assert after["worker-1"]["pid"] == before["worker-1"]["pid"]
    assert {cluster.hello(number).status_code for number in (0, 1) for _ in range(4)} == {200}
    # A later supervisor finds all of it, and reaches the load balancers through their sockets.
    os.kill(cluster.supervisor_pid(), 9)
    wait_until(lambda: not cluster.ps()["supervisor"]["running"])
    cluster.start()
    assert {name: row["pid"] for name, row in cluster.replicas().items()} == {
        name: row["pid"] for name, row in after.items()
    }
    cluster.stop()
    cluster.assert_nothing_left()


def test_a_strangers_folder_in_place_of_the_state_is_refused(
    make_cluster: Callable[..., TestCluster], uid: int
) -> None:
    cluster = owned(make_cluster(worker=1, pool=1, runtime="process"), uid)
    (cluster.folder / ".comet").mkdir(mode=0o777)
    os.chown(cluster.folder / ".comet", 12345, 12345)
    done = run_command(cluster, "run")
    assert done.returncode == 1
    assert "belongs to uid 12345" in done.stderr


def test_a_hanging_filesystem_does_not_block_stop() -> None:
    """What looks at the database's lock waits for ever: here for a lock that is never given back."""
    script = """
import asyncio, sys, threading, time
from comet.concurrency.background import Background
async def main():
    background = Background(asyncio.get_running_loop())
    never = threading.Event()
    assert background.attempt(never.wait, print)
    assert not background.attempt(never.wait, print)
    await asyncio.sleep(0.05)
    assert background.stuck(0.01) and not background.stuck(60)
asyncio.run(main())
print("ended", flush=True)
"""
    argv = [sys.executable, "-c", script]
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        argv, env=os.environ | {"PYTHONPATH": root}, capture_output=True, text=True, timeout=COMMAND_WITHIN, check=False
    )
    assert (done.stdout, done.returncode) == ("ended\n", 0), done.stderr
