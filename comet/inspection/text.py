"""Writes the values of the rows for people. Pure.

Every function takes a value of `comet.inspection.values` and returns one short line.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from comet.common.figures import size
from comet.common.wording import counted
from comet.inspection.proc_text import CAPABILITIES

Object = Mapping[str, Any]

MOST_NAMES = 4
"""Names in a list that are written out."""

WHOLE = 4294967295
"""The number of user ids that a map of all of them has."""

MODES = {0: "off", 1: "strict", 2: "filter"}
"""The modes of seccomp (seccomp(2))."""


def listed(names: Sequence[str], most: int = MOST_NAMES) -> str:
    """Join names with commas; of a long list, the first ones and how many follow."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def seconds(value: float) -> str:
    whole = int(value)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if whole >= 2 * length:
            return f"{whole // length} {unit}"
    return f"{whole} s"


def yes_no(value: bool) -> str:
    return "yes" if value else "no"


def or_none(value: Object) -> str:
    """Format an object with one entry, which may be None."""
    (only,) = value.values()
    return "none" if only is None else str(only)


def chain(links: Sequence[Object]) -> str:
    return " → ".join(f"{link['name']} ({link['pid']})" for link in links)


def inside_pid(value: Object) -> str:
    return str(value["pid"]) if value["own_numbers"] else f"{value['pid']}, the same"


def user(value: Object) -> str:
    groups = f", groups {listed([str(group) for group in value['groups']])}" if value["groups"] else ""
    effective = (value["effective_uid"], value["effective_gid"])
    acts = f", acts as {effective[0]}:{effective[1]}" if effective != (value["uid"], value["gid"]) else ""
    return f"{value['uid']}:{value['gid']}{acts}{groups}"


def user_map(rows: Sequence[Sequence[int]]) -> str:
    if [list(row) for row in rows] == [[0, 0, WHOLE]]:
        return "none: the same outside"
    return listed([f"{inside} is {outside} outside ({count})" for inside, outside, count in rows]) or "nobody"


def capabilities(names: Sequence[str]) -> str:
    if not names:
        return "none"
    lacking = [name for name in CAPABILITIES if name not in names]
    if not lacking:
        return f"all {len(names)}"
    if len(lacking) <= MOST_NAMES:
        return f"all but {', '.join(lacking)}"
    return f"{len(names)}: {listed(names, 6)}"


def seccomp(value: Object) -> str:
    mode = MODES.get(value["mode"], str(value["mode"]))
    count = value["filters"]
    return f"{mode} ({count} installed)" if value["mode"] == 2 and count is not None else mode


def namespace(value: Object) -> str:
    owner = {True: "host's", False: "its own", None: "unknown whose"}[value["host"]]
    return f"{owner} {value['inode']}"


def group(value: Object) -> str:
    paths = sorted(set(value["others"].values()))
    more = f"; other controllers: {listed(paths, 2)}" if paths else ""
    return f"{value['path']} (version {value['version']}{more})"


def _from(value: Object) -> str:
    """Return which group above sets the limit; nothing where its own group does."""
    return f" (set by {value['group']})" if value["inherited"] else ""


def size_limit(value: Object) -> str:
    return "none" if value["limit"] is None else f"{size(round(value['limit']))}{_from(value)}"


def used(value: Object) -> str:
    members = value["members"]
    among = f" by {members} processes" if members is not None and members > 1 else ""
    hits = value["limit_hits"]
    return f"{size(value['used'])}{among}" + (f", limit met {counted(hits, 'times')}" if hits else "")


def cpu_limit(value: Object) -> str:
    weight = "" if value["weight"] is None else f", weight {value['weight']}"
    limit = "none" if value["cores"] is None else f"{value['cores']:g} cores{_from(value)}"
    return f"{limit}{weight}"


def throttled(value: Object) -> str:
    return f"{value['throttled']} of {value['periods']}" if value["periods"] else "never: no quota"


def tasks_limit(value: Object) -> str:
    now = "" if value["tasks"] is None else f", now {value['tasks']}"
    return f"{'none' if value['limit'] is None else format(value['limit'], '.0f')}{now}"


def pressure(value: Object) -> str:
    parts = (
        f"{name} {value[key]:.0f} %"
        for key, name in (("cpu", "CPU"), ("memory", "memory"), ("io", "I/O"))
        if value[key] is not None
    )
    return f"{', '.join(parts)} ({'its group' if value['own'] else 'whole machine'})"


def root(value: Object) -> str:
    return f"{value['kind']} {value['source']}, {'read-only' if value['read_only'] else 'writable'}"


def layers(value: Object) -> str:
    own = value["read_only"] - (value["image"] or 0)
    parts = f" ({value['image']} of the image, {own} of the engine)" if value["image"] is not None else ""
    return f"{value['read_only']} read-only{parts}, {value['writable']} writable"


def image(value: Object) -> str:
    runtime = f", started by {value['runtime']}" if value["runtime"] else ""
    return f"{value['name']} ({value['engine']}{runtime})"


def binds(mounted: Sequence[Object]) -> str:
    return listed([f"{each['place']}{' (read-only)' if each['read_only'] else ''}" for each in mounted], 8) or "nothing"


def descriptors(value: Object) -> str:
    kinds = ", ".join(counted(value[kind], kind) for kind in ("sockets", "pipes", "files", "others") if value[kind])
    limit = "any number" if value["limit"] is None else value["limit"]
    return f"{value['open']} of {limit} ({kinds})" if kinds else f"0 of {limit}"


def interfaces(found: Sequence[Object]) -> str:
    return listed([" ".join([each["name"], *each["addresses"]]) for each in found]) or "none"


def listeners(value: Object) -> str:
    if not value["listeners"]:
        return f"port {value['port']}: no process, the kernel forwards it"
    parts = [
        f"{each['name']} ({each['pid']})" + (f" → {each['target']}" if each["target"] else "")
        for each in value["listeners"]
    ]
    network = f", network {value['network']}" if value["network"] else ""
    return f"port {value['port']}: {', '.join(parts)}{network}"


def rules(value: Object) -> str:
    if not value["rules"]:
        return "none"
    return listed(value["rules"]) + ("; not from this machine's loopback" if value["skips_loopback"] else "")


def cache(value: Object) -> str:
    members = value["members"]
    return size(value["bytes"]) + (f" for {members} processes" if members is not None and members > 1 else "")


def environment(value: Object) -> str:
    return f"{counted(value['variables'], 'variables')}, {value['bytes']} bytes"


def oom(value: Object) -> str:
    return f"{value['score']}, adjusted by {value['adjustment']}"
