"""What a worker that is an OS process may reach of the host: as root's, and as an ordinary user's.

The attacker is the service itself: it is asked over HTTP to read files, to look around and to signal others, and says
what came of it.
"""

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from comet.host import confinement
from comet.state.directory import WORKER_UID, Owner
from tests.support.cluster import PYTHON, TestCluster, open_cluster, open_folder
from tests.support.waiting import wait_until
from tests.unit.host.test_confinement import closed

needs_root = pytest.mark.root

USER = 23456
"""An ordinary user who runs a cluster; numbers need no entry in /etc/passwd."""

THIEF = r"""
import ctypes, json, os, socket, subprocess, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

def read(path):
    if os.path.isdir(path):
        return " ".join(sorted(os.listdir(path)))
    with open(path, "rb") as file:
        return file.read(65536).decode(errors="replace")

def kill(pid):
    os.kill(int(pid), 0)

def trace(pid):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, int(pid), None, None) == -1:
        raise OSError(ctypes.get_errno(), "ptrace")

def link(target):
    path = f"/tmp/thief-{os.getpid()}"
    os.symlink(target, path)
    try:
        return read(path)
    finally:
        os.unlink(path)

def execute(*argv):
    return subprocess.run(argv, capture_output=True, text=True).stdout

def reopen(path):
    with open(path, "a") as file:
        file.write("reopened\n")

def second_name(path):
    other = f"/tmp/thief-{os.getpid()}.log"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.linkat(-100, path.encode(), -100, other.encode(), 0x400) == -1:  # AT_FDCWD, AT_SYMLINK_FOLLOW
        raise OSError(ctypes.get_errno(), "linkat")
    os.unlink(other)

def open_up(path):
    os.chmod(path, 0o666)

def look():
    status = dict(line.split(":\t", 1) for line in read("/proc/self/status").splitlines() if ":\t" in line)
    fds = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            fds[number] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            pass
    return {"status": status, "fds": fds, "environ": dict(os.environ), "ppid": os.getppid(), "cwd": os.getcwd()}

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer("ok")
    def do_POST(self):
        name, *arguments = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            self.answer(globals()[name](*arguments))
        except OSError as error:
            self.answer({"errno": error.errno})
    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass

held = os.environ.get("LISTEN_FDS")
address = ("127.0.0.1", 0 if held else int(sys.argv[1]))
server = ThreadingHTTPServer(address, Handler, bind_and_activate=not held)
if held:
    server.socket.close()
    server.socket = socket.socket(fileno=3)
server.serve_forever()
"""


class Thief:
    """A running service that does what it is asked."""

    def __init__(self, cluster: TestCluster) -> None:
        self.cluster = cluster
        self.pid = int(cluster.replicas()["worker-0"]["pid"])

    def asked(self, name: str, *arguments: Any) -> Any:
        return requests.post(self.cluster.worker(), data=json.dumps([name, *arguments]), timeout=20).json()

    def is_refused(self, name: str, *arguments: Any) -> bool:
        return self.asked(name, *arguments) in ({"errno": 13}, {"errno": 1})


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that every user may pass, as pytest's are not."""
    with open_folder() as made:
        yield made


def service(folder: Path, user: int | None = None, **config: Any) -> contextlib.AbstractContextManager[TestCluster]:
    (folder / "thief.py").write_text(THIEF)
    own = {
        "runtime": "process",
        "worker_command": f"{PYTHON} thief.py {{port}}",
        "worker_user": None,
        "avg_delay": None,
        "failure": None,
    }
    made = open_cluster(folder, worker=1, pool=1, health_path="/", shutdown_grace=1, **(own | config))
    return made if user is None else as_user(folder, user, made)


@contextlib.contextmanager
def as_user(folder: Path, user: int, made: contextlib.AbstractContextManager[TestCluster]) -> Iterator[TestCluster]:
    """The cluster as this user's. That user may read everything, as the tests' interpreter may lie in root's home: a
    right that workers must not inherit.
    """
    with made as cluster:
        for path in (folder, *folder.iterdir()):
            os.chown(path, user, user)
        ids = (
            f"--reuid={user}",
            f"--regid={user}",
            "--clear-groups",
            "--inh-caps=+dac_read_search",
            "--ambient-caps=+dac_read_search",
        )
        cluster.command = ("setpriv", *ids, *cluster.command)
        yield cluster


@pytest.fixture(scope="module")
def thief(folder: Path) -> Iterator[Thief]:
    """A custom service that root started, with an admin server beside it and a config that nobody else may read."""
    with service(folder, admin_port=0) as cluster:
        cluster.write(admin_port=cluster.config["load-balancer-port"] + 50)
        (folder / "config.yaml").chmod(0o600)
        cluster.environment["COMET_SECRET"] = "of the supervisor"
        cluster.start()
        yield Thief(cluster)


def no_rights(status: dict[str, str]) -> bool:
    none = {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}
    return all(int(status[name], 16) == 0 for name in none) and status["NoNewPrivs"].strip() == "1"


def status_of(pid: int) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)


# A custom service, started by root


@needs_root
def test_a_service_of_roots_has_no_capability_and_no_group(thief: Thief) -> None:
    seen = thief.asked("look")
    assert no_rights(seen["status"]), seen["status"]
    assert seen["status"]["Uid"].split() == seen["status"]["Gid"].split() == [str(WORKER_UID)] * 4
    assert seen["status"]["Groups"].split() == []


@needs_root
def test_a_service_of_roots_reads_no_file_that_its_user_may_not(thief: Thief) -> None:
    state, supervisor = thief.cluster.folder / ".comet", thief.cluster.supervisor_pid()
    balancer = thief.cluster.replicas()["lb-0"]["pid"]
    assert (state / "admin.token").exists()
    wanted = [
        "/etc/shadow",
        f"{state}/admin.token",
        f"{state}/lock",
        f"{state}/events.jsonl",
        f"{state}",
        f"{state}/run",
        f"{state}/logs",
    ]
    wanted += [
        f"{state}/logs/worker-0.log",
        f"{thief.cluster.folder}/config.yaml",
        "config.yaml",
        ".comet/admin.token",
        "/root/.bashrc",
    ]
    for pid in (1, supervisor, balancer):
        wanted += [
            f"/proc/{pid}/environ",
            f"/proc/{pid}/fd",
            f"/proc/{pid}/root/etc/shadow",
            f"/proc/{pid}/cwd/config.yaml",
            f"/proc/{pid}/maps",
        ]
        wanted += [f"/proc/{pid}/fd/{number}" for number in sorted(os.listdir(f"/proc/{pid}/fd"))[:40]]
    read = {
        path: told
        for path in wanted
        if not thief.is_refused("read", path) and (told := thief.asked("read", path)) != {"errno": 2}
    }
    assert read == {}
    linked = {
        path for path in wanted if not thief.is_refused("link", path) and thief.asked("link", path) != {"errno": 2}
    }
    assert linked == set()


@needs_root
def test_a_service_of_roots_inherits_nothing_but_its_output(thief: Thief) -> None:

    def look() -> dict[str, Any] | None:
        """A check of its health, or the end of the question before, may have a connection at the same moment."""
        seen: dict[str, Any] = thief.asked("look")
        sockets = sum(target.startswith("socket:") for target in seen["fds"].values())
        return seen if sockets <= 2 else None

    # Its own: the socket that it listens on, and the connection that asks.
    seen = wait_until(look, what="no third socket")
    assert seen is not None
    log = str(thief.cluster.folder / ".comet/logs/worker-0.log")
    assert (seen["fds"]["0"], seen["fds"]["1"], seen["fds"]["2"]) == ("/dev/null", log, log)
    # And what looks.
    assert all(target.startswith(("socket:", "/proc/")) for number, target in seen["fds"].items() if int(number) > 2), (
        seen["fds"]
    )
    assert {name for name in seen["environ"] if name.startswith("COMET_")} == {
        "COMET_CLUSTER",
        "COMET_FOLDER",
        "COMET_REPLICA",
    }
    assert (seen["environ"]["HOME"], seen["environ"]["USER"]) == ("/", str(WORKER_UID))


@needs_root
def test_roots_service_may_reopen_its_output_without_owning_it(thief: Thief) -> None:
    for path in ("/dev/stdout", "/dev/stderr", "/dev/fd/1", "/proc/self/fd/2"):
        assert thief.asked("reopen", path) is None, path
    assert "reopened\n" * 4 in thief.cluster.comet("logs", "worker-0").stdout
    log = thief.cluster.folder / ".comet/logs/worker-0.log"
    assert (log.stat().st_uid, log.stat().st_gid, log.stat().st_mode & 0o777) == (0, WORKER_UID, 0o620)
    # Neither a second name, nor another mode, nor another service's output.
    if Path("/proc/sys/fs/protected_hardlinks").read_text().strip() == "1":
        assert thief.is_refused("second_name", "/proc/self/fd/1")
    assert thief.is_refused("open_up", "/proc/self/fd/1")
    assert thief.is_refused("read", "/proc/self/fd/1")
    assert thief.is_refused("reopen", str(log.with_name("supervisor.log")))


@needs_root
def test_a_service_of_roots_signals_and_traces_nobody(thief: Thief) -> None:
    others = [
        1,
        thief.cluster.supervisor_pid(),
        *(process.pid for process in thief.cluster.processes() if process.pid != thief.pid),
    ]
    # Of what has ended meanwhile nobody is refused anything.
    assert [pid for pid in others if not thief.is_refused("kill", pid) and psutil.pid_exists(pid)] == []
    assert [pid for pid in others if not thief.is_refused("trace", pid) and psutil.pid_exists(pid)] == []


@needs_root
def test_roots_service_gains_nothing_by_setuid_programs(thief: Thief) -> None:
    program = thief.cluster.folder / "all-powerful"
    shutil.copy(shutil.which("id") or "/usr/bin/id", program)
    program.chmod(0o4755)
    assert thief.asked("execute", str(program), "-u").strip() == str(WORKER_UID)


@needs_root
@pytest.mark.parametrize("user", [None, "12346:12347", "root"])
def test_a_service_is_unprivileged_for_every_worker_user(user: str | None) -> None:
    with (
        open_folder() as folder,
        service(folder, worker_user=user and f"'{user}'", worker_command=f"{PYTHON} thief.py") as cluster,
    ):
        (folder / "config.yaml").chmod(0o600)
        cluster.start()
        thief = Thief(cluster)
        seen = thief.asked("look")
        assert seen["environ"]["LISTEN_FDS"] == "1"
        if user == "root":  # The config asked for it.
            assert seen["status"]["Uid"].split() == ["0"] * 4
            return
        uid, gid = (user or f"{WORKER_UID}:{WORKER_UID}").split(":")
        assert (seen["status"]["Uid"].split(), seen["status"]["Gid"].split(), seen["status"]["Groups"].split()) == (
            [uid] * 4,
            [gid] * 4,
            [],
        )
        assert no_rights(seen["status"])
        assert thief.is_refused("read", "/etc/shadow")
        assert thief.is_refused("read", "config.yaml")
        assert thief.is_refused("read", ".comet")


UNREACHABLE = {
    "its program lies in a closed folder": "{closed}/serve {{port}}",
    "its program is closed": "{folder}/serve-closed {{port}}",
    "its program is a link into a closed folder": "{folder}/link {{port}}",
    "its interpreter lies in a closed folder": "{folder}/script {{port}}",
    "its interpreter lies in a closed folder, by env": "{folder}/script-env {{port}}",
    "a file that it is made of is closed": PYTHON + " secret.py {{port}}",
    "a file that it is made of lies in a closed folder": PYTHON + " {closed}/thief.py {{port}}",
}


@needs_root
@pytest.mark.parametrize("kind", UNREACHABLE)
def test_a_program_that_its_user_cannot_reach_is_one_line(kind: str, folder: Path) -> None:
    inside = closed(folder)
    for path, content, mode in (
        (inside / "serve", f"#!{PYTHON}\n{THIEF}", 0o755),
        (inside / "thief.py", THIEF, 0o644),
        (folder / "serve-closed", f"#!{PYTHON}\n{THIEF}", 0o700),
        (folder / "script", f"#!{inside}/python3\n{THIEF}", 0o755),
        (folder / "script-env", f"#!/usr/bin/env only-here\n{THIEF}", 0o755),
        (folder / "secret.py", THIEF, 0o600),
    ):
        path.write_text(content)
        path.chmod(mode)
    for link, target in (
        (inside / "python3", PYTHON),
        (inside / "only-here", PYTHON),
        (folder / "link", inside / "serve"),
    ):
        if not link.is_symlink():
            link.symlink_to(target)
    with open_folder() as other:
        command = UNREACHABLE[kind].format(closed=inside, folder=folder)
        if "secret.py" in command:
            shutil.copy2(folder / "secret.py", other)
        with service(
            other, worker_command=command, worker_environment=f"{{PATH: '{inside}:/usr/bin:/bin'}}"
        ) as cluster:
            done = cluster.comet("run", "--detach")
            assert (done.returncode, done.stderr.strip().count("\n")) == (2, 0), done.stderr
            assert "worker-user" in done.stderr
            assert f"uid {WORKER_UID} cannot reach " in done.stderr


@needs_root
def test_an_unreachable_folder_is_one_line_and_changes_nothing(folder: Path) -> None:
    inside = closed(folder) / "cluster"
    inside.mkdir()
    with service(inside) as cluster:
        done = cluster.comet("run", "--detach")
        assert (done.returncode, done.stderr.strip().count("\n")) == (2, 0), done.stderr
        assert f"{folder}/closed is closed to it (set worker-user" in done.stderr
        cluster.write(worker_user="root")
        cluster.start()
        before = cluster.replicas()["worker-0"]["pid"]
        cluster.write(worker_user="'10007'")
        done = cluster.comet("reload")
        assert (done.returncode, "worker-user" in done.stderr) == (2, True), done.stderr
        assert cluster.replicas()["worker-0"]["pid"] == before


# The built-in worker, started by root


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


# An ordinary user's


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
