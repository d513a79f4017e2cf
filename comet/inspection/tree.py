"""Makes one tree of processes: those of a cluster, and everything on the way to them from the first process. Pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

SHIMS = ("containerd-shim", "conmon")
"""How the names of programs begin that an engine keeps alive next to each container."""

INITS = ("docker-init", "tini", "catatonit", "podman-init")
"""Names of init programs that engines put before a container's own command."""

TITLES = (("multiprocessing.forkserver", "forkserver"), ("multiprocessing.resource_tracker", "resource tracker"))
"""Parts of command lines of Python's helper processes, which have no title of their own."""

BRANCH, LAST, DOWN, BLANK = "├─ ", "└─ ", "│  ", "   "


class Entry(Protocol):
    """A line of the process table."""

    @property
    def pid(self) -> int: ...

    @property
    def parent(self) -> int: ...


@dataclass(frozen=True)
class About:
    """What is said of a process: its name, its command, its PID inside its namespace, and what it is of the cluster.

    `role` is `supervisor`, `forkserver`, `admin server`, `standby`, `lb`, `worker` and so on, or empty.
    """

    name: str
    command: str = ""
    inside: int | None = None
    uid: int | None = None
    role: str = ""
    replica: str | None = None
    kind: str | None = None


@dataclass(frozen=True)
class Node:
    """A process with its children that belong to the tree."""

    pid: int
    about: About
    children: tuple["Node", ...] = ()

    def as_dict(self) -> dict[str, Any]:
        about = self.about
        return {
            "pid": self.pid,
            "inside_pid": about.inside,
            "name": about.name,
            "command": about.command,
            "uid": about.uid,
            "role": about.role or None,
            "replica": about.replica,
            "kind": about.kind,
            "children": [child.as_dict() for child in self.children],
        }


def by_pid(table: Iterable[Any]) -> dict[int, Any]:
    return {entry.pid: entry for entry in table}


def ancestry(table: Mapping[int, Entry], pid: int) -> list[int]:
    """Return the PIDs from the first process down to this one, as far as they are visible."""
    found: list[int] = []
    while pid in table and pid not in found:
        found.insert(0, pid)
        pid = table[pid].parent
    return found


def below(table: Mapping[int, Entry], pids: Collection[int]) -> set[int]:
    """Return all descendants of these processes, without them."""
    found: set[int] = set()
    fresh = set(pids)
    while fresh:
        fresh = {entry.pid for entry in table.values() if entry.parent in fresh} - found - set(pids)
        found |= fresh
    return found


def build(table: Mapping[int, Entry], wanted: Collection[int], about: Mapping[int, About]) -> list[Node]:
    """Return the trees that hold the wanted processes and all their ancestors."""
    kept = {pid for each in wanted for pid in ancestry(table, each)}

    def node(pid: int) -> Node:
        children = sorted(each for each in kept if table[each].parent == pid and each != pid)
        return Node(pid, about.get(pid, About("?")), tuple(node(child) for child in children))

    return [node(pid) for pid in sorted(kept) if table[pid].parent not in kept or table[pid].parent == pid]


def lines(nodes: Iterable[Node]) -> Iterator[tuple[str, Node]]:
    """Yield the processes in the order of their lines, each with the branches that lead to it."""
    for root in nodes:
        yield "", root
        yield from _below(root, "")


def _below(node: Node, before: str) -> Iterator[tuple[str, Node]]:
    for index, child in enumerate(node.children):
        last = index == len(node.children) - 1
        yield before + (LAST if last else BRANCH), child
        yield from _below(child, before + (BLANK if last else DOWN))


def short_name(comm: str, words: Collection[str]) -> str:
    """Return a short name of a process: the title that it gave itself, else its program.

    The kernel cuts `comm` after 15 bytes; the command line has the rest.
    """
    line = " ".join(words)
    for part, title in TITLES:
        if part in line:
            return title
    if line.startswith("comet: "):
        return line.split(" /")[0]
    program = next(iter(words), "").rpartition("/")[2]
    return program if program.startswith(comm) else comm


def role(name: str, replica: str | None) -> str:
    """Return what a process of the cluster is, by its short name; a replica's role is that of its name."""
    if replica is not None:
        return "lb" if replica.startswith("lb-") else "worker"
    if name in INITS or name.startswith(SHIMS):
        return "init" if name in INITS else "shim"
    for part, found in (
        ("comet: supervisor", "supervisor"),
        ("comet: admin", "admin server"),
        ("comet: standby", "standby"),
        ("forkserver", "forkserver"),
        ("resource tracker", "resource tracker"),
        ("docker-proxy", "port of a worker"),
    ):
        if name.startswith(part):
            return found
    return ""
