"""`inspect` and `ps --tree` on a cluster of processes: each row as /proc says it, for whoever asks."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comet.inspection import proc
from comet.inspection.facts import DENIED
from tests.support.cluster import TestCluster, open_cluster, open_folder
from tests.support.inspected import Report, check_against_proc, status
from tests.support.users import STRANGER, USER, argv_as, as_root, python_as
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    with open_cluster(tmp_path_factory.mktemp("inspect"), runtime="process", worker=2, pool=2) as made:
        made.start()
        yield made
        made.stop()


@as_root
def test_every_row_is_what_the_kernel_says(cluster: TestCluster) -> None:
    report = Report(cluster, "lb-0", "worker-0", "worker-1")
    rows = cluster.replicas()
    for name in report.names:
        assert check_against_proc(report, name) == rows[name]["pid"]
        assert report.value("kind", name) == "process"
        assert report.value("way", name)["listeners"] == [{"name": "itself", "pid": rows[name]["pid"], "target": None}]
        assert report.value("nat", name)["rules"] == []
        assert report.cell("layers", name)["missing"] == "none"
    assert [each["name"] for each in report.value("tree", "lb-0")][-3:-1] == ["comet: supervisor", "forkserver"]
    assert {"tree", "user", "capabilities", "private"} <= report.marked()
    assert report.marked().isdisjoint({"namespace_pid", "namespace_net", "seccomp", "layers", "root", "nat"})


@as_root
def test_a_worker_has_its_memory_limit_and_a_balancer_none(cluster: TestCluster) -> None:
    report = Report(cluster, "lb-0", "worker-0")
    limit = report.value("memory_limit", "worker-0")
    assert limit["limit"] == 256 << 20
    path = report.value("cgroup", "worker-0")["path"]
    assert limit["group"] == path
    assert path.split("/")[-3:-1] == ["comet", cluster.cluster_id]
    assert report.value("memory_used", "worker-0")["members"] == 1
    pid = report.value("pid", "worker-0")
    assert (
        f":memory:{path}" in Path(f"/proc/{pid}/cgroup").read_text()
        or f"0::{path}" in Path(f"/proc/{pid}/cgroup").read_text()
    )
    assert report.value("memory_limit", "lb-0")["limit"] != 256 << 20


@as_root
def test_balancers_share_the_pages_that_they_were_forked_with(cluster: TestCluster) -> None:
    report = Report(cluster, "lb-0", "lb-1")
    shared, private = report.value("together", "lb-0"), report.value("private", "lb-0")
    assert shared > private / 4
    assert report.value("together", "lb-1") > private / 4
    assert report.cell("together", "lb-0")["missing"] is None
    alone = Report(cluster, "lb-0").cell("together", "lb-0")
    assert alone["text"] == "- (name more replicas)"


def test_the_text_has_replicas_as_columns_marking_differences(cluster: TestCluster) -> None:
    done = cluster.comet("inspect", "lb-0", "worker-1")
    assert (done.returncode, done.stderr) == (0, "")
    heading, *lines = done.stdout.splitlines()
    assert heading.split() == ["ROW", "MEANING", "lb-0", "worker-1"]
    (command,) = (line for line in lines if "what it runs" in line and "Command" in line)
    assert command.startswith("≠")
    assert "comet: lb-0" in command
    assert "worker_app" in command


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["worker-7"], "worker-7: no such replica runs (python supervisor.py ps lists them)"),
        (["wroker-1"], "wroker-1: no such replica runs (did you mean worker-1?)"),
        (["lb-0", "\x1b[2J"], "no such replica runs"),
        ([f"worker-{number}" for number in range(9)], "inspect: 9 names are given (allowed: 1 to 8)"),
    ],
)
def test_a_name_that_is_none_is_one_line(cluster: TestCluster, names: list[str], line: str) -> None:
    done = cluster.comet("inspect", *names)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert line in done.stderr
    assert "\x1b" not in done.stderr


def test_without_a_cluster_it_says_so(tmp_path: Path) -> None:
    with open_cluster(tmp_path, runtime="process") as made:
        done = made.comet("inspect", "lb-0")
        assert (done.returncode, len(done.stderr.splitlines())) == (3, 1)


def test_a_restarted_replica_is_inspected_as_it_is_now(cluster: TestCluster) -> None:
    before = cluster.replicas()["worker-0"]["pid"]
    assert cluster.comet("restart", "worker-0").returncode == 0
    pid = Report(cluster, "worker-0").value("pid", "worker-0")
    assert pid == cluster.replicas()["worker-0"]["pid"] != before


# The tree.


def flat(nodes: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for node in nodes:
        yield node
        yield from flat(node["children"])


def test_the_tree_has_each_process_below_its_parent(cluster: TestCluster) -> None:
    roles = sorted(["supervisor", "forkserver", "standby", "lb", "lb", "worker", "worker"])

    def settled() -> dict[str, Any] | None:
        """The tree once nothing is on its way: the standby is made after the start, others after a restart."""
        done = cluster.comet("ps", "--tree", "--json")
        assert done.returncode == 0, done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        return told if sorted(node["role"] for node in flat(told["processes"]) if node["role"]) == roles else None

    told = wait_until(settled, what="all roles")
    assert told is not None
    (root,) = told["processes"]
    assert (root["pid"], told["elsewhere"], told["problem"]) == (1, [], None)
    nodes = {node["pid"]: node for node in flat([root])}
    for node in nodes.values():
        for child in node["children"]:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # It has no role, and has ended.
                assert int(status(child["pid"])["PPid"][0]) == node["pid"]
    for row in cluster.replicas().values():
        node = nodes[row["pid"]]
        assert (node["replica"], node["kind"], node["role"]) == (row["name"], "process", row["role"])
    assert nodes[cluster.supervisor_pid()]["role"] == "supervisor"
    (forkserver,) = (node for node in nodes.values() if node["role"] == "forkserver")
    assert {child["replica"] for child in forkserver["children"]} == {"lb-0", "lb-1", None}


def test_the_tree_is_drawn(cluster: TestCluster) -> None:
    done = cluster.comet("ps", "--tree")
    assert done.returncode == 0
    heading, first, *lines = done.stdout.splitlines()
    assert heading.split() == ["PROCESS", "PID", "INSIDE", "UID", "ROLE", "REPLICA", "KIND", "COMMAND"]
    assert " 1 " in first
    assert any("forkserver" in line and ("├─" in line or "└─" in line) for line in lines)


def test_a_tree_without_processes_says_so(tmp_path: Path) -> None:
    with open_cluster(tmp_path, runtime="process") as made:
        done = made.comet("ps", "--tree")
        assert (done.returncode, done.stdout, done.stderr) == (0, "no process of this cluster runs\n", "")


def test_orphans_are_inspected_and_drawn_too(tmp_path: Path) -> None:
    with open_cluster(tmp_path, runtime="process", worker=1, pool=1) as made:
        made.start()
        os.kill(made.supervisor_pid(), 9)
        wait_until(lambda: not made.ps()["supervisor"]["running"])
        pid = made.replicas()["worker-0"]["pid"]
        assert Report(made, "worker-0").value("pid", "worker-0") == pid
        nodes = list(flat(json.loads(made.comet("ps", "--tree", "--json").stdout)["processes"]))
        assert {"lb-0", "worker-0"} <= {node["replica"] for node in nodes}
        assert "supervisor" not in {node["role"] for node in nodes}
        assert made.comet("stop").returncode == 0
        done = made.comet("ps", "--tree", "--json")
        assert (done.returncode, json.loads(done.stdout)["processes"]) == (0, [])


# Who may see what.


@as_root
def test_a_user_sees_own_replicas_and_what_is_not_permitted() -> None:
    with open_folder() as folder, open_cluster(folder, runtime="process", worker=2, pool=1) as made:
        for path in (folder, folder / "config.yaml"):
            os.chown(path, USER, USER)
        made.command = tuple(argv_as(USER, *made.command))
        made.environment = {"HOME": str(folder)}
        made.start()
        with contextlib.ExitStack() as stack:
            stack.callback(made.comet, "stop")
            report = Report(made, "worker-0", "worker-1")
            assert report.value("user", "worker-0")["uid"] == USER
            assert report.value("private", "worker-0") > 0
            assert report.told["machine"]["host"] == "this command"
            shared = report.cell("together", "worker-0")
            assert (shared["missing"], shared["remedy"]) == ("not permitted", "run as root")
            shown = made.comet("inspect", "worker-0", "worker-1")
            assert "not permitted (run as root)" in shown.stdout
            assert shown.stderr == ""


@as_root
def test_another_users_process_gives_what_the_kernel_permits(cluster: TestCluster) -> None:
    pid = cluster.replicas()["lb-0"]["pid"]
    code = (
        "import sys; from comet.inspection import proc; from comet.inspection.facts import DENIED\n"
        f"found = proc.read(proc.ProcessFolder({pid}))\n"
        "print(found.memory == found.environment == found.descriptors == found.namespaces['net'] == DENIED, "
        "found.status.threads)"
    )
    done = python_as(STRANGER, code)
    assert (done.stdout.split(), done.stderr) == (["True", "1"], "")
    with proc.ProcessFolder(pid) as folder:
        assert proc.read(folder).memory != DENIED
