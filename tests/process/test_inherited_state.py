"""Whatever state a process inherits from whoever starts it (closed descriptors, signals, umask, environment, folder,
limits): every entry sets right what it needs, and leaves what its user means.
"""

import contextlib
import itertools
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from comet.host import process_setup
from tests.support.cluster import ROOT, TestCluster, free_ports, open_cluster, open_folder
from tests.support.waiting import PATIENCE, wait_until

SUPERVISOR = (sys.executable, str(ROOT / "supervisor.py"))
ENTRIES = {"supervisor.py": SUPERVISOR, "comet": (sys.executable, "-c", ("from comet.bootstrap import console; raise "
                                                                        "SystemExit(console())")),
           "python -m comet": (sys.executable, "-m", "comet")}  # fmt: skip
CLOSED = [" ".join(each) for count in range(1, 4) for each in itertools.combinations(("0<&-", "1>&-", "2>&-"), count)]


def started(prelude: str, *argv: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command from a shell that has done something before."""
    known = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    kept = {name: value for name, value in known.items() if value != "(unset)"}
    command = (
        ["sh", "-c", f'{prelude} exec "$@"', "sh", *argv]
        if "{}" not in prelude
        else ["sh", "-c", prelude.format('"$@"'), "sh", *argv]
    )
    return subprocess.run(
        command,
        cwd=folder,
        env=kept,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60 * PATIENCE,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text("worker: 1\nruntime: process\n")
    return tmp_path


@pytest.mark.parametrize("entry", ENTRIES)
def test_commands_work_with_closed_standard_streams(folder: Path, entry: str) -> None:
    for closed in CLOSED if entry == "supervisor.py" else CLOSED[-1:]:
        good = started(f"exec {{}} {closed}", *ENTRIES[entry], "check", folder=folder)
        assert good.returncode == 0
        assert ("valid (1 worker, " in good.stdout) == ("1>&-" not in closed)
        assert good.stderr == ""
        bad = started(f"exec {{}} {closed}", *ENTRIES[entry], "check", "--config", "missing", folder=folder)
        assert (bad.returncode, bad.stdout) == (2, "")
        assert bad.stderr.count("\n") == ("2>&-" not in closed)


ODD_ENVIRONMENTS = [
    {"PYTHONIOENCODING": "ascii", "COLUMNS": "0", "HOME": "(unset)", "TERM": "(unset)", "PYTHONOPTIMIZE": "2"},
    {"PYTHONIOENCODING": "latin-1:strict", "COLUMNS": "-1", "HOME": "", "TERM": "dumb", "PYTHONUNBUFFERED": "1"},
    {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "COLUMNS": "wide",
        "HOME": "/nonexistent",
        "PWD": "/elsewhere",
    },
    {
        "LANG": "nonsense",
        "LC_ALL": "xx_YY.none",
        "COLUMNS": "²",
        "PATH": "(unset)",
        "TERM": "no-such-terminal",
        "FORCE_COLOR": "1",
    },
    {"COLUMNS": "1", "LINES": "-5", "TZ": "Nowhere/Land", "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
    {
        "COLUMNS": "9" * 30,
        "LINES": "0",
        "PYTHONPATH": "(unset)",
        "LANG": "(unset)",
        "LC_ALL": "(unset)",
        "USER": "(unset)",
    },
]


def test_no_environment_ends_a_command_in_a_traceback(folder: Path) -> None:
    (folder / "événement\udcff").mkdir()
    (folder / "événement\udcff/config.yaml").write_text("wörker: 1\n")
    for environment in ODD_ENVIRONMENTS:
        for arguments, code in ((["ps"], 0), (["--help"], 0)):
            done = started("", *SUPERVISOR, *arguments, folder=folder, **environment)
            assert done.returncode == code, (environment, done.stderr)
            assert "Traceback" not in done.stderr
        odd = started("", *SUPERVISOR, "check", folder=folder / "événement\udcff", **environment)
        assert odd.returncode == 2
        assert odd.stderr.startswith("config.yaml:1: "), (environment, odd.stderr)


def test_a_removed_working_folder_is_named_or_not_needed(folder: Path) -> None:
    gone = f"mkdir {folder}/gone; cd {folder}/gone; rmdir {folder}/gone;"
    for command in ("ps", "check", "run", "stop"):
        done = started(gone, *SUPERVISOR, command, folder=folder)
        assert done.returncode == 2
        assert done.stderr.startswith("the working folder has been removed: ")
        assert done.stderr.count("\n") == 1
    done = started(gone, *SUPERVISOR, "check", "--config", str(folder / "config.yaml"), folder=folder)
    assert (done.returncode, done.stderr) == (0, "")


WRAPPER = """
import os, shutil, signal, sys
os.umask(0o777)
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    if number < 32:
        signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
os.chdir(sys.argv[1])
os.rmdir(sys.argv[1])
for fd in (0, 1, 2):
    os.close(fd)
argv = sys.argv[3:]
if sys.argv[2] != "0":
    # The interpreter may lie where only root may go: the right to read goes along, that to write does not.
    ids = [f"--reuid={sys.argv[2]}", f"--regid={sys.argv[2]}", "--clear-groups"]
    rights = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search"]
    argv = [shutil.which("setpriv"), *ids, *rights, "--", *argv]
environment = {"PATH": os.environ["PATH"], "COMET_CLUSTER": "0123456789ab", "COMET_REPLICA": "worker-7",
               "COLUMNS": "0", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
os.execve(argv[0], argv, environment)
"""


@pytest.mark.parametrize(
    "uid", [pytest.param(0, id="root"), pytest.param(54321, id="a user without a name", marks=pytest.mark.root)]
)
def test_a_cluster_runs_with_hostile_inherited_state(uid: int) -> None:
    service = {"worker_command": "'python3 -m http.server {port} --bind {host}'", "health_path": "/",
               "fault_point": "lb"}  # fmt: skip
    with (
        open_folder() as folder,
        open_cluster(folder, worker=1, pool=1, runtime="process", **(service if uid == 0 else {})) as cluster,
    ):
        check_hostile_inherited_state(cluster, uid)
        cluster.assert_nothing_left()
        assert "Traceback" not in "".join(path.read_text() for path in (cluster.folder / ".comet/logs").glob("*.log"))


def check_hostile_inherited_state(cluster: TestCluster, uid: int) -> None:
    os.chown(cluster.folder, uid, uid)
    gone = cluster.folder / "gone"
    gone.mkdir()
    config = str(cluster.folder / "config.yaml")
    subprocess.run(
        [sys.executable, "-c", WRAPPER, str(gone), str(uid), *SUPERVISOR, "run", "--detach", "--config", config],
        check=False,
        timeout=90 * PATIENCE,
    )
    rows = cluster.replicas()
    assert {name: row["state"] for name, row in rows.items()} == {"lb-0": "ready", "worker-0": "ready"}
    supervisor = psutil.Process(cluster.ps()["supervisor"]["pid"])
    # Started by a replica of another cluster, it is none of that cluster's processes.
    assert not {"COMET_CLUSTER", "COMET_REPLICA"} & supervisor.environ().keys()
    assert (cluster.folder / ".comet/lock").read_text() == f"{supervisor.pid}\n"
    assert blocked(supervisor.pid) == blocked(rows["lb-0"]["pid"]) == 0
    if uid == 0:
        # A custom service has its user's umask, but for what would take the file's rights from its own owner.
        status = Path(f"/proc/{rows['worker-0']['pid']}/status").read_text()
        assert "Umask:\t0077" in status
    # Deaths of both kinds are heard of, with their causes, and made good: also by a load balancer whose folder is gone.
    for name in ("worker-0", "lb-0"):
        os.kill(rows[name]["pid"], signal.SIGKILL)
        wait_until(
            lambda name=name: cluster.replicas()[name]["restarts"] == 1 and cluster.replicas()[name]["state"] == "ready"
        )
        assert cluster.events("replica_exited", name)[0]["signal"] == "SIGKILL"
    # What nohup and `&` ignore stays ignored; what stops it does not.
    os.kill(supervisor.pid, signal.SIGINT)
    os.kill(supervisor.pid, signal.SIGHUP)
    time.sleep(0.5)
    assert not cluster.events("reloaded") + cluster.events("reload_refused")
    assert cluster.ps()["supervisor"]["pid"] == supervisor.pid
    supervisor.terminate()
    wait_until(lambda: not cluster.ps()["supervisor"]["running"])
    wait_until(lambda: not cluster.processes(), what="its helpers end with it")


def blocked(pid: int) -> int:
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigBlk:"))
    return int(line.split()[1], 16) & ~(1 << (signal.SIGPROF - 1))


@pytest.mark.parametrize("meant", ["nohup", "ampersand"])
def test_ignored_sigint_and_sighup_stay_ignored(make_cluster: Callable[..., TestCluster], meant: str) -> None:
    cluster = make_cluster(worker=0, pool=1, runtime="process")
    prelude = "trap '' HUP;" if meant == "nohup" else "trap '' INT QUIT;"
    ignored, heard = (signal.SIGHUP, signal.SIGINT) if meant == "nohup" else (signal.SIGINT, signal.SIGHUP)
    shell = ["sh", "-c", f'{prelude} exec "$@"', "sh", *SUPERVISOR, "run"]
    with subprocess.Popen(
        shell, cwd=cluster.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as supervisor:
        try:
            wait_until(lambda: cluster.events("replica_ready", "lb-0"))
            os.killpg(supervisor.pid, ignored)
            time.sleep(0.5)
            assert supervisor.poll() is None
            assert not cluster.events("reloaded")
            supervisor.send_signal(heard)
            if heard == signal.SIGHUP:
                wait_until(lambda: cluster.events("reloaded"))
                supervisor.terminate()
            assert supervisor.wait(30 * PATIENCE) == 0
        finally:
            supervisor.kill()


@contextlib.contextmanager
def single(*argv: str, prelude: str = "") -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        ["sh", "-c", f'{prelude} exec "$@"', "sh", *argv], cwd=ROOT, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("module", ["lb", "worker_app"])
def test_lb_and_worker_alone_reset_inherited_state(module: str, tmp_path: Path) -> None:
    port = free_ports(1)
    upstream = ["--upstream", "127.0.0.1:1"] if module == "lb" else []
    argv = (sys.executable, "-m", module, "--listen", f"127.0.0.1:{port}", *upstream)
    database = f"COMET_DATABASE={tmp_path}/stats.db; export COMET_DATABASE;"
    with single(*argv, prelude=f"{database} trap '' TERM INT CHLD; exec 0<&- 1>&- 2>&-;") as process:
        wait_until(lambda: answers(port))
        targets = [os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in (0, 1, 2)]
        assert targets == ["/dev/null"] * 3  # And not a socket, or the database.
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None
        process.terminate()
        assert process.wait(30 * PATIENCE) == 0


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as peer:
        peer.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        return bool(peer.recv(100))
    return False


@pytest.mark.parametrize("limit", [64, 256])
def test_a_low_descriptor_limit_is_reported_or_enough(make_cluster: Callable[..., TestCluster], limit: int) -> None:
    """A soft limit is raised to the hard one; what even that does not allow is one line."""
    cluster = make_cluster(worker=2, pool=2, runtime="process")
    done = started(f"ulimit -Sn {limit};", *SUPERVISOR, "run", "--detach", folder=cluster.folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(cluster.comet("ps", "--json").stdout)["supervisor"]["running"]
    cluster.stop()


def test_too_few_descriptors_are_refused_before_the_start(folder: Path) -> None:
    for detach in ((), ("--detach",)):
        done = started("ulimit -n 64;", *SUPERVISOR, "run", *detach, folder=folder)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.count("\n") == 1
        assert "64 open files" in done.stderr
        assert "ulimit -n 4096" in done.stderr
    assert not (folder / ".comet").exists()


def test_too_small_a_file_size_is_refused_before_the_start(folder: Path) -> None:
    for detach in ((), ("--detach",)):
        done = started("prlimit --pid $$ --fsize=1048576;", *SUPERVISOR, "run", *detach, folder=folder)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.count("\n") == 1
        assert "1048576 bytes" in done.stderr
        assert "ulimit -f unlimited" in done.stderr
    assert not (folder / ".comet").exists()
    assert (
        "bad   file size: 1048576 bytes"
        in started("prlimit --pid $$ --fsize=1048576;", *SUPERVISOR, "doctor", folder=folder).stdout
    )


def test_a_small_soft_limit_of_file_sizes_is_raised(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=1, pool=1, runtime="process")
    done = started("prlimit --pid $$ --fsize=8192:;", *SUPERVISOR, "run", "--detach", folder=cluster.folder)
    assert done.returncode == 0, done.stderr
    assert cluster.hello().status_code == 200
    cluster.stop()


def test_a_low_descriptor_limit_is_reported_and_serves(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=2, pool=2, runtime="process")
    done = started("ulimit -n 256;", *SUPERVISOR, "run", "--detach", folder=cluster.folder)
    assert done.returncode == 0, done.stderr
    assert (
        "256 open files here: a load balancer takes some 128 connections; raise the limit: ulimit -n 4096"
        in done.stdout + done.stderr
    )
    with contextlib.ExitStack() as held:
        peers = [
            held.enter_context(socket.create_connection(("127.0.0.1", cluster.config["load-balancer-port"]), 60))
            for _ in range(40)
        ]
        for peer in peers:
            peer.sendall(b"GET /api/v1/hello HTTP/1.1\r\nHost: x\r\n\r\n")
        assert {peer.recv(12) for peer in peers} == {b"HTTP/1.1 200"}
    cluster.stop()


@pytest.mark.parametrize(
    ("limit", "fatal"),
    [(64, True), (255, True), (256, False), (4095, False), (4096, None), (resource.RLIM_INFINITY, None)],
)
def test_which_descriptor_limits_are_fatal(limit: int, fatal: bool | None) -> None:
    lack = process_setup.shortage_of_files(limit)
    assert (lack.fatal if lack is not None else None) is fatal
