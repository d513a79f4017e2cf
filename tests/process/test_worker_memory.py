"""`worker-memory` of workers that are processes: kept for whatever serves, by a control group or by less, and reported
when it is met.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from comet.runtimes.process import memory_limits
from tests.support.cluster import PYTHON, TestCluster, open_cluster, open_folder
from tests.support.thief import USER, as_user
from tests.support.waiting import wait_until

needs_root = pytest.mark.root

HUNGRY = r"""
import os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

held = []

def eat(mib):
    held.append(b"x" * (mib << 20))

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        word, _, amount = self.path.strip("/").partition("/")
        status = 200
        if word == "eat":
            try:
                eat(int(amount))
            except MemoryError:
                status = 507
        elif word == "children":
            for _ in range(int(amount)):
                if os.fork() == 0:
                    eat(30)
                    time.sleep(1000)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *arguments):
        pass

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def hungry(folder: Path, **config: Any) -> contextlib.AbstractContextManager[TestCluster]:
    (folder / "hungry.py").write_text(HUNGRY)
    own = {
        "runtime": "process",
        "worker_command": f"{PYTHON} hungry.py {{port}}",
        "worker_user": None,
        "avg_delay": None,
        "failure": None,
    }
    limits = {"worker_memory": "64m", "restart_backoff_max": 1, "shutdown_grace": 1}
    return open_cluster(folder, worker=1, pool=1, health_path="/", **(own | limits | config))


def ask(cluster: TestCluster, path: str) -> int | None:
    """The status, None where the service ended before it answered."""
    try:
        return requests.get(f"{cluster.worker()}/{path}", timeout=120).status_code
    except requests.RequestException:
        return None


def ended_out_of_memory(cluster: TestCluster, restarts: int = 1) -> dict[str, Any]:
    def back() -> dict[str, Any] | None:
        row = cluster.replicas()["worker-0"]
        return row if row["restarts"] >= restarts and row["state"] == "ready" else None

    row = wait_until(back, 40, "it is started again")
    assert cluster.events("replica_exited", "worker-0")[-1]["oom"] is True
    assert row is not None
    assert row["last_exit"]["oom"] is True
    return row


@pytest.fixture
def cluster() -> Iterator[TestCluster]:
    with open_folder() as folder, hungry(folder) as made:
        yield made


@needs_root
def test_a_service_beyond_its_memory_limit_is_killed_as_oom(cluster: TestCluster) -> None:
    cluster.start()
    assert ask(cluster, "eat/10") == 200
    assert ask(cluster, "eat/620") is None
    row = ended_out_of_memory(cluster)
    assert row["last_exit"]["signal"] == "SIGKILL"
    assert "SIGKILL (out of memory)" in cluster.comet("events").stdout
    # Adopted it is limited still, and its end is still understood.
    cluster.kill_supervisor()
    cluster.start()
    adopted = cluster.replicas()["worker-0"]
    assert adopted["pid"] == row["pid"]
    assert ask(cluster, "eat/620") is None
    ended_out_of_memory(cluster, adopted["restarts"] + 1)
    identity = cluster.cluster_id or ""
    cluster.stop()
    cluster.assert_nothing_left()
    assert [
        place for place in memory_limits.hierarchies() if (place.base / memory_limits.FOLDER / identity).exists()
    ] == []


@needs_root
def test_all_processes_of_a_service_count_together(cluster: TestCluster) -> None:
    cluster.start()
    group = memory_limits.group_of(cluster.replicas()["worker-0"]["pid"], cluster.cluster_id or "")
    assert group is not None
    ask(cluster, "children/6")
    wait_until(lambda: memory_limits.kills(group) > 0 or not group.exists(), 20, "180 MiB in six children are too much")


@needs_root
def test_a_memory_limit_covers_a_service_in_a_shell(cluster: TestCluster) -> None:
    cluster.write(worker_command=f"\"sh -c '{PYTHON} hungry.py {{port}}; exit $?'\"")
    cluster.start()
    assert ask(cluster, "eat/620") is None
    assert ended_out_of_memory(cluster)["last_exit"]["code"] in (137, -9)


@needs_root
def test_a_held_socket_and_a_limit_go_together(cluster: TestCluster) -> None:
    code = "import os,socket,time; s=socket.socket(fileno=3); os.environ['LISTEN_PID']==str(os.getpid()) or exit(9)"
    (cluster.folder / "held.py").write_text(
        f"{code}\nwhile True:\n c=s.accept()[0]; c.recv(999); c.send(b'HTTP/1.0 200 OK\\r\\n\\r\\n'); c.close()\n"
    )
    cluster.write(worker_command=f"{PYTHON} held.py")
    cluster.start()
    assert memory_limits.group_of(cluster.replicas()["worker-0"]["pid"], cluster.cluster_id or "") is not None
    assert ask(cluster, "") == 200


def test_a_command_without_the_key_has_no_limit(cluster: TestCluster) -> None:
    cluster.write(worker_memory=None)
    cluster.start()
    assert ask(cluster, "eat/620") == 200


@needs_root
def test_without_cgroups_each_process_is_limited() -> None:
    """RLIMIT_DATA: what is too much is refused to the service, which may live on."""
    with open_folder() as folder, as_user(folder, USER, hungry(folder)) as cluster:
        cluster.start()
        pid = cluster.replicas()["worker-0"]["pid"]
        assert f"{64 << 20}" in next(
            line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if line.startswith("Max data size")
        )
        assert ask(cluster, "eat/10") == 200
        assert ask(cluster, "eat/620") == 507
        assert cluster.replicas()["worker-0"]["pid"] == pid


@needs_root
@pytest.mark.parametrize("user", [None, USER])
def test_the_built_in_worker_keeps_its_limit_too(user: int | None) -> None:
    """Whoever runs it: by a group, or by its own watch."""
    with open_folder() as folder:
        made = open_cluster(folder, worker=1, pool=1, runtime="process", worker_memory="64m", restart_backoff_max=1)
        with made if user is None else as_user(folder, user, made) as cluster:
            cluster.start()
            grouped = (
                memory_limits.group_of(cluster.replicas()["worker-0"]["pid"], cluster.cluster_id or "") is not None
            )
            assert grouped == (user is None)
            assert cluster.comet("faults", "--memory", "200", "--for", "60s").returncode == 0
            assert ended_out_of_memory(cluster)["last_exit"]["signal"] == "SIGKILL"


def test_where_memory_cgroups_can_be_created(tmp_path: Path) -> None:
    """Version 1 below the own group, version 2 beside it; each else at the top; the tree that has the controller
    counts.
    """
    (tmp_path / "self").mkdir()
    tree = tmp_path / "tree"
    (tree / "user.slice/session.scope").mkdir(parents=True)

    def found(groups: str, mounts: str) -> list[tuple[str, int]]:
        (tmp_path / "self/cgroup").write_text(groups)
        (tmp_path / "self/mountinfo").write_text(mounts.replace("TREE", str(tree)))
        return [(str(place.base.relative_to(tree)), place.version) for place in memory_limits.hierarchies(tmp_path)]

    second = "30 24 0:26 / TREE rw,nosuid - cgroup2 cgroup2 rw\n"
    first = "31 24 0:27 / TREE rw - cgroup cgroup rw,memory\n"
    assert found("0::/user.slice/session.scope\n", second) == [("user.slice", 2), (".", 2)]
    assert found("4:memory:/user.slice\n0::/\n", first) == [("user.slice", 1), (".", 1)]
    assert found("4:memory:/gone\n", first) == [(".", 1)]
    assert found("0::/docker/abc\n", second.replace("/ TREE", "/docker/abc TREE")) == [(".", 2)]
    assert found("4:cpu:/\n", "31 24 0:27 / TREE rw - cgroup cgroup rw,cpu\n") == []
    assert found("nonsense\n", "nonsense\n") == []


def test_an_unusable_cgroup_tree_gives_no_group(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cgroup").write_text("4:memory:/\n")
    (tmp_path / "self/mountinfo").write_text(f"31 24 0:27 / {tmp_path}/tree rw - cgroup cgroup rw,memory\n")
    (tmp_path / "tree").mkdir()
    groups = memory_limits.MemoryGroups("0123456789ab", tmp_path)
    assert groups.make("worker-0", 64 << 20) is None
    groups.sweep()
    assert list((tmp_path / "tree").iterdir()) == []
