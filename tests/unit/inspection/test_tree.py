"""The tree of a cluster's processes, made of a process table."""

from dataclasses import dataclass

import pytest

from comet.inspection import tree
from comet.inspection.tree import About, Node


@dataclass(frozen=True)
class Entry:
    pid: int
    parent: int


TABLE = tree.by_pid(
    Entry(pid, parent)
    for pid, parent in ((1, 0), (10, 1), (11, 10), (12, 11), (13, 11), (20, 1), (21, 20), (22, 21), (30, 1), (31, 30))
)
ABOUT = {pid: About(f"p{pid}") for pid in TABLE}


def test_the_way_leads_from_the_first_process() -> None:
    assert tree.ancestry(TABLE, 22) == [1, 20, 21, 22]
    assert tree.ancestry(TABLE, 99) == []


def test_a_circle_in_the_table_ends() -> None:
    """A process table is read while it changes."""
    assert tree.ancestry(tree.by_pid([Entry(5, 6), Entry(6, 5)]), 5) == [6, 5]


def test_descendants() -> None:
    assert tree.below(TABLE, {10, 30}) == {11, 12, 13, 31}


def test_only_what_is_wanted_and_its_ancestors_are_in_the_tree() -> None:
    (root,) = tree.build(TABLE, {12, 22}, ABOUT)
    shown = [branch + node.about.name for branch, node in tree.lines([root])]
    assert shown == ["p1", "├─ p10", "│  └─ p11", "│     └─ p12", "└─ p20", "   └─ p21", "      └─ p22"]


def test_without_a_visible_first_process_there_are_several_trees() -> None:
    table = tree.by_pid([Entry(10, 1), Entry(11, 10), Entry(20, 1)])
    assert [root.pid for root in tree.build(table, {11, 20}, {})] == [10, 20]
    assert tree.build(table, (), {}) == []


def test_json_is_nested() -> None:
    node = Node(
        1, About("init"), (Node(2, About("python3", "python3 x", 7, 10001, "worker", "worker-0", "container")),)
    )
    (child,) = node.as_dict()["children"]
    assert (child["inside_pid"], child["replica"], child["kind"], child["role"]) == (
        7,
        "worker-0",
        "container",
        "worker",
    )
    assert node.as_dict()["role"] is None


@pytest.mark.parametrize(
    ("comm", "words", "name"),
    [
        ("containerd-shim", ("/usr/bin/containerd-shim-runc-v2", "-id", "x"), "containerd-shim-runc-v2"),
        ("python", ("/usr/bin/python3", "-B", "-c", "from multiprocessing.forkserver import main"), "forkserver"),
        ("python", ("python", "-c", "from multiprocessing.resource_tracker import main"), "resource tracker"),
        ("comet: supervis", ("comet: supervisor /home/ann/config.yaml",), "comet: supervisor"),
        ("worker", ("/usr/bin/python3", "-m", "worker_app"), "worker"),
        ("kthreadd", (), "kthreadd"),
    ],
)
def test_short_names(comm: str, words: tuple[str, ...], name: str) -> None:
    assert tree.short_name(comm, words) == name


@pytest.mark.parametrize(
    ("name", "replica", "role"),
    [
        ("comet: lb-0 :5050", "lb-0", "lb"),
        ("python3", "worker-0", "worker"),
        ("comet: standby", None, "standby"),
        ("containerd-shim-runc-v2", None, "shim"),
        ("docker-init", None, "init"),
        ("docker-proxy", None, "port of a worker"),
        ("bash", None, ""),
    ],
)
def test_roles(name: str, replica: str | None, role: str) -> None:
    assert tree.role(name, replica) == role
