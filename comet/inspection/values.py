"""Makes the plain values of the rows out of the facts. Pure.

A value is what `inspect --json` prints: numbers in their unit (bytes, seconds, cores), lists and objects. How people
read it is in `comet.inspection.text`.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from comet.inspection import proc_text
from comet.inspection.facts import CgroupFacts, Fact, Facts, Limit, Machine, Memory, Missing, Mount, Status

T = TypeVar("T")
Value = Fact[Any]

PROCESS_HAS_NONE = Missing("none", "its files are the host's", absent=True)
HOSTS_TREE = Missing("everything", "the host's own tree", absent=True)
VIRTUAL = ("proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2", "tmpfs", "devtmpfs", "securityfs", "debugfs",
           "tracefs", "bpf", "pstore", "hugetlbfs", "configfs", "fusectl", "binfmt_misc", "nsfs")  # fmt: skip
"""File systems that hold nothing of a disk."""


def _of(known: Fact[T], make: Callable[[T], Value]) -> Value:
    return known if isinstance(known, Missing) else make(known)


def _status(facts: Facts, make: Callable[[Status], Value]) -> Value:
    return _of(facts.process.status, make)


def _group(facts: Facts, make: Callable[[CgroupFacts], Value]) -> Value:
    return _of(facts.cgroup, make)


def unknown(value: T | None) -> Fact[T]:
    return Missing("not known", "this kernel does not say") if value is None else value


# Process


def chain(facts: Facts, machine: Machine) -> Value:
    return [{"pid": link.pid, "name": link.name} for link in facts.chain]


def pid(facts: Facts, machine: Machine) -> Value:
    return facts.process.pid


def inside_pid(facts: Facts, machine: Machine) -> Value:
    return _status(facts, lambda it: {"pid": it.inside[-1], "own_numbers": len(it.inside) > 1})


def command(facts: Facts, machine: Machine) -> Value:
    return facts.process.command


def age(facts: Facts, machine: Machine) -> Value:
    return round(facts.process.age, 1)


def threads(facts: Facts, machine: Machine) -> Value:
    return _status(facts, lambda it: it.threads)


# User and rights


def user(facts: Facts, machine: Machine) -> Value:
    return _status(
        facts,
        lambda it: {
            "uid": it.uids[0],
            "gid": it.gids[0],
            "effective_uid": it.uids[1],
            "effective_gid": it.gids[1],
            "groups": list(it.groups),
        },
    )


def user_map(facts: Facts, machine: Machine) -> Value:
    return _of(facts.process.uid_map, lambda it: [list(row) for row in it])


def effective(facts: Facts, machine: Machine) -> Value:
    return _status(facts, lambda it: proc_text.capabilities(it.effective))


def bounding(facts: Facts, machine: Machine) -> Value:
    return _status(facts, lambda it: proc_text.capabilities(it.bounding))


def no_new_privileges(facts: Facts, machine: Machine) -> Value:
    return _status(facts, lambda it: unknown(it.no_new_privileges))


def seccomp(facts: Facts, machine: Machine) -> Value:
    return _status(facts, lambda it: _of(unknown(it.seccomp), lambda mode: {"mode": mode, "filters": it.filters}))


# Namespaces


def namespace(facts: Facts, machine: Machine, name: str) -> Value:
    """Return the inode of a namespace, and whether it is the host's (None: that is not known)."""
    found = facts.process.namespaces.get(name, unknown(None))
    host = machine.namespaces.get(name, unknown(None))
    return _of(found, lambda inode: {"inode": inode, "host": None if isinstance(host, Missing) else inode == host})


# Limits


def group(facts: Facts, machine: Machine) -> Value:
    """Return the paths of the control groups, shortest list first: most controllers share one path."""

    def made(it: CgroupFacts) -> Value:
        main = it.paths.get("memory", it.paths.get("", ""))
        others = {controller or "version 2": path for controller, path in it.paths.items() if path != main}
        return {"version": it.version, "path": main, "others": others}

    return _group(facts, made)


def _limit(facts: Facts, controller: str, name: str, read: Callable[[CgroupFacts], Fact[Limit]], **more: Any) -> Value:
    """Return a limit, the group that sets it, and whether that is one above the replica's own."""

    def made(it: CgroupFacts) -> Value:
        own = it.paths.get(controller, it.paths.get(""))
        return _of(
            read(it),
            lambda limit: {
                name: limit.value,
                "group": limit.group,
                "inherited": limit.group not in (None, own),
                **more,
            },
        )

    return _group(facts, made)


def memory_limit(facts: Facts, machine: Machine) -> Value:
    return _limit(facts, "memory", "limit", lambda it: it.memory_limit)


def memory_used(facts: Facts, machine: Machine) -> Value:
    def made(it: CgroupFacts) -> Value:
        more = {"limit_hits": plain(it.memory_hits), "members": plain(it.members)}
        return _of(it.memory_used, lambda used: {"used": used, **more})

    return _group(facts, made)


def plain(known: Fact[T]) -> T | None:
    return None if isinstance(known, Missing) else known


def cpu_limit(facts: Facts, machine: Machine) -> Value:
    weight = _group(facts, lambda it: it.weight)
    return _limit(facts, "cpu", "cores", lambda it: it.cpus, weight=plain(weight))


def cpus(facts: Facts, machine: Machine) -> Value:
    return _status(facts, lambda it: it.cpus or unknown(None))


def throttled(facts: Facts, machine: Machine) -> Value:
    return _group(facts, lambda it: _of(it.throttled, lambda pair: {"throttled": pair[0], "periods": pair[1]}))


def tasks_limit(facts: Facts, machine: Machine) -> Value:
    tasks = _group(facts, lambda it: it.tasks)
    return _limit(facts, "pids", "limit", lambda it: it.tasks_limit, tasks=plain(tasks))


def pressure(facts: Facts, machine: Machine) -> Value:
    return _group(
        facts,
        lambda it: _of(
            it.pressure, lambda p: {"cpu": p.cpu, "memory": p.memory, "io": p.io, "own": p.own}
        ),
    )  # fmt: skip


# Files


def _root(mounts: tuple[Mount, ...]) -> Fact[Mount]:
    """Return the mount at /; the last one covers those before."""
    found = [mount for mount in mounts if mount.place == "/"]
    return found[-1] if found else unknown(None)


def root(facts: Facts, machine: Machine) -> Value:
    return _of(
        facts.process.mounts,
        lambda it: _of(
            _root(it), lambda at: {"kind": at.kind, "source": at.source, "device": at.device, "read_only": at.read_only}
        ),
    )  # fmt: skip


def layers(facts: Facts, machine: Machine) -> Value:
    """Return how many layers the root is made of; the engine adds one of its own to those of the image."""

    def made(at: Mount) -> Value:
        lower = proc_text.layers(at)
        upper = any(option.startswith("upperdir=") for option in at.options)
        image = plain(facts.engine.image_layers) if facts.engine is not None else None
        return {"read_only": lower, "writable": int(upper), "image": image} if lower else PROCESS_HAS_NONE

    return _of(facts.process.mounts, lambda it: _of(_root(it), made))


def image(facts: Facts, machine: Machine) -> Value:
    engine = facts.engine
    if engine is None:
        return PROCESS_HAS_NONE
    return {
        "name": engine.image,
        "layers": plain(engine.image_layers),
        "runtime": engine.runtime,
        "engine": engine.title,
    }


def mounts(facts: Facts, machine: Machine) -> Value:
    return _of(facts.process.mounts, len)


def binds(facts: Facts, machine: Machine) -> Value:
    """Return the folders and files of the host's disks that are mounted in a view of its own, and whether to write."""
    host = machine.namespaces.get("mnt")
    if host == facts.process.namespaces.get("mnt") and not isinstance(host, Missing | None):
        return HOSTS_TREE
    return _of(
        facts.process.mounts,
        lambda it: [
            {"place": mount.place, "source": mount.root, "read_only": mount.read_only}
            for mount in it
            if mount.place != "/" and mount.kind not in VIRTUAL and mount.kind != "overlay"
        ],
    )


def descriptors(facts: Facts, machine: Machine) -> Value:
    return _of(
        facts.process.descriptors,
        lambda it: {
            "open": it.sockets + it.pipes + it.files + it.others,
            "sockets": it.sockets,
            "pipes": it.pipes,
            "files": it.files,
            "others": it.others,
            "limit": it.limit,
        },
    )


# Network


def interfaces(facts: Facts, machine: Machine) -> Value:
    return _of(
        facts.process.interfaces, lambda it: [{"name": each.name, "addresses": list(each.addresses)} for each in it]
    )


def gateway(facts: Facts, machine: Machine) -> Value:
    return facts.process.gateway if isinstance(facts.process.gateway, Missing) else {"gateway": facts.process.gateway}


def listeners(facts: Facts, machine: Machine) -> Value:
    return _of(
        facts.route.listeners,
        lambda it: {
            "port": facts.route.port,
            "listeners": [{"name": name, "pid": pid, "target": target or None} for name, pid, target in it],
            "network": facts.engine.network if facts.engine is not None else None,
        },
    )


def rules(facts: Facts, machine: Machine) -> Value:
    return _of(facts.route.rules, lambda it: {"rules": list(it), "skips_loopback": facts.route.skips_loopback})


# Memory and rest


def memory(part: Callable[[Memory], int]) -> Callable[[Facts, Machine], Value]:
    """Return the reader of one part of a replica's memory."""
    return lambda facts, machine: _of(facts.process.memory, part)


def together(facts: Facts, machine: Machine) -> Value:
    return facts.together


def page_cache(facts: Facts, machine: Machine) -> Value:
    return _group(
        facts, lambda it: _of(it.page_cache, lambda size: {"bytes": size, "members": plain(it.members)})
    )  # fmt: skip


def environment(facts: Facts, machine: Machine) -> Value:
    return _of(facts.process.environment, lambda it: {"variables": it[0], "bytes": it[1]})


def oom(facts: Facts, machine: Machine) -> Value:
    return _of(facts.process.oom, lambda it: {"score": it[0], "adjustment": it[1]})
