"""What a built-in worker that is an OS process may reach of the host, and either kind of an ordinary user's."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from comet.host import confinement
from comet.state.directory import WORKER_UID, Owner
from tests.support.cluster import PYTHON, TestCluster, open_cluster, open_folder
from tests.support.thief import USER, Thief, as_user, no_rights, service, status_of
from tests.support.waiting import wait_until
from tests.unit.host.test_confinement import closed

needs_root = pytest.mark.root


@pytest.fixture(scope="module")
def builtin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    """Below pytest's folder, which is closed to everybody else."""
    outer = tmp_path_factory.mktemp("closed", numbered=True)
    outer.chmod(0o700)
    inner = outer / "a cluster"
    inner.mkdir()
    with open_cluster(inner, worker=1, pool=1, runtime="process") as cluster:
        (inner / "config.yaml").chmod(0o600)
        cluster.start()
        yield cluster


def within(pid: int, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a command as the worker would: in its view of the file system, as its user."""
    ids = (
        "--reuid",
        str(WORKER_UID),
        "--regid",
        str(WORKER_UID),
        "--clear-groups",
        "--bounding-set=-all",
        "--inh-caps=-all",
    )
    argv = ("nsenter", "--target", str(pid), "--mount", "setpriv", *ids, "--", *argv)
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


@needs_root
def test_roots_builtin_worker_has_no_rights_and_a_narrow_view(builtin: TestCluster) -> None:
    assert builtin.hello().status_code == 200
    assert builtin.counts()["total"] == 1
    pid = builtin.replicas()["worker-0"]["pid"]
    status = status_of(pid)
    assert no_rights(status)
    assert (status["Uid"].split(), status["Groups"].split()) == ([str(WORKER_UID)] * 4, [])
    state = builtin.folder / ".comet"
    assert sorted(os.listdir(f"/proc/{pid}/root{state}")) == ["faults", "stats"]
    assert os.listdir(f"/proc/{pid}/root{builtin.folder}") == [".comet"]
    for path in (
        "/etc/shadow",
        "/proc/1/environ",
        f"/proc/{builtin.supervisor_pid()}/environ",
        f"/proc/{builtin.supervisor_pid()}/root/etc/shadow",
    ):
        assert within(pid, "cat", path).returncode != 0, path
    for path in (state / "admin.token", state / "events.jsonl", builtin.folder / "config.yaml", state / "lock"):
        assert within(pid, "ls", str(path)).returncode != 0, path
    assert within(pid, "ls", str(state / "stats")).stdout.split()[0] == "worker-stats.db"
    assert within(pid, "touch", str(state / "faults/planted")).returncode != 0
    assert {os.readlink(f"/proc/{pid}/fd/{number}") for number in (0, 1, 2)} == {
        "/dev/null",
        str(state / "logs/worker-0.log"),
    }
    assert status["Umask"].strip() == "0077"
    assert "Max core file size        0                    0" in Path(f"/proc/{pid}/limits").read_text()


@needs_root
def test_another_clusters_service_reaches_nothing_by_a_worker(thief: Thief, builtin: TestCluster) -> None:
    """Both are root's, so both run as uid 10001."""
    pid, state = builtin.replicas()["worker-0"]["pid"], builtin.folder / ".comet"
    for path in (
        "environ",
        "fd",
        "maps",
        f"root{state}",
        f"root{state}/stats/worker-stats.db",
        f"root{state}/faults",
        "cwd/etc/shadow",
    ):
        assert thief.is_refused("read", f"/proc/{pid}/{path}"), path
    assert thief.is_refused("trace", pid)


@needs_root
@pytest.mark.docker
def test_a_service_reaches_nothing_by_way_of_a_container(thief: Thief, tmp_path: Path) -> None:
    with open_cluster(tmp_path, worker=1, pool=1) as cluster:
        cluster.start()
        pid = cluster.replicas()["worker-0"]["pid"]
        workers = [child.pid for child in psutil.Process(pid).children(recursive=True)]
        assert [
            each
            for each in workers
            for path in ("environ", "root/data", "fd")
            if not thief.is_refused("read", f"/proc/{each}/{path}")
        ] == []
        assert [each for each in workers if not thief.is_refused("trace", each)] == []


@needs_root
def test_what_is_mounted_for_a_worker_shows_nowhere_else(builtin: TestCluster) -> None:
    ours = str(builtin.folder).replace(" ", "\\040")  # Other tests mount what is theirs.
    for who in ("self", str(builtin.supervisor_pid()), str(builtin.replicas()["lb-0"]["pid"])):
        assert [line for line in Path(f"/proc/{who}/mountinfo").read_text().splitlines() if ours in line] == []


@needs_root
def test_a_confined_worker_takes_faults_adoption_and_restart(builtin: TestCluster) -> None:
    """Faults reach it, it is adopted, it is started again, and its statistics are read and reset by its user."""
    before = builtin.replicas()["worker-0"]["pid"]
    assert builtin.comet("faults", "--failure", "100").returncode == 0
    wait_until(lambda: builtin.hello().status_code == 500, what="faults are in force")
    assert builtin.comet("faults", "--clear").returncode == 0
    wait_until(lambda: builtin.hello().status_code == 200, what="faults are cleared")
    os.kill(builtin.supervisor_pid(), 9)
    wait_until(lambda: not builtin.ps()["supervisor"]["running"], what="its death")
    builtin.start()
    assert builtin.replicas()["worker-0"]["pid"] == before
    assert builtin.comet("kill", "worker-0").returncode == 0
    wait_until(
        lambda: (row := builtin.replicas()["worker-0"])["state"] == "ready" and row["restarts"] == 1, what="it is back"
    )
    assert builtin.hello().status_code == 200
    assert builtin.comet("stats", "--reset").returncode == 0
    assert builtin.counts()["total"] == 0


@needs_root
def test_a_folder_closed_later_locks_no_worker_out_for_long() -> None:
    """The worker was started when every user could pass the folder; it is replaced by one that is shown what it
    needs.
    """
    with open_folder() as top:
        folder = top / "closed-later/cluster"
        folder.mkdir(parents=True)
        with open_cluster(folder, worker=2, pool=1, runtime="process") as cluster:
            cluster.start()
            before = cluster.replicas()
            assert cluster.hello().status_code == 200
            folder.parent.chmod(0o700)

            def replaced() -> bool:
                rows = cluster.replicas()
                if rows.keys() != before.keys() or {row["state"] for row in rows.values()} != {"ready"}:
                    return False
                return all(row["pid"] != before[name]["pid"] for name, row in rows.items() if row["role"] == "worker")

            wait_until(replaced)
            assert [cluster.hello().status_code for _ in range(8)] == [200] * 8
            assert cluster.counts()["total"] >= 9
            after = cluster.replicas()
            time.sleep(3)  # The supervisor looks once a second, and finds nothing to do.
            assert {name: row["pid"] for name, row in cluster.replicas().items()} == {
                name: row["pid"] for name, row in after.items()
            }


@needs_root
def test_missing_mount_namespaces_are_one_line(tmp_path: Path) -> None:
    with open_cluster(tmp_path, worker=1, pool=1, runtime="process") as cluster:
        cluster.command = ("setpriv", "--bounding-set=-sys_admin", "--", *cluster.command)
        done = cluster.comet("run", "--detach")
        assert (done.returncode, done.stderr.strip().count("\n")) == (1, 0), done.stderr
        assert "need a mount namespace, which this system refuses" in done.stderr
        assert "CAP_SYS_ADMIN" in done.stderr


@needs_root
@pytest.mark.parametrize("held", [False, True])
def test_a_service_of_an_ordinary_user_has_no_capability_either(held: bool) -> None:
    with (
        open_folder() as folder,
        service(folder, USER, worker_command=f"{PYTHON} thief.py" + " {port}" * (not held)) as cluster,
    ):
        cluster.start()
        thief = Thief(cluster)
        seen = thief.asked("look")
        assert seen["status"]["Uid"].split() == [str(USER)] * 4
        assert all(int(seen["status"][name], 16) == 0 for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"))
        assert seen["status"]["NoNewPrivs"].strip() == "1"
        for path in ("/etc/shadow", "/proc/1/environ", "/proc/1/root/etc/shadow", "/root/.bashrc"):
            assert thief.is_refused("read", path), path
            assert thief.is_refused("link", path), path
        assert thief.is_refused("kill", 1)


@needs_root
def test_an_ordinary_users_builtin_worker_runs_as_that_user() -> None:
    with (
        open_folder() as folder,
        as_user(folder, USER, open_cluster(folder, worker=1, pool=1, runtime="process")) as cluster,
    ):
        cluster.start()
        assert cluster.hello().status_code == 200
        assert status_of(cluster.replicas()["worker-0"]["pid"])["Uid"].split() == [str(USER)] * 4


@needs_root
def test_links_into_closed_folders_lead_where_they_did(folder: Path) -> None:
    """A need is reached by the path that names it, through links above and within what is closed, and whatever lies
    beside it is not.
    """
    inside = closed(folder)
    (inside / "data/deep").mkdir(parents=True, exist_ok=True)
    (inside / "data/file").write_text("found")
    (inside / "beside").write_text("hidden")
    (inside / "link").symlink_to("data")
    (folder / "over").symlink_to("closed/link")
    code = (
        f"import os; print(open('{folder}/over/file').read(), sorted(os.listdir('{inside}')), "
        f"os.path.exists('{inside}/beside'))"
    )
    needs = ((f"{folder}/over", f"{folder}/over", True),)
    told = confinement.run((PYTHON, "-c", code), Owner(WORKER_UID, WORKER_UID), needs, "", 30)
    assert told == (0, "found ['data', 'link'] False\n", "")


@needs_root
def test_a_closed_folder_within_what_is_shown_is_closed_still(folder: Path) -> None:
    """Of two needs one may lie in the other, behind one more closed folder: both are reached, nothing else is."""
    inside = closed(folder)
    (inside / "outer/private/data").mkdir(parents=True, exist_ok=True)
    (inside / "outer/private").chmod(0o700)
    (inside / "outer/private/secret").write_text("hidden")
    (inside / "outer/private/data").chmod(0o777)
    code = (
        f"open('{inside}/outer/private/data/made', 'w').close()\nimport os; print(os.listdir('{inside}/outer/private'))"
    )
    needs = tuple(
        (path, path, read_only)
        for path, read_only in ((f"{inside}/outer", True), (f"{inside}/outer/private/data", False))
    )
    assert confinement.run((PYTHON, "-c", code), Owner(WORKER_UID, WORKER_UID), needs, "", 30) == (0, "['data']\n", "")
    assert (inside / "outer/private/data/made").exists()
