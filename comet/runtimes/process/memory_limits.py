"""Limits the memory of processes: a control group for each replica, where such groups may be made.

The kernel keeps a group under its limit. Root may make groups, and so may a user to whom a part of the tree was
delegated (systemd's user services). The groups lie in `comet/CLUSTER/` below the supervisor's own group (version 1). In
version 2 they lie next to that group, because a group that has processes may not have limited children. All that a
replica starts is in its group and counts together. When the group is full, the kernel's out-of-memory killer ends its
members.

An empty group is of no use, and any process that has the right can remove it: `sweep` needs no record of the groups
that were made.
"""

import contextlib
import os
import re
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
FOLDER = "comet"
ATTEMPTS = 10
"""Attempts to make a group in one place, while clusters that end remove folders on the way to it."""

_KILLS = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Hierarchy:
    """A place where groups that limit memory can be made: `base` is a group, `version` that of its tree."""

    base: Path
    version: int


def hierarchies(proc: Path = PROC) -> Iterator[Hierarchy]:
    """Yield the places to try, the best one first."""
    own: dict[int, str] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in (proc / "self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or "memory" in controllers.split(","):
                own[1 if controllers else 2] = path
    for root, mount, version in _mounts(proc):
        if version not in own:
            continue
        here = mount / os.path.relpath(own[version], root) if own[version].startswith(root) else mount
        near = here.parent if version == 2 and here != mount else here
        yield from (Hierarchy(place, version) for place in dict.fromkeys((near, mount)) if place.is_dir())


def _mounts(proc: Path) -> list[tuple[str, Path, int]]:
    """Return (root, mount point, version) of each tree that limits memory, version 1 first.

    Where version 1 has the memory controller, version 2 does not have it.
    """
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (proc / "self/mountinfo").read_text().splitlines():
            place, _, kind = line.partition(" - ")
            root, mount = place.split()[3:5]
            words = kind.split()
            if words[0] == "cgroup2" or (words[0] == "cgroup" and "memory" in words[2].split(",")):
                found.append((root, Path(mount), 2 if words[0] == "cgroup2" else 1))
    return sorted(found, key=lambda each: each[2])


class MemoryGroups:
    """The memory groups of one cluster."""

    def __init__(self, cluster_id: str, proc: Path = PROC) -> None:
        self._id = cluster_id
        self._places = list(hierarchies(proc))

    def make(self, name: str, limit: int) -> Path | None:
        """Make a group for one process and its children; return None where none may be made."""
        for place in self._places:
            for _ in range(ATTEMPTS):
                try:
                    return _make_group(place, self._id, f"{name}.{time.monotonic_ns()}", limit)
                except FileNotFoundError:
                    continue  # Another cluster's `sweep` has removed a folder that was just made, and still empty.
                except OSError:
                    break
        return None

    def sweep(self) -> None:
        """Remove the groups that have no process any more."""
        for place in self._places:
            folder = place.base / FOLDER / self._id
            with contextlib.suppress(OSError):
                for entry in list(os.scandir(folder)):
                    if entry.is_dir():
                        with contextlib.suppress(OSError):  # A process is in it.
                            os.rmdir(entry.path)
                os.rmdir(folder)
                os.rmdir(folder.parent)


def _make_group(place: Hierarchy, cluster_id: str, name: str, limit: int) -> Path:
    above = place.base
    for part in (FOLDER, cluster_id):
        _delegate(above, place.version)
        above = above / part
        above.mkdir(exist_ok=True)
    _delegate(above, place.version)
    group = above / name
    group.mkdir()
    try:
        if place.version == 1:
            _set(group, "memory.limit_in_bytes", limit)
            _set(group, "memory.memsw.limit_in_bytes", limit, required=False)
        else:
            _set(group, "memory.max", limit)
            _set(group, "memory.swap.max", 0, required=False)
            _set(group, "memory.oom.group", 1, required=False)
    except OSError:
        group.rmdir()
        raise
    return group


def _delegate(group: Path, version: int) -> None:
    """Enable limits for the children of a group."""
    if version == 2 and "memory" not in (group / "cgroup.subtree_control").read_text().split():
        _set(group, "cgroup.subtree_control", "+memory")


def _set(group: Path, name: str, value: int | str, required: bool = True) -> None:
    """Write a value to a file of a group; raise OSError where it is missing or refuses, and create none."""
    try:
        file = os.open(group / name, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(file, f"{value}\n".encode())
        finally:
            os.close(file)
    except OSError:
        if required:
            raise


def confine(pid: int, group: Path | None, limit: int) -> None:
    """Put a process that waits for it under its limit: into its group, else under RLIMIT_DATA.

    Each process of a service has RLIMIT_DATA for itself. It counts the memory that a process may write to, whether it
    does or not. OSError: the limit cannot be set.
    """
    if group is not None:
        _set(group, "cgroup.procs", pid)
    else:
        _, hard = resource.prlimit(pid, resource.RLIMIT_DATA)
        allowed = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.prlimit(pid, resource.RLIMIT_DATA, (allowed, allowed))


def group_of(pid: int, cluster_id: str, proc: Path = PROC) -> Path | None:
    """Return the group of this cluster that a process is in."""
    with contextlib.suppress(OSError):
        for line in (proc / f"{pid}/cgroup").read_text().splitlines():
            path = line.split(":", 2)[2]
            if path.split("/")[-3:-1] != [FOLDER, cluster_id]:
                continue
            for root, mount, _ in _mounts(proc):
                if path.startswith(root) and (group := mount / os.path.relpath(path, root)).is_dir():
                    return group
    return None


def kills(group: Path | None) -> int:
    """Return how many of a group's processes the out-of-memory killer has ended; 0 where that is not known."""
    if group is not None:
        for name in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(OSError):
                found = _KILLS.search((group / name).read_text())
                return int(found[1]) if found is not None else 0
    return 0
