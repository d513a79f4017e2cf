"""Finds and ends what is alive of a cluster without the help of its supervisor, whatever runtimes it has used.

`ps` and `stop` use this when no supervisor runs, and `run` uses it to handle what an earlier supervisor left.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from comet.common.errors import UserError, nothing_runs
from comet.config.ports import PORT_KEYS, port_ranges
from comet.config.schema import Config
from comet.engine.clients import Engines
from comet.engine.errors import engine_errors, error_text
from comet.events.event import visible
from comet.host.sockets import require_free
from comet.runtimes import registry
from comet.runtimes.finder import Search
from comet.runtimes.orphan import Orphan
from comet.runtimes.replica_records import Record
from comet.state.directory import Cluster


@dataclass(frozen=True)
class Sight:
    """What is seen alive of a cluster; `hidden` says by driver why its replicas on record cannot be seen."""

    found: tuple[Orphan, ...] = ()
    hidden: Mapping[str, str] = field(default_factory=dict)

    def hides(self, record: Record) -> bool:
        return record.driver in self.hidden


def look(cluster: Cluster, engines: Engines | None = None, recorded: bool = False) -> Sight:
    """Return what is seen alive; with `recorded`, an engine is asked only for what is on record.

    A cluster that never had containers needs no engine.
    """
    if cluster.id is None:
        return Sight()
    with contextlib.ExitStack() as stack:
        search = Search(cluster, engines if engines is not None else stack.enter_context(contextlib.closing(Engines())))
        known = {record.driver for record in search.records.values()}
        found, hidden = list[Orphan](), dict[str, str]()
        for driver, finder in registry.finders().items():
            if recorded and finder.asks_engine and driver not in known:
                continue
            try:
                found += finder.find(search)
            except UserError as error:
                hidden[driver] = error.message
            except engine_errors() as error:
                hidden[driver] = error_text(error)
    return Sight(tuple(found), {driver: reason for driver, reason in hidden.items() if driver in known})


def find(
    cluster: Cluster, engines: Engines | None = None, complete: bool = False, recorded: bool = False
) -> list[Orphan]:
    """Return everything of the cluster that is alive, as `look` does.

    An engine that does not answer hides its containers. Where the answer is to be `complete`, and the cluster had
    containers, that raises a UserError.
    """
    sight = look(cluster, engines, recorded)
    if complete and sight.hidden:
        reason = next(iter(sight.hidden.values()))
        raise UserError(f"containers of this cluster may be left, nothing was done: {reason}")
    return list(sight.found)


def find_visible(cluster: Cluster) -> tuple[list[Orphan], str | None]:
    """Return what is seen alive, and why its containers cannot be seen, if it had any."""
    sight = look(cluster)
    return list(sight.found), next(iter(sight.hidden.values()), None)


def find_strays(cluster: Cluster) -> list[Orphan]:
    """Return what replicas have left among this process's own children."""
    search = Search(cluster, Engines())
    return [orphan for finder in registry.finders().values() for orphan in finder.find_strays(search)]


def kill(cluster: Cluster, name: str, signal: int) -> None:
    """Send a signal to one orphan; raise UserError where none has this name."""
    sight = look(cluster)
    running = {orphan.name: orphan for orphan in sight.found if orphan.running}
    if not running and not sight.hidden:
        raise nothing_runs(cluster.folder)
    orphan = running.get(name)
    if orphan is None:
        raise UserError(f"{visible(name)}: no such replica runs (python supervisor.py ps lists them)", 2)
    registry.finders()[orphan.driver].kill(orphan, signal)


def end(cluster: Cluster, found: Iterable[Orphan], engines: Engines, grace: float) -> Iterator[str]:
    """Drain and end orphans, load balancers first; yield one line for each thing done."""
    every = list(found)
    for driver, finder in registry.finders().items():
        yield from finder.end(cluster, [orphan for orphan in every if orphan.driver == driver], engines, grace)


def require_ports(config: Config, found: Iterable[Orphan]) -> None:
    """Raise UserError unless each port is free or held by a replica of an earlier supervisor of this cluster."""
    held = {orphan.port for orphan in found}
    if any(registry.finders()[orphan.driver].holds_front_port for orphan in found):
        held.add(config.front_port)
    hosts = {
        "load-balancer-port": config.load_balancer_host,
        "front-port": config.load_balancer_host,
        "worker-port": config.worker_host,
        "admin-port": "127.0.0.1",
    }
    values = {key: getattr(config, key.replace("-", "_")) for key in (*PORT_KEYS, "pool", "worker")}
    wanted = [
        (key, hosts[key], port) for key, first, count in port_ranges(values) for port in range(first, first + count)
    ]
    require_free(config.path.name, [each for each in wanted if each[2] not in held], dict(config.lines))


def recognize(cluster: Cluster) -> None:
    """Recover a lost cluster id from processes and containers that are marked with the cluster's folder."""
    if cluster.id is not None:
        return
    found = (finder.marked_id(cluster) for finder in registry.finders().values())
    identity = next((each for each in found if each is not None), None)
    if identity is not None:
        cluster.keep_id(identity)
