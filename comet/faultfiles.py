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
from comet.errors import UserError
from comet.events import Event
from comet.faults import Change, Moment, Ordered

ORDERS = "faults.json"


def base(config: Config, name: str) -> dict[str, Any]:
    """What config.yaml says of a worker's faults: for all, then for this one."""
    neutral = {key: setting.check(setting.default) for key, setting in faults.SETTINGS.items()}
    common = {"avg-delay": config.avg_delay, "failure": config.failure, "delay-distribution": config.delay_distribution}
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
        raise UserError(f"faults: {target}: no such worker (there are {', '.join(names) or 'none'}); nothing was changed", 2)
    meant = names if target == "all" else [target]
    wanted = {key: value for key, value in request.items() if key not in ("command", "target")}
    if wanted:
        change = faults.change(wanted)
        try:
            _order(cluster, config, meant, change, everything=target == "all")
        except OSError as error:
            raise UserError(f"{cluster.path('faults')}: cannot be written: {error.strerror}; free some space") from None
        tell(Event("faults_changed", None if target == "all" else target, _told(change, meant)))
    ordered, moment = orders(cluster), present()
    return {"workers": [faults.listing(name, base(config, name), ordered.get(name, Ordered()), moment) for name in meant]}


def orders(cluster: Cluster) -> dict[str, Ordered]:
    """What is ordered, by worker; nothing where the file is missing or cannot be understood."""
    try:
        return faults.from_dict(json.loads(cluster.path(ORDERS).read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def forget(cluster: Cluster) -> None:
    """The cluster's life is over: the next one begins with what its config says."""
    cluster.path(ORDERS).unlink(missing_ok=True)


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
    directory = cluster.path("faults")
    directory.mkdir(exist_ok=True)
    # Whatever the umask: a container's user must be able to read here. `.comet/` itself keeps others of this host out.
    directory.chmod(0o755)
    moment = present()
    for name in names:
        content = faults.document(base(config, name), ordered.get(name, Ordered()), moment)
        write_atomically(directory / f"{name}.json", json.dumps(content) + "\n", mode=0o644)


def _told(change: Change, names: list[str]) -> dict[str, Any]:
    fields = {"for_s": change.seconds, "count": change.count, "scenario": change.owner}
    given = {key: value for key, value in fields.items() if value is not None}
    return {"workers": names, "settings": dict(change.settings), "clear": change.clear, **given}
