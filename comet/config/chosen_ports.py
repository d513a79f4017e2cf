"""Chooses free ports where the config asks for any (`load-balancer-port: 0`, `worker-port: 0`, `admin-port: auto`).

A port belongs to the name of a replica, or to the admin server, for as long as the cluster runs: through restarts,
reloads and the death of the supervisor. So the choice is kept in `.comet/ports.json`. The replicas of one role get
consecutive ports where possible; one that `scale` adds gets the next port, or any free one.
"""

import contextlib
import itertools
import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from comet.common.errors import UserError
from comet.common.json_values import decode, is_whole, mapping
from comet.config.schema import ADMIN, Config
from comet.host import files
from comet.host.port_reservations import PortReservations
from comet.host.sockets import is_free, own_ports
from comet.state.directory import Cluster

FILE = "ports.json"

ATTEMPTS = 200
"""Random places at which consecutive ports are looked for."""

ROOM = {"load-balancer-port": 64, "worker-port": 256, "admin-port": 1}
"""Ports from a given first one on that are left to `scale` and to surge replicas, by the key that gives it."""

KEYS = {"lb": "load-balancer-port", "worker": "worker-port", ADMIN: "admin-port"}


class ChosenPorts:
    """The chosen ports of one cluster, by the names of replicas and `ADMIN`; reserved until `close`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._reserved = PortReservations()
        self._ports: dict[str, int] = {}

    def resume(self, config: Config, running: Iterable[tuple[str | None, int | None]]) -> None:
        """Take over what an earlier supervisor chose, as far as it is still in use or free.

        `running` are the name and the port of each of its processes and containers; a helper has no name.
        """
        living = [(name, port) for name, port in running if port is not None]
        in_use = {port for _, port in living}
        known = _read(self._cluster) | {name: port for name, port in living if name is not None}
        for name, port in known.items():
            if _is_chosen(config, name) and (port in in_use or self._is_available(config, name, port)):
                self._reserved.take(port)
                self._ports[name] = port

    def assign(self, config: Config, workers: int | None = None) -> Config:
        """Return the config with a port for each replica that it asks for, and for the admin server.

        `workers` is the number of workers to have ports for, where that is not the config's. Raise UserError where no
        port is free.
        """
        before = dict(self._ports)
        numbers = {"lb": config.pool, "worker": config.worker if workers is None else workers}
        for role, count in numbers.items():
            self._choose(config, role, [f"{role}-{number}" for number in range(count)])
        self._choose(config, ADMIN, [ADMIN])
        if self._ports != before:
            self.keep()
        return replace(config, chosen=dict(self._ports))

    def prune(self, config: Config) -> None:
        """Give up the ports of replicas that this config does not ask for."""
        wanted = {ADMIN, *(f"lb-{number}" for number in range(config.pool))}
        wanted |= {f"worker-{number}" for number in range(config.worker)}
        surplus = [name for name in self._ports if name not in wanted]
        for name in surplus:
            self._reserved.release(self._ports.pop(name))
        if surplus:
            self.keep()

    def keep(self) -> None:
        """Write the file; a full disk loses only the choice for a later supervisor."""
        with contextlib.suppress(OSError):
            files.write(self._cluster.path(FILE), json.dumps(self._ports) + "\n")

    def repair(self) -> bool:
        """Write the file again if it is missing; return whether it was."""
        if not self._ports or files.is_there(self._cluster.path(FILE)):
            return False
        self.keep()
        return True

    def close(self) -> None:
        self._reserved.close()

    def _choose(self, config: Config, role: str, names: list[str]) -> None:
        missing = [name for name in names if name not in self._ports and _is_chosen(config, name)]
        if not missing:
            return
        taken = {*self._ports.values(), *_given(config)}
        first, last = own_ports(len(missing))
        last_of_role = max((port for name, port in self._ports.items() if name.startswith(f"{role}-")), default=None)
        found = choose(
            len(missing),
            range(first, last + 1),
            None if last_of_role is None else last_of_role + 1,
            lambda port: port not in taken and self._is_available(config, role, port),
        )
        if found is None:
            key = KEYS[role]
            where = f"{config.path.name}:{config.lines.get(key, 1)}: {key}"
            raise UserError(f"{where}: no {len(missing)} free ports from {first} to {last}", 2)
        for name, port in zip(missing, found, strict=True):
            self._ports[name] = port
        for port in self._reserved:
            if port not in self._ports.values():
                self._reserved.release(port)

    def _is_available(self, config: Config, name: str, port: int) -> bool:
        role = name.partition("-")[0]
        host = {"lb": config.load_balancer_host, "worker": config.worker_host}.get(role, "127.0.0.1")
        if not self._reserved.take(port):
            return False
        if not is_free(host, port):
            self._reserved.release(port)
            return False
        return True


def choose(count: int, candidates: range, preferred: int | None, available: Callable[[int], bool]) -> list[int] | None:
    """Return `count` available ports, None where there are none.

    They are consecutive where possible, and begin at the `preferred` one if it is a candidate.
    """
    starts = [random.randint(candidates.start, candidates.stop - count) for _ in range(ATTEMPTS)]
    if preferred is not None:
        starts = [preferred, *starts]
    for start in starts:
        block = range(start, start + count)
        if block.start in candidates and block[-1] in candidates and all(available(port) for port in block):
            return list(block)
    scattered = list(itertools.islice(filter(available, candidates), count))
    return scattered if len(scattered) == count else None


def _is_chosen(config: Config, name: str) -> bool:
    """Return whether the config leaves the choice of this name's port to Comet."""
    if name == ADMIN:
        return config.admin_port is None
    if name.startswith("lb-"):
        return config.load_balancer_port == 0
    # The nodes of a swarm choose the ports of their tasks.
    return name.startswith("worker-") and config.worker_port == 0 and not config.traits.remote


def _given(config: Config) -> Iterator[int]:
    """Yield the ports that the config itself gives, also to replicas that `scale` may add."""
    for key, first in (
        ("load-balancer-port", config.load_balancer_port),
        ("worker-port", config.worker_port),
        ("admin-port", config.admin_port or 0),
        ("front-port", config.front_port or 0),
    ):
        if first:
            yield from range(first, first + ROOM.get(key, 1))


def _read(cluster: Cluster) -> dict[str, int]:
    """Return what an earlier supervisor chose; nothing where the file is missing or invalid."""
    try:
        content = mapping(decode(files.read(cluster.path(FILE))))
    except (OSError, ValueError):
        return {}
    return {name: port for name, port in content.items() if is_whole(port, 1, 65536)}


def forget(cluster: Cluster) -> None:
    files.remove(cluster.path(FILE))
