"""Reads the control groups of a process: limits, use and pressure, on version 1, version 2 and both side by side.

A limit of any group above holds, too: the strictest one on the way up applies. A group above the part of the tree that
is visible here (in a container) is not seen.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from comet.inspection import proc_text
from comet.inspection.facts import UNSUPPORTED, CgroupFacts, Fact, Limit, Missing, Pressure, fact

HIDDEN: Final = Missing("not visible", "run it on the host, not in a container")
NONE_SET: Final = 1 << 60
"""Bytes from which a memory limit of version 1 means that there is none (PAGE_COUNTER_MAX of Linux is above it)."""

T = TypeVar("T")


@dataclass(frozen=True)
class Tree:
    """A mounted hierarchy of groups: `root` is the group that is mounted, `controllers` are empty for version 2."""

    root: str
    mount: Path
    controllers: frozenset[str]


@dataclass(frozen=True)
class Group:
    """A group as a folder, with the folder of the topmost group that is visible."""

    path: str
    folder: Path
    top: Path

    def text(self, name: str) -> str:
        return (self.folder / name).read_text()

    def upwards(self) -> Iterator["Group"]:
        """Yield the group, then each group above it that is visible."""
        group = self
        while True:
            yield group
            if group.folder == group.top:
                return
            group = Group(group.path.rpartition("/")[0] or "/", group.folder.parent, group.top)


def trees(mountinfo: str, prefix: Path = Path("/")) -> list[Tree]:
    """Return the mounted hierarchies, from /proc/self/mountinfo; `prefix` is where their mount points are found."""
    found = []
    for mount in proc_text.mounts(mountinfo):
        if mount.kind in ("cgroup", "cgroup2"):
            controllers = frozenset(mount.options) - {"rw", "ro"} if mount.kind == "cgroup" else frozenset()
            found.append(Tree(mount.root, prefix / mount.place.lstrip("/"), controllers))
    return found


def paths(text: str) -> dict[str, str]:
    """Return the paths of /proc/PID/cgroup by controller, "" for version 2."""
    found = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    return found


def group_of(controller: str, known: Mapping[str, str], mounted: list[Tree]) -> Group | None:
    """Return a process's group that has this controller; None where it is not visible.

    A controller of version 1 is not in version 2, whatever is mounted of that.
    """
    version = controller if controller in known else ""
    path = known.get(version)
    for tree in mounted:
        fits = version in tree.controllers if version else not tree.controllers
        if fits and path is not None and (path == tree.root or path.startswith(tree.root.rstrip("/") + "/")):
            below = path[len(tree.root.rstrip("/")) :].strip("/")
            return Group(path, tree.mount / below, tree.mount)
    return None


def read(text: str, mounted: list[Tree], pressure: Path = Path("/proc/pressure")) -> CgroupFacts:
    """Return the facts of a process whose /proc/PID/cgroup is `text`; `pressure` is that of the machine."""
    known = paths(text)
    reader = _Reader(known, mounted)
    return CgroupFacts(
        version=1 if "memory" in known else 2,
        paths=known,
        memory_limit=reader.limit("memory", _memory_limit),
        memory_used=reader.one("memory", _first("memory.usage_in_bytes", "memory.current")),
        memory_hits=reader.one("memory", _memory_hits),
        page_cache=reader.one("memory", _page_cache),
        cpus=reader.limit("cpu", _cpus),
        weight=reader.one("cpu", _first("cpu.shares", "cpu.weight")),
        throttled=reader.one("cpu", _throttled),
        tasks_limit=reader.limit("pids", _tasks_limit),
        tasks=reader.one("pids", lambda group: int(group.text("pids.current"))),
        pressure=_pressure(group_of("", known, mounted), pressure),
        members=reader.one("memory", lambda group: len(group.text("cgroup.procs").split())),
    )


class _Reader:
    """Reads values of a process's groups; a group that is not visible, or a file that is missing, is a Missing."""

    def __init__(self, known: Mapping[str, str], mounted: list[Tree]) -> None:
        self._known = known
        self._mounted = mounted

    def one(self, controller: str, read: Callable[[Group], T]) -> Fact[T]:
        """Return a value of the process's own group."""
        group = group_of(controller, self._known, self._mounted)
        return HIDDEN if group is None else fact(lambda: read(group))

    def limit(self, controller: str, read: Callable[[Group], float | None]) -> Fact[Limit]:
        """Return the lowest limit of the group and those above it; `read` returns None where a group sets none."""
        group = group_of(controller, self._known, self._mounted)
        if group is None:
            return HIDDEN
        if not group.folder.is_dir():
            return UNSUPPORTED
        found = []
        for each in group.upwards():
            with contextlib.suppress(FileNotFoundError):  # The topmost group has no limits.
                value = fact(lambda each=each: read(each))  # type: ignore[misc]
                if isinstance(value, float | int):
                    found.append(Limit(value, each.path))
        return min(found, key=lambda limit: limit.value or 0.0) if found else Limit(None)


def _first(*names: str) -> Callable[[Group], int]:
    """Return a reader of the first of these files that exists: one is version 1's, the other version 2's."""

    def read(group: Group) -> int:
        for name in names[:-1]:
            with contextlib.suppress(FileNotFoundError):
                return int(group.text(name))
        return int(group.text(names[-1]))

    return read


def _memory_limit(group: Group) -> float | None:
    try:
        value = int(group.text("memory.limit_in_bytes"))
        return None if value >= NONE_SET else value
    except FileNotFoundError:
        return _number(group.text("memory.max"))


def _number(text: str) -> float | None:
    return None if text.strip() == "max" else int(text)


def _memory_hits(group: Group) -> int:
    """Return how often the group met its limit."""
    with contextlib.suppress(FileNotFoundError):
        return int(group.text("memory.failcnt"))
    return _field(group.text("memory.events"), "max")


def _page_cache(group: Group) -> int:
    """Return the bytes of file contents that are charged to the group and those below it."""
    text = group.text("memory.stat")
    return _field(text, "total_cache") if "total_cache" in text else _field(text, "file")


def _cpus(group: Group) -> float | None:
    """Return the number of CPUs whose time the group may use up; None without a quota."""
    try:
        quota, period = int(group.text("cpu.cfs_quota_us")), int(group.text("cpu.cfs_period_us"))
        return None if quota < 0 else quota / period
    except FileNotFoundError:
        first, second = group.text("cpu.max").split()
        return None if first == "max" else int(first) / int(second)


def _throttled(group: Group) -> tuple[int, int]:
    text = group.text("cpu.stat")
    return _field(text, "nr_throttled"), _field(text, "nr_periods")


def _tasks_limit(group: Group) -> float | None:
    return _number(group.text("pids.max"))


def _field(text: str, name: str) -> int:
    found = re.search(rf"^{name} (\d+)$", text, re.MULTILINE)
    if found is None:
        raise ValueError(name)
    return int(found[1])


def _pressure(group: Group | None, machine: Path) -> Fact[Pressure]:
    """Return the pressure of the group, which only version 2 measures; else that of the whole machine."""
    if group is not None and (group.folder / "cpu.pressure").exists():
        return fact(lambda: _pressures(group.folder, "{}.pressure", own=True))
    return fact(lambda: _pressures(machine, "{}", own=False))


def _pressures(folder: Path, name: str, own: bool) -> Pressure:
    cpu, memory, io = (_some(folder / name.format(resource)) for resource in ("cpu", "memory", "io"))
    if cpu is None and memory is None and io is None:
        raise FileNotFoundError(folder)
    return Pressure(cpu, memory, io, own)


def _some(file: Path) -> float | None:
    """Return avg10 of the line `some` of a pressure file (Documentation/accounting/psi.rst)."""
    try:
        found = re.search(r"^some avg10=([\d.]+)", file.read_text(), re.MULTILINE)
    except OSError:
        return None
    return float(found[1]) if found is not None else None
