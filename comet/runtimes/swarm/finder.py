"""Finds the serving tasks of a cluster's service through the swarm's manager, and removes the service.

The engine's SDK is imported once there is a service to ask about: every command loads this module.
"""

import itertools
import time
from collections.abc import Collection, Iterator, Mapping

from comet.common.clock import parse
from comet.common.errors import UserError
from comet.engine.clients import Engines
from comet.engine.errors import engine_errors
from comet.runtimes.finder import Finder, Search
from comet.runtimes.orphan import Orphan, short_id
from comet.runtimes.replica_records import Record
from comet.state.directory import Cluster

DRIVER, KIND = "swarm", "task"

REMOVAL_TIMEOUT = 10.0
"""Seconds beyond the grace that the tasks of a removed service may take to end.

A task on a node that is lost never reports its end.
"""


class TaskFinder(Finder):
    driver, kind = DRIVER, KIND

    def find(self, search: Search) -> Collection[Orphan]:
        """Return the serving tasks of the cluster's service, or the service itself where no task serves.

        The list is empty where the engine manages no swarm. The records give the tasks' names, as far as the recorded
        tasks still serve; the others take the free numbers.
        """
        records = search.records
        recorded = any(record.kind == KIND for record in records.values())
        # The manager may be elsewhere; where no task is on record, only this machine's engine is worth a question.
        known_manager = recorded or search.engines.manager is not None
        engines, label = search.engines, f"comet.cluster={search.cluster_id}"
        if not known_manager and engines.local is None and not engines.has_services(label):
            return []
        client = engines.get_manager() if known_manager else engines.get_local()
        import docker.errors

        from comet.runtimes.swarm import manager

        try:
            serving, service = manager.Manager(client, search.cluster_id).serving(known_ports(records))
        except docker.errors.APIError:
            return []
        spec = service.get("Spec") or {}
        if service and not serving:
            since = parse(str(service.get("CreatedAt", ""))) or 0.0
            return [Orphan(None, DRIVER, "service", None, service["ID"], None, since)]
        fingerprint = (spec.get("Labels") or {}).get("comet.fingerprint")
        names = {record.id: name for name, record in records.items() if record.kind == KIND}
        known = {task.id: names[task.container] for task in serving if task.container in names}
        free = (name for number in itertools.count() if (name := f"worker-{number}") not in known.values())
        found = []
        for task in sorted(serving, key=lambda task: task.slot):
            name, port = known.get(task.id) or next(free), task.port
            since = parse(task.at) or 0.0
            found.append(
                Orphan(
                    name,
                    DRIVER,
                    KIND,
                    None,
                    task.container,
                    port,
                    since,
                    True,
                    fingerprint,
                    task=task.id,
                    endpoint=task.endpoint,
                )
            )
        return found

    def kill(self, orphan: Orphan, signal: int) -> None:
        node = orphan.endpoint.node if orphan.endpoint is not None else "its node"
        raise UserError(
            f"{orphan.name}: without a supervisor its node's engine is unknown; on {node}: docker kill "
            f"{short_id(orphan.id)}"
        )

    def end(self, cluster: Cluster, orphans: Collection[Orphan], engines: Engines, grace: float) -> Iterator[str]:
        """Remove the service of these tasks; the swarm ends them with the grace set when it made them."""
        if not orphans:
            return
        from comet.runtimes.swarm import manager

        client = engines.get_manager()
        try:
            service = manager.Manager(client, cluster.id or "")
            living = {task.id for task in service.read({}).tasks if not task.ended}  # Also those that do not serve yet.
            service.remove()
            until = time.monotonic() + grace + REMOVAL_TIMEOUT
            while time.monotonic() < until and any(service.is_running(each) for each in living):
                time.sleep(0.2)
        except engine_errors() as error:
            raise UserError(f"the workers' service cannot be removed: {manager.error_text(error)}") from None
        for orphan in orphans:
            yield (
                f"{orphan.name}: task {short_id(orphan.id)} ended"
                if orphan.task is not None
                else f"service {short_id(orphan.id)} removed"
            )

    def log(self, cluster: Cluster, name: str, count: int, follow: bool) -> Iterator[bytes]:
        from comet.runtimes.swarm import log

        return log.pieces(cluster, name, count, follow)


def known_ports(records: Mapping[str, Record]) -> dict[str, int]:
    """Return the ports at which tasks were seen, by container."""
    return {record.id: record.port for record in records.values() if record.kind == KIND and record.id is not None}


FINDER = TaskFinder()
