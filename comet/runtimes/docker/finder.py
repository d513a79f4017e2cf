"""Finds a cluster's containers by their label, and ends them.

The engine's SDK is imported once there is a container to ask about: every command loads this module.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from comet.common.clock import parse
from comet.common.errors import UserError
from comet.engine import connection as engine
from comet.engine.clients import Engines
from comet.engine.errors import engine_errors, error_text
from comet.runtimes.docker import log
from comet.runtimes.docker.container_states import runs
from comet.runtimes.finder import Finder, Search
from comet.runtimes.orphan import ID, Orphan, short_id
from comet.state.directory import Cluster

if TYPE_CHECKING:
    import docker

DRIVER, KIND = "container", "container"
RELAY, NETWORK_FAULT = "relay", "network fault"
NETWORK_LABEL = "comet.network"
"""The label of a container that injects faults into a worker's network: the worker's name."""


class ContainerFinder(Finder):
    driver, kind = DRIVER, KIND

    def find(self, search: Search) -> Collection[Orphan]:
        """Return the cluster's containers, running or not, and those of its helpers, which have no name."""
        label = f"comet.cluster={search.cluster_id}"
        if search.engines.local is None and not search.engines.has_containers(label):
            return []
        client = search.engines.get_local()
        listed = client.api.containers(all=True, filters={"label": label})
        # A container that a swarm made is a task, and is found as one.
        ours = [entry for entry in listed if "com.docker.swarm.task.id" not in (entry.get("Labels") or {})]
        return [orphan for entry in ours if (orphan := _container(client, entry)) is not None]

    def kill(self, orphan: Orphan, signal: int) -> None:
        with contextlib.closing(engine.connect()) as client:
            try:
                client.api.kill(orphan.id, signal)
            except engine_errors() as error:
                raise UserError(f"{orphan.name}: {error_text(error)}") from None

    def end(self, cluster: Cluster, orphans: Collection[Orphan], engines: Engines, grace: float) -> Iterator[str]:
        if not orphans:
            return
        from comet.runtimes.docker.network import remove_networks

        client = engines.get_local()
        # The relay goes last, and what cuts workers off goes first: workers commit until they end.
        for orphan in sorted(orphans, key=lambda each: (is_relay(each), not is_network_fault(each))):
            _end_container(client, orphan, grace)
            yield f"{orphan.name or orphan.helper}: container {short_id(orphan.id)} removed"
        remove_networks(client, cluster.id or "")

    def log(self, cluster: Cluster, name: str, count: int, follow: bool) -> Iterator[bytes]:
        return log.pieces(cluster, name, count, follow)

    def marked_id(self, cluster: Cluster) -> str | None:
        with contextlib.suppress(UserError, *engine_errors()), contextlib.closing(engine.connect()) as client:
            for entry in client.api.containers(all=True, filters={"label": "comet.folder"}):
                labels = entry.get("Labels") or {}
                if cluster.is_marked(labels.get("comet.folder", "")) and ID.fullmatch(labels.get("comet.cluster", "")):
                    return str(labels["comet.cluster"])
        return None


def is_relay(orphan: Orphan) -> bool:
    """Whether a container is the relay, which is alongside the workers and no worker."""
    return orphan.helper == RELAY


def is_network_fault(orphan: Orphan) -> bool:
    """Whether a container injects faults into a worker's network."""
    return orphan.helper == NETWORK_FAULT


def _container(client: docker.DockerClient, entry: dict[str, Any]) -> Orphan | None:
    import docker.errors

    labels = entry.get("Labels") or {}
    try:
        state = client.api.inspect_container(entry["Id"])["State"]
    except docker.errors.NotFound:
        return None
    ports = [port["PublicPort"] for port in entry.get("Ports") or [] if port.get("PublicPort")]
    return Orphan(
        name=labels.get("comet.replica"),
        driver=DRIVER,
        kind=KIND,
        pid=state.get("Pid") or None,
        id=entry["Id"],
        port=ports[0] if ports else None,
        since=parse(str(state.get("StartedAt", ""))) or 0.0,
        running=runs(state),
        fingerprint=labels.get("comet.fingerprint"),
        helper="" if "comet.replica" in labels else NETWORK_FAULT if NETWORK_LABEL in labels else RELAY,
    )


def _end_container(client: docker.DockerClient, orphan: Orphan, grace: float) -> None:
    with contextlib.suppress(*engine_errors()):
        if orphan.running:
            client.api.stop(orphan.id, timeout=int(grace) + 1)
    try:
        client.api.remove_container(orphan.id, force=True, v=True)
    except engine_errors() as error:
        # 404: gone; 409: another program is removing it just now.
        if getattr(error, "status_code", None) not in (404, 409):
            raise UserError(
                f"{orphan.name or orphan.helper}: its container cannot be removed: {error_text(error)}"
            ) from None


FINDER = ContainerFinder()
