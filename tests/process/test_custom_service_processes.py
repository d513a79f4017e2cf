"""What belongs to a worker that is more than one process: a server with workers of its own, a shell around it, children
that go astray.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import requests

from comet.host import process_identity
from tests.support.cluster import TestCluster, open_cluster
from tests.support.waiting import PATIENCE, wait_until

PREFORK = """
import os, select, signal, socket, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from setproctitle import setproctitle

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/slow":
            time.sleep(2)
        if self.path == "/twice":  # A grandchild that nobody waits for.
            for _ in range(40):
                if os.fork() == 0:
                    if os.fork() == 0:
                        os._exit(0)
                    os._exit(0)
                os.wait()
        if self.path == "/stubborn":  # Ignores SIGTERM, and is in the session still.
            subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 1000 & while :; do wait; done"])
        if self.path == "/daemon":  # Has left the session.
            subprocess.Popen(["setsid", "-f", "sleep", "1000"])
        body = f"{os.getpid()} {master}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass

def serve():
    stopping = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))
    os.write(prepared[1], b".")
    os.close(complete[1])
    os.read(complete[0], 1)
    while not stopping:
        # Its socket does not block, so that handle_request alone would not wait.
        if select.select([server.socket], [], [], 0.1)[0]:
            server.handle_request()
    if grace:
        time.sleep(grace)
    with open("ended", "a") as file:
        file.write(f"{os.getpid()}\\n")

host, port, title, grace = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
server = HTTPServer((host, port), Handler, bind_and_activate=False)
server.allow_reuse_address = True
server.server_bind()
server.socket.listen(100)
server.socket.setblocking(False)
master = os.getpid()
children = []
# Nobody answers before all are there and take SIGTERM as they should.
prepared, complete = os.pipe(), os.pipe()
for number in range(2):
    child = os.fork()
    if child == 0:
        if title:
            setproctitle(title)
        serve()
        os._exit(0)
    children.append(child)
if title:
    setproctitle(title)
def end(number, frame):
    for child in children:
        os.kill(child, signal.SIGTERM)
    for child in children:
        os.waitpid(child, 0)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
for child in children:
    os.read(prepared[0], 1)
os.close(complete[1])
while True:
    signal.pause()
"""


SERVICE = "{python} service.py {{host}} {{port}} '{title}' {grace}"

KINDS = """
import os, sys
commands = {commands!r}
command = commands[int(os.environ["COMET_REPLICA"].removeprefix("worker-")) % len(commands)]
os.execvp("sh", ["sh", "-c", "exec " + command.format(host=sys.argv[1], port=sys.argv[2])])
"""
"""Each worker becomes the service of another kind."""


@contextlib.contextmanager
def prefork(folder: Path, command: str = SERVICE, **config: object) -> Iterator[TestCluster]:
    """Clusters of one worker that is a master with two children; `title` is what they call themselves."""
    folder.chmod(0o755)
    (folder / "service.py").write_text(PREFORK)
    title, grace = config.pop("title", ""), config.pop("grace", 0)
    # As whoever runs the tests: the service writes a file.
    me = f"'{os.getuid()}:{os.getgid()}'"
    made = {
        "runtime": "process",
        "avg_delay": None,
        "failure": None,
        "health_path": "/",
        "worker": 1,
        "pool": 1,
        "worker_user": me,
        "shutdown_grace": 2,
    }
    full = command.format(python=sys.executable, title=title, grace=grace)
    with open_cluster(folder, worker_command=f'"{full}"', **{**made, **config}) as cluster:
        yield cluster


def orphaned(cluster: TestCluster) -> None:
    os.kill(cluster.supervisor_pid(), signal.SIGKILL)
    wait_until(lambda: not cluster.ps()["supervisor"]["running"])


def family(cluster: TestCluster, name: str = "worker-0") -> dict[int, float]:
    """All of the worker's session, by PID, with their births."""
    leader = cluster.replicas()[name]["pid"]
    return {
        each.pid: each.birth
        for each in (*process_identity.members(leader, None), process_identity.process(leader))
        if each is not None
    }


def assert_dead(processes: dict[int, float]) -> None:
    assert [
        pid
        for pid, birth in processes.items()
        if (now := process_identity.process(pid)) and now.alive and now.birth == birth
    ] == []


TITLES = {
    "plain": {},
    # What it is called by setproctitle with the environment that Comet gives it, and by a program that writes over all
    # of it.
    "titled": {"title": "master of all"},
    "without a mark": {
        "title": "m" * 2000,
        "command": "env -u SPT_NOENV {python} service.py {{host}} {{port}} {title} {grace}",
    },
    "in a shell": {"command": "sh -c '{python} service.py {{host}} {{port}} \\\"{title}\\\" {grace}; exit 1'"},
}


@contextlib.contextmanager
def of_all_kinds(folder: Path) -> Iterator[TestCluster]:
    """A cluster with a worker of each kind, in the order of TITLES."""
    commands = []
    for each in TITLES.values():
        command = each.get("command", SERVICE).replace('\\"', '"')
        commands.append(command.format(python=sys.executable, title=each.get("title", ""), grace=0))
    (folder / "kinds.py").write_text(KINDS.format(commands=commands))
    with prefork(folder, "{python} kinds.py {{host}} {{port}}", worker=len(TITLES)) as cluster:
        yield cluster


def families(cluster: TestCluster) -> dict[str, dict[int, float]]:
    return {kind: family(cluster, f"worker-{number}") for number, kind in enumerate(TITLES)}


def test_adoption_keeps_a_services_children_running(tmp_path: Path) -> None:
    with of_all_kinds(tmp_path) as cluster:
        cluster.start()
        before = families(cluster)
        assert {kind: len(found) >= 3 for kind, found in before.items()} == dict.fromkeys(TITLES, True)
        for _ in range(2):  # Adopted, what has no mark is on record again.
            orphaned(cluster)
            answers: list[int] = []

            def ask(answers: list[int] = answers) -> None:
                answers.append(requests.get(f"{cluster.lb()}/slow", timeout=60).status_code)

            asked = [threading.Thread(target=ask) for _ in range(2 * len(TITLES))]
            for thread in asked:
                thread.start()
            done = cluster.comet("run", "--detach")
            assert done.returncode == 0, done.stderr
            assert "leftovers" not in done.stdout
            for thread in asked:
                thread.join(60)
            assert answers == [200] * len(asked)
            assert families(cluster) == before
            assert {row["restarts"] for row in cluster.replicas().values()} == {0}
        cluster.stop()
        cluster.assert_nothing_left()
        for found in before.values():
            assert_dead(found)


def test_stop_ends_a_whole_service_without_a_supervisor(tmp_path: Path) -> None:
    with of_all_kinds(tmp_path) as cluster:
        cluster.start()
        for number in range(len(TITLES)):
            requests.get(f"{cluster.worker(number)}/stubborn", timeout=60)
            requests.get(f"{cluster.worker(number)}/daemon", timeout=60)
        before = families(cluster)
        orphaned(cluster)
        assert {row["state"] for row in cluster.replicas().values()} == {"ready"}
        cluster.stop()
        cluster.assert_nothing_left()
        for found in before.values():
            assert_dead(found)
        assert cluster.comet("stop").returncode == 3


def test_children_of_a_dead_master_do_not_block_its_successor(tmp_path: Path) -> None:
    """Its children hold the port, and nobody restarted it while there was no supervisor."""
    with prefork(tmp_path, **TITLES["without a mark"]) as cluster:  # type: ignore[arg-type]
        cluster.start()
        before = family(cluster)
        master = cluster.replicas()["worker-0"]["pid"]
        orphaned(cluster)
        process_identity.send(master, before[master], signal.SIGKILL)
        process_identity.wait([(master, before[master])], 30)
        cluster.start()
        assert requests.get(cluster.lb(), timeout=60).status_code == 200
        assert not set(family(cluster)) & set(before)
        assert_dead(before)
        cluster.stop()
        cluster.assert_nothing_left()


def rolled_and_stopped(cluster: TestCluster) -> None:
    before, ended = family(cluster), cluster.folder / "ended"
    assert cluster.comet("restart", "worker-0").returncode == 0
    # Of the surge replica, too, which was made for the time of the restart.
    assert len(ended.read_text().split()) >= 4
    assert_dead(before)
    ended.unlink()
    cluster.stop()


def stopped_after_adoption(cluster: TestCluster) -> None:
    orphaned(cluster)
    cluster.start()
    cluster.stop()


def stopped_without_a_supervisor(cluster: TestCluster) -> None:
    orphaned(cluster)
    cluster.stop()


@pytest.mark.parametrize("end", [rolled_and_stopped, stopped_after_adoption, stopped_without_a_supervisor])
def test_a_service_in_a_shell_gets_its_grace_and_leaves_nothing(
    tmp_path: Path, end: Callable[[TestCluster], None]
) -> None:
    with prefork(tmp_path, **TITLES["in a shell"], grace=1, shutdown_grace=6) as cluster:  # type: ignore[arg-type]
        cluster.start()
        requests.get(f"{cluster.lb()}/stubborn", timeout=60)
        requests.get(f"{cluster.lb()}/daemon", timeout=60)
        before = wait_until(lambda: len(found := family(cluster)) >= 6 and found, what="all are there")
        end(cluster)
        # Both had the second that they take for their end.
        assert len((tmp_path / "ended").read_text().split()) == 2
        assert_dead(before)
        cluster.assert_nothing_left()


def test_children_of_a_crashed_service_end_at_once(tmp_path: Path) -> None:
    with prefork(tmp_path, **TITLES["plain"], grace=3) as cluster:  # type: ignore[arg-type]
        cluster.start()
        requests.get(f"{cluster.lb()}/stubborn", timeout=60)
        before = family(cluster)
        assert cluster.comet("kill", "worker-0").returncode == 0
        wait_until(lambda: (row := cluster.replicas()["worker-0"])["restarts"] == 1 and row["state"] == "ready")
        process_identity.wait(before.items(), 30)
        assert_dead(before)
        assert not (tmp_path / "ended").exists()
        assert [event["event"] for event in cluster.events("replica_start_failed")] == []


def test_a_second_signal_skips_the_grace_of_leftovers(tmp_path: Path) -> None:
    with (
        prefork(tmp_path, **TITLES["in a shell"], grace=60, shutdown_grace=90) as cluster,
        cluster.foreground() as supervisor,
    ):  # type: ignore[arg-type]
        wait_until(lambda: cluster.events("replica_ready", "lb-0"))
        before = family(cluster)
        supervisor.send_signal(signal.SIGTERM)
        wait_until(lambda: cluster.replicas()["worker-0"]["state"] == "stopping")
        time.sleep(0.5)
        supervisor.send_signal(signal.SIGTERM)
        supervisor.wait(30 * PATIENCE)
        assert_dead(before)


def test_orphaned_zombies_are_reaped(tmp_path: Path) -> None:
    with prefork(tmp_path) as cluster:
        cluster.start()
        pid = cluster.supervisor_pid()

        def zombies() -> int:
            return sum(each.parent == pid and not each.alive for each in process_identity.processes())

        for _ in range(2):
            assert requests.get(f"{cluster.lb()}/twice", timeout=60).status_code == 200
        wait_until(lambda: zombies() == 0, 10, "all are reaped")
        # Nobody else's end was taken away: deaths are still told with their signal.
        for name in ("worker-0", "lb-0"):
            assert cluster.comet("kill", name).returncode == 0
            assert wait_until(lambda name=name: cluster.events("replica_exited", name), 10)[0]["signal"] == "SIGKILL"
        wait_until(lambda: all(row["state"] == "ready" for row in cluster.replicas().values()))
        wait_until(lambda: zombies() == 0, 10, "all are reaped")
        cluster.stop()
        assert psutil.pid_exists(os.getpid())
