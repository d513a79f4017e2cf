"""What answers on a worker's port is the worker: a stranger there is neither taken for it nor given its requests, and
is named.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
import requests

from comet.host import port_owners
from tests.support.cluster import PYTHON, TestCluster, open_cluster, open_folder
from tests.support.waiting import wait_until


class Stranger(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("X-Comet-Listening", "1")
        self.send_header("Content-Length", "8")
        self.end_headers()
        self.wfile.write(b"stranger")

    def log_message(self, *arguments: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = True


@contextlib.contextmanager
def in_place_of(cluster: TestCluster, name: str = "worker-0") -> Iterator[str]:
    """A server of this process's takes a worker's port between two of its lives; gives how messages name it."""
    supervisor, row = cluster.supervisor_pid(), cluster.replicas()[name]
    os.kill(supervisor, signal.SIGSTOP)
    wait_until(lambda: psutil.Process(supervisor).status() == psutil.STATUS_STOPPED, what="the supervisor stands still")
    try:
        if row["kind"] == "container":
            with cluster.engine() as engine:
                engine.api.kill(row["id"])
                wait_until(lambda: not engine.api.inspect_container(row["id"])["State"]["Running"], 20, "it is dead")
        else:
            os.kill(row["pid"], signal.SIGKILL)
        server = wait_until(lambda: listening(row["port"]), 20, "its port is free")
        assert server is not None
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    finally:
        os.kill(supervisor, signal.SIGCONT)
    try:
        yield f"port {row['port']} is held by {Path('/proc/self/comm').read_text().strip()} (PID {os.getpid()})"
    finally:
        server.shutdown()
        server.server_close()


def listening(port: int) -> Server | None:
    try:
        return Server(("127.0.0.1", port), Stranger)
    except OSError:
        return None


def is_back(cluster: TestCluster) -> bool:
    return bool(cluster.replicas()["worker-0"]["state"] == "ready")


def test_a_foreign_process_on_a_builtin_workers_port(tmp_path: Path) -> None:
    with open_cluster(
        tmp_path, worker=1, pool=1, runtime="process", restart_backoff_max=1, queue_timeout=0.5
    ) as cluster:
        cluster.start()
        with in_place_of(cluster) as named:
            told = wait_until(lambda: cluster.events("port_taken"), 20, "who has the port is said")
            assert told[0]["reason"] == f"{named}, which is not worker-0"
            assert named in cluster.comet("events").stdout
            wait_until(lambda: cluster.replicas()["worker-0"]["restarts"] >= 3, 30, "it is tried again")
            assert cluster.hello().status_code == 503
            assert len(cluster.events("replica_ready", "worker-0")) == 1
        wait_until(lambda: is_back(cluster), 20, "the port is free again")
        assert cluster.hello().status_code == 200


def test_a_foreign_process_on_a_custom_services_port(tmp_path: Path) -> None:
    """The service lives, so nothing but the owner of the socket tells the two apart."""
    service = tmp_path / "service.py"
    service.write_text(
        "import os, sys, time\nfrom http.server import *\nif os.path.exists('lived'): time.sleep(1000)\nopen('lived', "
        "'w').close()\n"
        "HTTPServer(('127.0.0.1', int(sys.argv[1])), SimpleHTTPRequestHandler).serve_forever()\n"
    )
    own = {
        "runtime": "process",
        "worker_command": f"{sys.executable} service.py {{port}}",
        "avg_delay": None,
        "failure": None,
    }
    with open_cluster(
        tmp_path, worker=1, pool=1, health_path="/", start_timeout=10, queue_timeout=0.5, restart_backoff_max=1, **own
    ) as cluster:
        cluster.start()
        with in_place_of(cluster) as named:
            wait_until(lambda: cluster.events("port_taken"), 20, "who has the port is said")
            assert cluster.events("port_taken")[0]["reason"] == f"{named}, which is not worker-0"
            assert requests.get(cluster.lb(), timeout=10).status_code == 503
            assert len(cluster.events("replica_ready", "worker-0")) == 1
            done = cluster.comet("restart", "worker-0")
            assert done.returncode != 0


@pytest.mark.docker
def test_a_foreign_process_on_a_containers_port_is_named(tmp_path: Path) -> None:
    with open_cluster(tmp_path, worker=1, pool=1, restart_backoff_max=1, queue_timeout=0.5) as cluster:
        cluster.start()
        with in_place_of(cluster) as named:
            failed = wait_until(lambda: cluster.events("replica_start_failed", "worker-0"), 30, "the engine refuses")
            assert named in failed[-1]["reason"]
            assert cluster.hello().status_code == 503
        wait_until(lambda: is_back(cluster), 30, "the port is free again")


LEAVES = "import os,sys\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n"
SERVES = (
    "from http.server import *\nHTTPServer(('127.0.0.1', int(sys.argv[1])), SimpleHTTPRequestHandler).serve_forever()\n"
)


LINGERS = (
    "import os,signal,sys,time\nfrom http.server import *\n"
    "server = HTTPServer(('127.0.0.1', int(sys.argv[1])), SimpleHTTPRequestHandler)\n"
    "(gone, leave), (seen, left) = os.pipe(), os.pipe()\n"
    "if os.fork():\n"
    "    os.read(gone, 1)\n"
    "    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))\n"
    "    signal.setitimer(signal.ITIMER_REAL, 0.06)\n"
    "    os.write(left, b'.')\n"
    "    time.sleep(600)\n"
    "os.setsid()\nos.write(leave, b'.')\nos.read(seen, 1)\nserver.serve_forever()\n"
)
"""Its timer runs before the child answers: however late the parent gets the processor, it is due soon after."""


@pytest.mark.parametrize("kind", ["nginx", "python", "lingers"])
def test_a_service_that_goes_to_the_background_is_told_to_stay(kind: str) -> None:
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin") or "nginx"
    commands = {
        "nginx": f"env PORT={{port}} {program} -e stderr -c CONF",
        "python": f"{PYTHON} service.py {{port}}",
        "lingers": f"{PYTHON} service.py {{port}}",
    }
    own = {"runtime": "process", "worker_user": None, "avg_delay": None, "failure": None, "restart_backoff_max": 1}
    with open_folder() as folder, open_cluster(folder, worker=1, pool=1, health_path="/", **own) as cluster:
        (folder / "service.py").write_text(LINGERS if kind == "lingers" else LEAVES + SERVES)
        (folder / "var").mkdir()
        (folder / "var").chmod(0o1777)
        places = " ".join(
            f"{name}_temp_path {folder}/var/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"pid {folder}/var/pid; error_log stderr; events {{}}\n"
            f"http {{ access_log off; {places}\n"
            f"server {{ listen 127.0.0.1:{cluster.config['worker-port']}; return 200 fine; }} }}\n"
        )
        cluster.write(worker_command=commands[kind].replace("CONF", str(folder / "nginx.conf")))
        done = cluster.comet("run", "--detach")
        assert done.returncode == 1
        assert "worker-0 does not become ready" in done.stderr
        assert "a service must stay in the foreground" in done.stderr
        assert cluster.events("replica_ready", "worker-0") == []
        if kind == "lingers":  # Until its setsid, a child belongs to the service and is ended with it, unnamed.
            assert cluster.events("left_in_background", "worker-0")
        wait_until(lambda: not cluster.processes(), 10, "what it left is ended")


def test_a_child_listening_in_its_own_session_is_the_worker(tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(
        "import os,sys\nif os.fork():\n    os.wait()\n    os._exit(1)\nos.setsid()\n" + SERVES
    )
    own = {
        "runtime": "process",
        "worker_command": f"{sys.executable} service.py {{port}}",
        "avg_delay": None,
        "failure": None,
    }
    with open_cluster(tmp_path, worker=1, pool=1, health_path="/", **own) as cluster:
        cluster.start()
        assert requests.get(cluster.lb(), timeout=10).status_code == 200
        assert cluster.events("port_taken") == []
        cluster.destroy()


# Without a cluster


def test_who_listens_is_read_from_the_kernels_tables(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

    def row(address: str, state: str, uid: int, inode: int) -> str:
        queues = "00000000:00000000 00:00000000 00000000"
        return f"   0: {address} 00000000:0000 {state} {queues} {uid:5} 0 {inode} 1 0 100 0 0 10 0\n"

    (tmp_path / "net/tcp").write_text(
        head
        + row("0100007F:1770", "0A", 0, 11)
        + row("0100007F:1770", "01", 0, 12)
        + row("0200007F:1770", "0A", 33, 13)
        + row("00000000:1771", "0A", 5, 14)
    )
    (tmp_path / "net/tcp6").write_text(
        head
        + row("00000000000000000000000000000000:1770", "0A", 7, 21)
        + row("0000000000000000FFFF00000100007F:1771", "0A", 8, 22)
        + row("00000000000000000000000001000000:1772", "0A", 9, 23)
    )
    assert port_owners.listening("127.0.0.1", 6000, tmp_path) == {11: 0, 21: 7}
    assert port_owners.listening("127.0.0.2", 6000, tmp_path) == {13: 33, 21: 7}
    assert port_owners.listening("127.0.0.1", 6001, tmp_path) == {14: 5, 22: 8}
    assert port_owners.listening("::1", 6002, tmp_path) == {23: 9}
    assert port_owners.listening("127.0.0.1", 6002, tmp_path) == {}
    assert port_owners.listening(None, 6000, tmp_path).keys() == {11, 13, 21}


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1"])
def test_the_kernel_answers_what_its_tables_say(address: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as mine, socket.socket() as client:
        mine.bind((address, 0))
        mine.listen()
        port = mine.getsockname()[1]
        if "1" in address and address != "::1":
            client.connect(("127.0.0.1", port))  # A connection listens to nobody.
        for host in (None, "127.0.0.1", "::1", "192.0.2.1"):

            def agree(host: str | None = host) -> bool:
                asked, read = (port_owners.listening(host, port, proc) for proc in (Path("/proc"), Path("/proc/self")))
                return asked == read

            # The tables are read in pages: where other sockets close meanwhile, a line may be missing.
            wait_until(agree, what="the same answer")
        assert port_owners.listening(None, port) == {os.fstat(mine.fileno()).st_ino: os.getuid()}


def test_a_worker_and_its_descendants_own_its_port() -> None:
    with socket.socket() as mine:
        mine.bind(("127.0.0.1", 0))
        mine.listen()
        port = mine.getsockname()[1]
        code = (
            "import socket,time\ns=socket.create_server(('127.0.0.1',0))\n"
            "print(s.getsockname()[1], flush=True)\ntime.sleep(60)"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as child:
            try:
                assert child.stdout is not None
                theirs = int(child.stdout.readline())
                assert port_owners.port_conflict(child.pid, "worker-0", "127.0.0.1", theirs) == ""
                assert port_owners.port_conflict(os.getpid(), "worker-0", "127.0.0.1", theirs) == ""
                told = port_owners.port_conflict(child.pid, "worker-0", "127.0.0.1", port)
                assert (
                    told
                    == f"port {port} is held by {psutil.Process().name()} (PID {os.getpid()}), which is not worker-0"
                )
                assert f"(PID {child.pid})" in port_owners.taken(theirs)
                assert port_owners.taken(port) == ""
            finally:
                child.kill()
    with socket.socket() as silent:  # The port is its own, so that nobody listens there.
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        assert port_owners.port_conflict(os.getpid(), "worker-0", "127.0.0.1", port) == ""


@contextlib.contextmanager
def forked(code: str) -> Iterator[int]:
    """The PID of a process that runs this code, once it has printed an empty line; its children end with it."""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "\n"
            yield parent.pid
        finally:
            os.killpg(parent.pid, signal.SIGKILL)


@pytest.mark.parametrize(("does", "ends"), [("while time.monotonic() < end: pass", True), ("time.sleep(600)", False)])
def test_a_parent_that_still_has_to_run_may_be_about_to_end(does: str, ends: bool) -> None:
    """As on a busy machine, where the processor comes late; one that sleeps stays."""
    code = (
        "import os, time\nif not os.fork(): time.sleep(600)\n"
        f"print(flush=True)\nend = time.monotonic() + 0.4\n{does}\nos._exit(0)"
    )
    with forked(code) as parent:
        assert port_owners.goes_to_background(parent) is ends


def test_a_parent_that_ends_between_two_looks_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    look = port_owners._would_run

    def end_before(pid: int) -> bool:
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
        return look(pid)

    monkeypatch.setattr(port_owners, "_would_run", end_before)
    code = "import os, time\nif os.fork(): print(flush=True)\ntime.sleep(600)"
    with forked(code) as parent:
        assert port_owners.goes_to_background(parent)


FORKS_ON = """
import os, time
if os.fork(): os._exit(0)
os.setsid()
for _ in range(200):
    if not os.fork(): break
    time.sleep(0.0005)
time.sleep(600)
"""
REAPS = """
import os, subprocess, sys, time
from comet.host import port_owners
from comet.runtimes.process.driver import become_subreaper
become_subreaper()
marks = {"COMET_CLUSTER": "forks-on", "COMET_REPLICA": "worker-0"}
for _ in range(6):
    subprocess.run([sys.executable, "-S", "-c", sys.argv[1]], env=marks, start_new_session=True, check=True)
    time.sleep(0.02)
    port_owners.end_background("forks-on", "worker-0", 1, ())
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.01)
        except ChildProcessError:
            break
    else:
        sys.exit("it forks on")
"""


def test_what_forks_while_it_is_ended_is_ended() -> None:
    done = subprocess.run([sys.executable, "-c", REAPS, FORKS_ON], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
