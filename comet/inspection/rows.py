"""Declares the rows of `inspect`: what each is called, what it means, how it is read, and when two replicas differ.

Pure. One declaration feeds the terminal, the page, the JSON and the documentation.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from comet.common.figures import size
from comet.inspection import text, values
from comet.inspection.facts import Fact, Facts, Machine, Memory, Missing

Json: TypeAlias = Any


MOST_REPLICAS = 8
"""Replicas that are compared at a time: more fit on no screen."""


def unequal(shown: Sequence[Json]) -> bool:
    return any(value != shown[0] for value in shown)


def never(shown: Sequence[Json]) -> bool:
    """Of a row whose values differ by nature."""
    return False


def by(part: Callable[[Json], Json]) -> Callable[[Sequence[Json]], bool]:
    """Compare one part of the values only."""
    return lambda shown: unequal([part(value) for value in shown])


def beyond(share: float) -> Callable[[Sequence[Json]], bool]:
    """Compare sizes: they differ if the least is below this share of the largest."""
    return lambda shown: min(shown) < share * max(shown)


@dataclass(frozen=True)
class Row:
    """One row: `meaning` says in at most five words what it is; `differs` compares the values that are known."""

    key: str
    heading: str
    meaning: str
    read: values.Read
    show: Callable[[Json], str] = str
    differs: Callable[[Sequence[Json]], bool] = field(default=unequal)


def _namespace(name: str, heading: str, meaning: str) -> Row:
    return Row(
        f"namespace_{name}",
        heading,
        meaning,
        lambda facts, machine: values.namespace(facts, machine, name),
        text.namespace,
        by(lambda value: value["inode"]),
    )


CLOSE = 0.9
"""Share above which two sizes count as alike: memory is never the same to the page."""


def _memory(key: str, heading: str, meaning: str, part: Callable[[Memory], int]) -> Row:
    return Row(key, heading, meaning, values.memory(part), size, beyond(CLOSE))


GROUPS: Mapping[str, tuple[Row, ...]] = {
    "Process": (
        Row("kind", "Kind", "what runs it", lambda facts, machine: facts.kind, str),
        Row("tree", "Tree", "from PID 1 to it", values.chain, text.chain,
            by(lambda links: [each["name"] for each in links])),
        Row("pid", "PID outside", "its number on this machine", values.pid, str, never),
        Row("inside_pid", "PID inside", "its number in its namespace", values.inside_pid, text.inside_pid,
            by(lambda value: value["own_numbers"])),
        Row("command", "Command", "what it runs", values.command, str),
        Row("age", "Age", "time since it began", values.age, text.seconds, never),
        Row("threads", "Threads", "flows of control in it", values.threads, str),
    ),
    "User and rights": (
        Row("user", "User", "whose files it may use", values.user, text.user),
        Row("user_map", "User map", "inside and outside user ids", values.user_map, text.user_map),
        Row("capabilities", "Capabilities", "root's rights it has", values.effective, text.capabilities),
        Row("bounding", "Bounding set", "root's rights it could get", values.bounding, text.capabilities),
        Row("no_new_privileges", "No new privileges", "set-user-ID programs gain nothing", values.no_new_privileges,
            text.yes_no),
        Row("seccomp", "Seccomp", "system calls it may make", values.seccomp, text.seccomp),
        Row("label", "LSM label", "security module's rules for it", values.label, str),
    ),
    "Namespaces": (
        _namespace("mnt", "Mount", "file systems that it sees"),
        _namespace("pid", "PID", "processes that it sees"),
        _namespace("net", "Network", "interfaces and ports it sees"),
        _namespace("uts", "UTS", "host name that it has"),
        _namespace("ipc", "IPC", "shared memory that it sees"),
        _namespace("user", "User ids", "user ids that it knows"),
        _namespace("cgroup", "Cgroup root", "control groups that it sees"),
        _namespace("time", "Time", "time since boot it sees"),
    ),
    "Limits": (
        Row("cgroup", "Control group", "where its use is counted", values.group, text.group),
        Row("memory_limit", "Memory limit", "above it, it is killed", values.memory_limit, text.size_limit,
            by(lambda value: value["limit"])),
        Row("memory_used", "Memory used", "counted against the limit", values.memory_used, text.used, never),
        Row("cpu_limit", "CPU limit", "above it, it must wait", values.cpu_limit, text.cpu_limit,
            by(lambda value: value["cores"])),
        Row("cpus", "CPUs", "where it may run", values.cpus, str),
        Row("throttled", "Throttled", "periods cut by the quota", values.throttled, text.throttled,
            by(lambda value: value["throttled"] > 0)),
        Row("tasks_limit", "Task limit", "most threads it may have", values.tasks_limit, text.tasks_limit,
            by(lambda value: value["limit"])),
        Row("pressure", "Pressure", "time some task waited", values.pressure, text.pressure,
            by(lambda value: value["own"])),
    ),
    "Files": (
        Row("root", "Root file system", "what / is", values.root, text.root, by(lambda value: value["kind"])),
        Row("layers", "Layers", "folders under the root", values.layers, text.layers),
        Row("image", "Image", "where its files come from", values.image, text.image),
        Row("mounts", "Mounts", "file systems in its view", values.mounts, str),
        Row("binds", "From the host", "host folders that it sees", values.binds, text.binds),
        Row("descriptors", "Open files", "descriptors that it holds", values.descriptors, text.descriptors,
            by(lambda value: value["limit"])),
    ),
    "Network": (
        Row("interfaces", "Interfaces", "network cards and their addresses", values.interfaces, text.interfaces),
        Row("gateway", "Gateway", "route to other machines", values.gateway, text.or_none),
        Row("way", "Port's route", "who accepts its connections", values.listeners, text.listeners,
            by(lambda value: [each["name"] for each in value["listeners"]])),
        Row("nat", "NAT rules", "addresses the kernel rewrites", values.rules, text.rules,
            by(lambda value: len(value["rules"]) > 0)),
    ),
    "Memory and rest": (
        _memory("resident", "Resident", "memory that it maps now", lambda it: it.resident),
        _memory("private", "Private", "pages of it alone", lambda it: it.private),
        _memory("shared", "Shared", "pages others map, too", lambda it: it.shared),
        Row("together", "Shared with these", "pages these replicas share", values.together, size, beyond(CLOSE)),
        _memory("proportional", "Proportional", "shared pages counted in parts", lambda it: it.proportional),
        _memory("swapped", "Swapped", "memory moved to disk", lambda it: it.swapped),
        Row("page_cache", "Page cache", "file contents charged to it", values.page_cache, text.cache, never),
        Row("environment", "Environment", "variables it was given", values.environment, text.environment),
        Row("oom", "OOM score", "who is killed first", values.oom, text.oom, by(lambda value: value["adjustment"])),
    ),
}  # fmt: skip
"""All rows by group, in the order in which they are shown."""


def report(facts: Sequence[Facts], machine: Machine) -> dict[str, Json]:
    """Return the report on these replicas as plain data: the object of `inspect --json`."""
    return {
        "machine": {"kernel": machine.kernel, "host": machine.reference},
        "replicas": [
            {
                "name": each.name,
                "role": each.role,
                "kind": each.kind,
                "pid": each.process.pid,
                "container": each.engine.id if each.engine is not None else None,
            }
            for each in facts
        ],
        "rows": [_row(group, row, facts, machine) for group, rows in GROUPS.items() for row in rows],
    }


def _row(group: str, row: Row, facts: Sequence[Facts], machine: Machine) -> dict[str, Json]:
    found = [row.read(each, machine) for each in facts]
    known = [value for value in found if not isinstance(value, Missing)]
    absent = any(isinstance(value, Missing) and value.absent for value in found)
    return {
        "key": row.key,
        "group": group,
        "heading": row.heading,
        "meaning": row.meaning,
        "differs": (absent and bool(known)) or (len(known) > 1 and row.differs(known)),
        "values": [_value(row, value) for value in found],
    }


def _value(row: Row, value: Fact[Json]) -> dict[str, Json]:
    if isinstance(value, Missing):
        remedy = None if value.absent else value.more or None
        return {"text": str(value), "value": None, "missing": value.why, "remedy": remedy}
    return {"text": row.show(value), "value": value, "missing": None, "remedy": None}
