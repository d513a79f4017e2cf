"""Manages the bridge network of one cluster's containers.

On the engine's default bridge every container of the machine reaches every other one. On the cluster's own bridge no
container of another cluster, or of another program, reaches a worker, and with `enable_icc=false` the workers do not
reach one another. What a worker needs is its published port, and that goes through the host.

Workers whose database is a file, a socket or a relay need no outgoing connections. So their bridge does not masquerade,
and no answer from outside this machine reaches them. What listens on all addresses of the host itself stays reachable:
an engine that publishes ports gives the bridge an address of the host, and only a firewall could distinguish a call to
it from an answer.
"""

import contextlib
import threading
from collections.abc import Callable

import docker
import docker.errors

from comet.engine.errors import engine_errors, error_text
from comet.events.event import Event

CLOSED = {"com.docker.network.bridge.enable_icc": "false", "com.docker.network.bridge.enable_ip_masquerade": "false"}
OPEN = {"com.docker.network.bridge.enable_icc": "false"}

DEFAULT = "bridge"
"""The engine's name for the bridge that all containers share."""


OUTWARD_SUFFIX = "-out"
"""The end of the name of a network whose containers may call other machines."""


def network_name(cluster_id: str, outward: bool) -> str:
    return f"comet-{cluster_id}{OUTWARD_SUFFIX if outward else ''}"


def is_closed(name: str) -> bool:
    return not name.endswith(OUTWARD_SUFFIX)


class Networks:
    """The networks of one cluster, made when they are needed; several threads may use it."""

    def __init__(self, client: docker.DockerClient, cluster_id: str, notify: Callable[[Event], object]) -> None:
        """Create the manager of the networks; `notify` may be called on any thread."""
        self._api = client.api
        self._cluster_id = cluster_id
        self._notify = notify
        self._lock = threading.Lock()
        self._is_reported = False

    def ensure(self, wanted: str | None) -> str | None:
        """Return the network on which to start a container that wants this one.

        None is the engine's default network, which is what remains where the engine has no room for one more network.
        """
        if wanted is None:
            return None
        with self._lock:
            try:
                if not self._exists(wanted):
                    self._create(wanted)
            except docker.errors.APIError as error:
                if not self._is_reported:
                    self._is_reported = True
                    self._notify(Event("network_shared", None, {"reason": error_text(error)}))
                return None
        return wanted

    def _exists(self, name: str) -> bool:
        listed = self._api.networks(names=[name], filters={"label": f"comet.cluster={self._cluster_id}"})
        return any(network["Name"] == name for network in listed)  # The engine's filter also matches parts of names.

    def _create(self, name: str) -> None:
        options = CLOSED if is_closed(name) else OPEN
        labels = {"comet.cluster": self._cluster_id}
        self._api.create_network(name, driver="bridge", options=options, labels=labels, check_duplicate=True)


def remove_networks(client: docker.DockerClient, cluster_id: str) -> list[str]:
    """Remove the cluster's networks that are not in use; return their names."""
    with contextlib.suppress(*engine_errors()):
        listed = client.api.networks(filters={"label": f"comet.cluster={cluster_id}"})
        return [str(network["Name"]) for network in listed if _remove(client, network["Id"])]
    return []


def _remove(client: docker.DockerClient, network: str) -> bool:
    for attempt in range(2):
        try:
            client.api.remove_network(network)
        except docker.errors.NotFound:
            return False
        except docker.errors.APIError:
            if attempt or not _disconnect_missing(client, network):
                return False
        else:
            return True
    return False


def _disconnect_missing(client: docker.DockerClient, network: str) -> bool:
    """Disconnect containers that are gone; return whether there were any.

    An engine that died during a removal may list containers as connected that do not exist any more.
    """
    gone = []
    for container in client.api.inspect_network(network).get("Containers") or {}:
        try:
            client.api.inspect_container(container)
        except docker.errors.NotFound:
            gone.append(container)
    for container in gone:
        with contextlib.suppress(docker.errors.APIError):
            client.api.disconnect_container_from_network(container, network, force=True)
    return bool(gone)
