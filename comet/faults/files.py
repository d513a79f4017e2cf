"""Writes the effective faults into one small file per worker, and keeps what commands have ordered.

Workers can read the files' directory but not write to it. A worker's file is replaced by rename(2). The directory is
therefore mounted, never a file, because a mounted file would keep showing its old inode. Orders are kept by worker name
in `.comet/faults.json`. They outlive restarts and a supervisor that dies, and end when the cluster is stopped.
"""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from comet.common.errors import Unknown, UserError, os_error_text
from comet.common.json_values import decode
from comet.common.values import Key
from comet.common.wording import there_are
from comet.config.fault_settings import FRONT, FRONT_SETTINGS, NETWORK, SETTINGS, WORKER_ONLY
from comet.config.schema import Config
from comet.events.event import Event, visible
from comet.faults import orders as fault_orders
from comet.faults.counts import Counts
from comet.faults.lease_watch import LeaseWatch
from comet.faults.orders import BootTime, Change, CountsLeft, Ordered
from comet.host import files
from comet.host.files import Directory
from comet.host.process_identity import boot_id
from comet.state.directory import Cluster
from fault_rules import TICKETS_SUFFIX

MAX_FRONT_BYTES = 1 << 19
"""Of all orders of the front, as JSON: load balancers take messages of up to twice as many bytes."""

ORDERS = "faults.json"
FAULT_FILE_DELAY = 0.3
"""Seconds until every worker and load balancer has read a changed file: its faults are then effective."""

NETWORK_TIMEOUT = 120.0
"""Seconds that an order for networks may take: each gets a helper container, whose image may have to be built."""

POINTS = {"worker": "faults", "lb": "lb-faults"}
"""The components that can inject faults, each with the folder in `.comet/` from which it reads them.

Only the chosen one reads faults there; the other one reads none.
"""


def _neutral(settings: Mapping[str, Key]) -> dict[str, Any]:
    """Return the defaults of fault settings: without a fault, but for a worker's delay and failures."""
    return {name: key.check(key.default) for name, key in settings.items()}


_HARMLESS = {name: value for name, value in _neutral(SETTINGS).items() if name not in NETWORK} | {
    "avg-delay": 0.0,
    "failure": 0.0,
}

COMMON = ("avg-delay", "failure", "delay-distribution")
"""Fault settings that are keys of config.yaml themselves: they are for what `fault-point` names."""

_NEUTRAL_FRONT = _neutral(FRONT_SETTINGS)


def base(config: Config, name: str) -> dict[str, Any]:
    """Return the faults of a worker, or of the front, in config.yaml; settings of the worker override those of all."""
    if name == FRONT:
        named = [key for key in COMMON if key in config.lines and config.fault_point == FRONT]
        common = {key: getattr(config, key.replace("-", "_")) for key in named}
        return {**_NEUTRAL_FRONT, **common, **config.faults.get(FRONT, {})}
    common = {"avg-delay": config.avg_delay, "failure": config.failure, "delay-distribution": config.delay_distribution}
    if config.custom_service:
        # The default delay and failure belong to Comet's own worker. A custom service has only those that its config
        # names.
        common |= {key: 0.0 for key in ("avg-delay", "failure") if key not in config.lines}
    return {**_neutral(SETTINGS), **common, **config.faults.get(name, {})}


def write(cluster: Cluster, config: Config, names: Iterable[str]) -> None:
    """Write the file of each named worker; raise OSError if the disk is full."""
    _write(cluster, config, names, orders(cluster))


class Network(Protocol):
    """What injects the faults of workers' networks."""

    def require_network_faults(self, name: str) -> None:
        """Raise UserError where the network of a worker can have no faults."""

    async def inject_network_faults(self, name: str, leases: list[dict[str, Any]]) -> None:
        """Let these leases hold, in place of earlier ones; UserError where that is not possible."""


async def handle_request(
    cluster: Cluster,
    config: Config,
    names: list[str],
    request: Mapping[str, Any],
    notify: Callable[[Event], None],
    network: Network,
    counts: Counts,
) -> dict[str, Any]:
    """Change the faults of these workers if the request says how, and return the effective ones.

    The request's `target` is a worker's name or `all` (the default); its other fields are those of `orders.change`.
    """
    target = request.get("target") or (FRONT if config.fault_point == FRONT else "all")
    if target not in ("all", FRONT, *names):
        known = there_are(target, names, ("all", FRONT))
        raise Unknown(f"faults: {visible(target)}: no such worker ({known}); nothing was changed", 2)
    target_names = names if target == "all" else [target]
    wanted = {key: value for key, value in request.items() if key not in ("command", "target")}
    if wanted:
        change = fault_orders.change(wanted, target)
        if target != FRONT:
            _require_possible(config, change)
            for name in target_names if set(change.settings) & set(NETWORK) else ():
                network.require_network_faults(name)
        try:
            await _add_order(cluster, config, target_names, change, target == "all", network)
        except UserError:
            raise
        except OSError as error:
            raise UserError(f"{cluster.path('faults')}: cannot be written: {os_error_text(error)}") from None
        notify(Event("faults_changed", None if target == "all" else target, event_fields(change, target_names)))
    ordered, now = orders(cluster), boot_time()
    left = _counts_left(cluster, config, ordered, counts)
    if target == "all" and front_plan(cluster, config) is not None:
        target_names = [*target_names, FRONT]
    return {
        "workers": [
            fault_orders.listing(name, base(config, name), ordered.get(name, Ordered()), now, left)
            for name in target_names
        ]
    }


def _require_possible(config: Config, change: Change) -> None:
    settings = set(change.settings) - set(NETWORK)
    if change.settings and not settings:
        return  # The network's faults are nothing that a fault-point injects.
    if config.fault_point == FRONT and settings:
        raise UserError(
            "faults: fault-point is front: name front as the target, or set worker or lb; nothing was changed", 2
        )
    if config.fault_point == "lb":
        beyond = sorted(settings & set(WORKER_ONLY))
        if beyond:
            raise UserError(
                f"faults: {', '.join(beyond)}: acts within the worker, and fault-point is lb; nothing was changed", 2
            )
    elif config.custom_service:
        raise UserError(
            "faults: the workers are a custom service: set fault-point: lb in config.yaml; nothing was changed", 2
        )


def effective(
    cluster: Cluster, config: Config, names: Iterable[str], counts: Counts, watch: LeaseWatch
) -> dict[str, dict[str, Any]]:
    """Return, for each target, the `settings` that currently have an effect, and what was ordered of them.

    A target is a worker, or the front. `watch` looks at the orders, too.

    Settings with their neutral value are left out. `from` has the source of each one that is not of the config.
    `leases` are those of `orders.listing`.
    """
    ordered, now = orders(cluster), boot_time()
    left = _counts_left(cluster, config, ordered, counts)
    watch.look(ordered, now, left)
    listed = {
        name: fault_orders.listing(name, base(config, name), ordered.get(name, Ordered()), now, left) for name in names
    }
    of_workers = {key: value for key, value in _neutral(SETTINGS).items() if key not in ("avg-delay", "failure")}
    neutral = {name: _NEUTRAL_FRONT if name == FRONT else of_workers for name in listed}
    return {
        name: {
            "settings": {key: value for key, value in each["settings"].items() if value != neutral[name].get(key)},
            "from": {key: source for key, source in each["from"].items() if source != "config"},
            "leases": each["leases"],
        }
        for name, each in listed.items()
    }


def _counts_left(cluster: Cluster, config: Config, ordered: Mapping[str, Ordered], counts: Counts) -> CountsLeft:
    return counts.left(ordered, config.fault_point, cluster.path(POINTS["lb"]))


def orders(cluster: Cluster) -> dict[str, Ordered]:
    """Return what is ordered, by worker; nothing if the file is missing or invalid."""
    try:
        return fault_orders.from_dict(decode(files.read(cluster.path(ORDERS))))
    except (OSError, ValueError):
        return {}


def forget(cluster: Cluster) -> None:
    """Remove all orders at the end of the cluster, so that the next start begins with the faults of its config."""
    files.remove(cluster.path(ORDERS))
    with contextlib.suppress(FileNotFoundError), Directory.of(cluster.path(POINTS["lb"])) as folder:
        _remove_tickets(folder, {})


def boot_time() -> BootTime:
    return BootTime(time.clock_gettime(time.CLOCK_BOOTTIME), boot_id())


async def _add_order(
    cluster: Cluster, config: Config, names: list[str], change: Change, everything: bool, network: Network
) -> None:
    ordered, now, identity = orders(cluster), boot_time(), secrets.token_hex(16)
    former = dict(ordered)
    # Clearing all workers also clears those that were scaled away.
    target_names = {*names, *ordered} if everything and change.clear else set(names)
    for name in target_names:
        change_of_worker = change if name in names else Change(clear=True, owner=change.owner)
        ordered[name] = fault_orders.apply(ordered.get(name, Ordered()), change_of_worker, now, identity)
    if FRONT in names:
        size = len(json.dumps(fault_orders.document(base(config, FRONT), ordered[FRONT], now)))
        if size > MAX_FRONT_BYTES:
            raise UserError(
                f"faults: the orders of the front take {size:,} bytes together, of {MAX_FRONT_BYTES:,}: clear some of "
                "them, or shorten their bodies and headers; nothing was changed", 2
            )  # fmt: skip
    await _inject(network, target_names, former, ordered, now)
    took = boot_time().seconds - now.seconds
    if set(change.settings) & set(NETWORK) and change.seconds is not None and took > change.seconds:
        raise UserError(
            f"faults: they were over before they were in effect, after {took:.1f} s (name a longer time); nothing was "
            "changed"
        )
    files.write(cluster.path(ORDERS), json.dumps(fault_orders.to_dict(ordered), indent=1) + "\n")
    _write(cluster, config, [name for name in names if name != FRONT], ordered)


async def _inject(
    network: Network, names: Iterable[str], former: Mapping[str, Ordered], ordered: Mapping[str, Ordered], now: BootTime
) -> None:
    """Let the networks' faults be those that are ordered; where one cannot be injected, none is."""

    def leases(of: Mapping[str, Ordered], name: str) -> list[dict[str, Any]]:
        return fault_orders.network_leases(of.get(name, Ordered()), now)

    changed = [name for name in names if leases(former, name) != leases(ordered, name)]
    done = await asyncio.gather(
        *(network.inject_network_faults(name, leases(ordered, name)) for name in changed), return_exceptions=True
    )
    failed = [problem for problem in done if isinstance(problem, BaseException)]
    if failed:
        await asyncio.gather(
            *(network.inject_network_faults(name, leases(former, name)) for name in changed), return_exceptions=True
        )
        raise failed[0]


def network_leases(cluster: Cluster, name: str) -> list[dict[str, Any]]:
    """Return the leases that hold of a worker's network."""
    return fault_orders.network_leases(orders(cluster).get(name, Ordered()), boot_time())


def front_plan(cluster: Cluster, config: Config) -> dict[str, Any] | None:
    """Return what load balancers are to do at the front, None where there is nothing to do."""
    ordered = orders(cluster).get(FRONT, Ordered())
    found = fault_orders.document(base(config, FRONT), ordered, boot_time())
    if config.request_faults:
        found["on-request"] = True
    if found == _NEUTRAL_FRONT:
        return None
    return {"seed": config.seed, **{key: value for key, value in found.items() if value != _NEUTRAL_FRONT.get(key)}}


def _write(cluster: Cluster, config: Config, names: Iterable[str], ordered: Mapping[str, Ordered]) -> None:
    now, wanted = boot_time(), list(names)
    contents = {name: fault_orders.document(base(config, name), ordered.get(name, Ordered()), now) for name in wanted}
    with Directory.of(cluster.state) as state:
        for point, folder in POINTS.items():
            with state.child(folder, make=True) as directory:
                # The mode is set explicitly because of the umask: a container's user must be able to read here.
                # `.comet/` itself keeps other users of this host out.
                directory.chmod(0o755)
                directory.sweep()
                for name in wanted:
                    content = contents[name] if point == config.fault_point else _HARMLESS
                    if point == config.fault_point == "lb" and config.seed is not None:
                        content = {**content, "seed": config.seed}
                    directory.write(f"{name}.json", json.dumps(content) + "\n", mode=0o644)
                if point == "lb":
                    _remove_tickets(directory, ordered)


def _remove_tickets(directory: Directory, ordered: Mapping[str, Ordered]) -> None:
    """Remove the load balancers' counts for leases that no longer exist."""
    known = {lease.id for each in ordered.values() for lease in each.leases}
    for name in directory.names():
        if name.endswith(TICKETS_SUFFIX) and name.split(".")[1] not in known:
            directory.remove(name)


def event_fields(change: Change, names: list[str]) -> dict[str, Any]:
    """Return the fields of `faults_changed` for an order that concerns these workers."""
    fields = {"for_s": change.seconds, "count": change.count, "scenario": change.owner}
    given = {key: value for key, value in fields.items() if value is not None}
    return {"workers": names, "settings": dict(change.settings), "clear": change.clear, **given}
