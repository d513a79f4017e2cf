"""Finds a cluster's containers by their label, and ends them.

The engine's SDK is imported once there is a container to ask about: every command loads this module.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterable, Iterator
from math import ceil
from typing import TYPE_CHECKING, Any

from comet.common.clock import parse
from comet.common.errors import UserError
from comet.engine import connection as engine
from comet.engine import own_containers
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
        listed = own_containers.listed(client.api, label)
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
        for group in (
            [each for each in orphans if is_network_fault(each)],
            [each for each in orphans if not is_network_fault(each) and not is_relay(each)],
            [each for each in orphans if is_relay(each)],
        ):
            yield from _end_containers(client, group, grace)
        remove_networks(client, cluster.id or "")

    def log(self, cluster: Cluster, name: str, count: int, follow: bool) -> Iterator[bytes]:
        return log.pieces(cluster, name, count, follow)

    def marked_id(self, cluster: Cluster) -> str | None:
        with contextlib.suppress(UserError, *engine_errors()), contextlib.closing(engine.connect()) as client:
            for entry in own_containers.listed(client.api, "comet.folder"):
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


def _end_containers(client: docker.DockerClient, orphans: Iterable[Orphan], grace: float) -> Iterator[str]:
    """End these containers, all within the same grace, and remove them."""
    every = list(orphans)
    running = [orphan for orphan in every if orphan.running and _order_end(client, orphan.id)]
    deadline = time.monotonic() + grace + 1
    for orphan in every:
        if orphan in running:
            _await_end(client, orphan.id, deadline - time.monotonic())
        _remove_container(client, orphan)
        yield f"{orphan.name or orphan.helper}: container {short_id(orphan.id)} removed"


def _order_end(client: docker.DockerClient, container: str) -> bool:
    """Send a container the signal with which its image wants to be stopped; return whether it was sent."""
    with contextlib.suppress(*engine_errors()):
        configured = client.api.inspect_container(container)["Config"].get("StopSignal")
        client.api.kill(container, configured or "SIGTERM")
        return True
    return False


def _await_end(client: docker.DockerClient, container: str, timeout: float) -> None:
    if timeout > 0:
        with contextlib.suppress(*engine_errors()):
            client.api.wait(container, timeout=ceil(timeout))


def _remove_container(client: docker.DockerClient, orphan: Orphan) -> None:
    try:
        client.api.remove_container(orphan.id, force=True, v=True)
    except engine_errors() as error:
        # 404: gone; 409: another program is removing it just now.
        if getattr(error, "status_code", None) not in (404, 409):
            raise UserError(
                f"{orphan.name or orphan.helper}: its container cannot be removed: {error_text(error)}"
            ) from None


FINDER = ContainerFinder()
