"""Makes the plain values of the rows out of the facts. Pure.

A value is what `inspect --json` prints: numbers in their unit (bytes, seconds, cores), lists and objects. How people
read it is in `comet.inspection.text`.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

from comet.inspection import proc_text
from comet.inspection.facts import CgroupFacts, Fact, Facts, Limit, Machine, Memory, Missing, Mount

T = TypeVar("T")
Value = Fact[Any]
Read = Callable[[Facts, Machine], Value]

PROCESS_HAS_NONE = Missing("none", "its files are the host's", absent=True)
HOSTS_TREE = Missing("everything", "the host's own tree", absent=True)
VIRTUAL = ("proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2", "tmpfs", "devtmpfs", "securityfs", "debugfs",
           "tracefs", "bpf", "pstore", "hugetlbfs", "configfs", "fusectl", "binfmt_misc", "nsfs")  # fmt: skip
"""File systems that hold nothing of a disk."""


def _of(known: Fact[T], make: Callable[[T], Value]) -> Value:
    return known if isinstance(known, Missing) else make(known)


def _from(source: Callable[[Facts], Fact[T]]) -> Callable[[Callable[[T], Value]], Read]:
    """Return what turns a function of this fact into a reader; where the fact is missing, that is the value."""
    return lambda make: lambda facts, machine: _of(source(facts), make)


_process = _from(lambda facts: facts.process)
_status = _from(lambda facts: facts.process.status)
_group = _from(lambda facts: facts.cgroup)
_mounts = _from(lambda facts: facts.process.mounts)


def unknown(value: T | None) -> Fact[T]:
    return Missing("not known", "this kernel does not say") if value is None else value


def plain(known: Fact[T]) -> T | None:
    return None if isinstance(known, Missing) else known


# Process

chain = _from(lambda facts: facts.chain)(lambda it: [asdict(link) for link in it])
pid = _process(lambda it: it.pid)
inside_pid = _status(lambda it: {"pid": it.inside[-1], "own_numbers": len(it.inside) > 1})
command = _process(lambda it: it.command)
age = _process(lambda it: round(it.age, 1))
threads = _status(lambda it: it.threads)


# User and rights

user = _status(
    lambda it: {
        "uid": it.uids[0],
        "gid": it.gids[0],
        "effective_uid": it.uids[1],
        "effective_gid": it.gids[1],
        "groups": list(it.groups),
    }
)
user_map = _from(lambda facts: facts.process.uid_map)(lambda it: [list(row) for row in it])
effective = _status(lambda it: proc_text.capabilities(it.effective))
bounding = _status(lambda it: proc_text.capabilities(it.bounding))
no_new_privileges = _status(lambda it: unknown(it.no_new_privileges))
seccomp = _status(lambda it: _of(unknown(it.seccomp), lambda mode: {"mode": mode, "filters": it.filters}))
label = _process(lambda it: it.label)


# Namespaces


def namespace(facts: Facts, machine: Machine, name: str) -> Value:
    """Return the inode of a namespace, and whether it is the host's (None: that is not known)."""
    found = facts.process.namespaces.get(name, unknown(None))
    host = machine.namespaces.get(name, unknown(None))
    return _of(found, lambda inode: {"inode": inode, "host": None if isinstance(host, Missing) else inode == host})


# Limits


@_group
def group(it: CgroupFacts) -> Value:
    """Return the paths of the control groups, shortest list first: most controllers share one path."""
    main = it.paths.get("memory", it.paths.get("", ""))
    others = {controller or "version 2": path for controller, path in it.paths.items() if path != main}
    return {"version": it.version, "path": main, "others": others}


def _limit(it: CgroupFacts, controller: str, name: str, found: Fact[Limit], **more: Any) -> Value:
    """Return a limit, the group that sets it, and whether that is one above the replica's own."""
    own = (None, it.paths.get(controller, it.paths.get("")))
    return _of(
        found, lambda limit: {name: limit.value, "group": limit.group, "inherited": limit.group not in own, **more}
    )


@_group
def memory_used(it: CgroupFacts) -> Value:
    more = {"limit_hits": plain(it.memory_hits), "members": plain(it.members)}
    return _of(it.memory_used, lambda used: {"used": used, **more})


memory_limit = _group(lambda it: _limit(it, "memory", "limit", it.memory_limit))
cpu_limit = _group(lambda it: _limit(it, "cpu", "cores", it.cpus, weight=plain(it.weight)))
cpus = _status(lambda it: it.cpus or unknown(None))
throttled = _group(lambda it: _of(it.throttled, lambda pair: {"throttled": pair[0], "periods": pair[1]}))
tasks_limit = _group(lambda it: _limit(it, "pids", "limit", it.tasks_limit, tasks=plain(it.tasks)))
pressure = _group(lambda it: _of(it.pressure, asdict))


# Files


def _root(mounts: tuple[Mount, ...]) -> Fact[Mount]:
    """Return the mount at /; the last one covers those before."""
    found = [mount for mount in mounts if mount.place == "/"]
    return found[-1] if found else unknown(None)


@_mounts
def root(it: tuple[Mount, ...]) -> Value:
    keys = ("kind", "source", "device", "read_only")
    return _of(_root(it), lambda at: {key: getattr(at, key) for key in keys})


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


mounts = _mounts(len)


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


descriptors = _from(lambda facts: facts.process.descriptors)(
    lambda it: {"open": it.sockets + it.pipes + it.files + it.others, **asdict(it)}
)


# Network

interfaces = _from(lambda facts: facts.process.interfaces)(
    lambda it: [{"name": each.name, "addresses": list(each.addresses)} for each in it]
)
gateway = _from(lambda facts: facts.process.gateway)(lambda it: {"gateway": it})


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


def memory(part: Callable[[Memory], int]) -> Read:
    """Return the reader of one part of a replica's memory."""
    return _from(lambda facts: facts.process.memory)(part)


together = _from(lambda facts: facts.together)(lambda it: it)
page_cache = _group(lambda it: _of(it.page_cache, lambda size: {"bytes": size, "members": plain(it.members)}))
environment = _from(lambda facts: facts.process.environment)(lambda it: {"variables": it[0], "bytes": it[1]})
oom = _from(lambda facts: facts.process.oom)(lambda it: {"score": it[0], "adjustment": it[1]})
