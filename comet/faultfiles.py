"""The faults in force, one small file per worker in a directory that the workers can read and not write; and what commands have ordered.

A worker's file is replaced by rename(2), so the directory is what gets mounted, never a file: a mounted file would keep showing its old
inode. Orders are kept by worker name in `.comet/faults.json`, for this life of the cluster: they outlive restarts and a supervisor that
dies, and end when the cluster is stopped.
"""

import json
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from comet import faults
from comet.cluster import Cluster, write_atomically
from comet.config import Config
from comet.errors import Unknown, UserError
from comet.events import Event
from comet.faults import Change, Moment, Ordered

ORDERS = "faults.json"
POINTS = {"worker": "faults", "lb": "lb-faults"}
"""Who brings faults about, and the folder in `.comet/` in which they read of them; the other one reads of none."""

_HARMLESS = {key: setting.check(setting.default) for key, setting in faults.SETTINGS.items()} | {"avg-delay": 0.0, "failure": 0.0}


def base(config: Config, name: str) -> dict[str, Any]:
    """What config.yaml says of a worker's faults: for all, then for this one."""
    neutral = {key: setting.check(setting.default) for key, setting in faults.SETTINGS.items()}
    common = {"avg-delay": config.avg_delay, "failure": config.failure, "delay-distribution": config.delay_distribution}
    if config.own_service:
        # The original's delay and failure belong to its worker; a service of one's own has those that its config names.
        common |= {key: 0.0 for key in ("avg-delay", "failure") if key not in config.lines}
    return {**neutral, **common, **config.faults.get(name, {})}


def write(cluster: Cluster, config: Config, names: Iterable[str]) -> None:
    """Write the file of each named worker; OSError where the disk is full."""
    _write(cluster, config, names, orders(cluster))


def asked(cluster: Cluster, config: Config, names: list[str], request: Mapping[str, Any], tell: Callable[[Event], None]) -> dict[str, Any]:
    """Answer a user who asks for faults of these workers: change them if the request says how, and list what is in force.

    The request's `target` is a worker's name or `all` (also where it is missing); its other fields are those of `faults.change`.
    """
    target = request.get("target") or "all"
    if target != "all" and target not in names:
        raise Unknown(f"faults: {target}: no such worker (there are {', '.join(names) or 'none'}); nothing was changed", 2)
    meant = names if target == "all" else [target]
    wanted = {key: value for key, value in request.items() if key not in ("command", "target")}
    if wanted:
        change = faults.change(wanted)
        _require_possible(config, change)
        try:
            _order(cluster, config, meant, change, everything=target == "all")
        except OSError as error:
            raise UserError(f"{cluster.path('faults')}: cannot be written: {error.strerror}; free some space") from None
        tell(Event("faults_changed", None if target == "all" else target, _told(change, meant)))
    ordered, moment = orders(cluster), present()
    return {"workers": [faults.listing(name, base(config, name), ordered.get(name, Ordered()), moment) for name in meant]}


def _require_possible(config: Config, change: Change) -> None:
    if config.fault_point == "lb":
        beyond = sorted(set(change.settings) & set(faults.WORKER_ONLY))
        if beyond:
            raise UserError(f"faults: {', '.join(beyond)}: acts within the worker, and fault-point is lb; nothing was changed", 2)
    elif config.own_service:
        raise UserError("faults: the workers are a service of your own: set fault-point: lb in config.yaml; nothing was changed", 2)


def in_force(cluster: Cluster, config: Config, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The settings of each of these workers that now do something: what is as harmless as can be is left out."""
    ordered, moment = orders(cluster), present()
    listed = {name: faults.listing(name, base(config, name), ordered.get(name, Ordered()), moment)["settings"] for name in names}
    neutral = {key: setting.check(setting.default) for key, setting in faults.SETTINGS.items() if key not in ("avg-delay", "failure")}
    return {name: {key: value for key, value in each.items() if value != neutral.get(key)} for name, each in listed.items()}


def orders(cluster: Cluster) -> dict[str, Ordered]:
    """What is ordered, by worker; nothing where the file is missing or cannot be understood."""
    try:
        return faults.from_dict(json.loads(cluster.path(ORDERS).read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def forget(cluster: Cluster) -> None:
    """The cluster's life is over: the next one begins with what its config says."""
    cluster.path(ORDERS).unlink(missing_ok=True)
    _forget_tickets(cluster, {})


def present() -> Moment:
    return Moment(time.clock_gettime(time.CLOCK_BOOTTIME), _boot_id())


@lru_cache
def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _order(cluster: Cluster, config: Config, names: list[str], change: Change, everything: bool) -> None:
    ordered, moment, identity = orders(cluster), present(), uuid.uuid4().hex
    # What is cleared for all is cleared for those, too, that were scaled away.
    meant = {*names, *ordered} if everything and change.clear else set(names)
    for name in meant:
        here = change if name in names else Change(clear=True, owner=change.owner)
        ordered[name] = faults.apply(ordered.get(name, Ordered()), here, moment, identity)
    write_atomically(cluster.path(ORDERS), json.dumps(faults.to_dict(ordered), indent=1) + "\n")
    _write(cluster, config, names, ordered)


def _write(cluster: Cluster, config: Config, names: Iterable[str], ordered: Mapping[str, Ordered]) -> None:
    for point in POINTS:
        # Whatever the umask: a container's user must be able to read here. `.comet/` itself keeps others of this host out.
        cluster.path(POINTS[point]).mkdir(exist_ok=True)
        cluster.path(POINTS[point]).chmod(0o755)
    moment = present()
    for name in names:
        content = faults.document(base(config, name), ordered.get(name, Ordered()), moment)
        for point, folder in POINTS.items():
            told = content if point == config.fault_point else _HARMLESS
            write_atomically(cluster.path(folder, f"{name}.json"), json.dumps(told) + "\n", mode=0o644)
    _forget_tickets(cluster, ordered)


def _forget_tickets(cluster: Cluster, ordered: Mapping[str, Ordered]) -> None:
    """Remove the load balancers' counts of leases that are no more."""
    known = {lease.id for each in ordered.values() for lease in each.leases}
    for path in cluster.path(POINTS["lb"]).glob("*.taken"):
        if path.name.split(".")[1] not in known:
            path.unlink(missing_ok=True)


def _told(change: Change, names: list[str]) -> dict[str, Any]:
    fields = {"for_s": change.seconds, "count": change.count, "scenario": change.owner}
    given = {key: value for key, value in fields.items() if value is not None}
    return {"workers": names, "settings": dict(change.settings), "clear": change.clear, **given}
