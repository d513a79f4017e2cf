"""Makes, starts, signals and removes the containers of one cluster: the engine's calls and their errors.

An engine that dies during a call leaves traces that make the same call fail for good. What clears them is known here
alone. Every call may take seconds, or hang: they run on the driver's threads.
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

import docker
import docker.errors

from comet.engine import own_containers
from comet.engine.errors import error_text
from comet.engine.traits import EngineTraits
from comet.reconcile.replica import ReplicaSpec
from comet.runtimes.docker.container_spec import ContainerLaunch, creation
from comet.runtimes.docker.container_states import Known
from comet.runtimes.docker.network import DEFAULT, Networks

STATE_POLL_PAUSE = 0.02
"""Seconds between two polls of a container's state while a start waits for the engine."""

CLEANUP_TIMEOUT = 5.0
"""Seconds that an engine may take to free the resources of a dead container; it takes half a second."""

MAX_FAILED_STARTS = 5
"""Number of failed starts after which a container is replaced.

Not at once, because an engine that is shutting down fails, too.
"""


class Containers:
    """The containers that carry one cluster's label; several threads may use it."""

    def __init__(
        self,
        client: docker.DockerClient,
        cluster_id: str,
        mark: str,
        traits: EngineTraits,
        networks: Networks,
        closed: threading.Event,
    ) -> None:
        """Create it; `mark` names the cluster's folder. Once `closed` is set, nothing waits any longer."""
        self._api = client.api
        self._label = f"comet.cluster={cluster_id}"
        self._labels = {"comet.cluster": cluster_id, "comet.folder": mark}
        self._traits = traits
        self._networks = networks
        self._closed = closed
        self.restore_image: Callable[[str], None] = lambda image: None
        """Called for an image that the engine does not have (any more): it gets the image, or raises UserError."""

    def listed(self) -> list[dict[str, Any]]:
        """Return the containers with the cluster's label, running or not, whatever their names: copies, too."""
        listed: list[dict[str, Any]] = self._api.containers(all=True, filters={"label": self._label})
        return listed

    def _of(self, name: str) -> list[str]:
        """Return the ids of the replica's containers."""
        return [entry["Id"] for entry in own_containers.listed(self._api, self._label, f"comet.replica={name}")]

    def create(self, spec: ReplicaSpec) -> str:
        """Create a container and return its id; a name that another program's container has is not used."""
        launch: ContainerLaunch = spec.launch
        made = creation(self._api, self._traits, self._labels, spec, self._networks.ensure(launch.network))
        try:
            try:
                return str(self._api.create_container(**made)["Id"])
            except docker.errors.ImageNotFound:
                self.restore_image(spec.launch.image)
                return str(self._api.create_container(**made)["Id"])
        except docker.errors.APIError as error:
            if error.status_code != 409:
                raise
            if self._of(spec.name):
                raise  # The previous container is still being removed.
        # Another container, which is not ours to remove, has the name.
        return str(self._api.create_container(**made | {"name": f"{made['name']}-{secrets.token_hex(3)}"})["Id"])

    def start_existing(self, known: Known) -> bool:
        """Start the existing container; return False where it is gone, or was unusable and has been removed."""
        assert known.id is not None
        try:
            if self._traits.cleans_up_later and not self._await_cleanup(known.id):
                self.discard(known.id)
                return False
            self._api.start(known.id)
        except docker.errors.NotFound:
            return False
        except docker.errors.APIError as error:
            if "paused" in error_text(error):
                self._api.unpause(known.id)
                return True
            known.failed_starts += 1
            if "already exists" not in error_text(error) and known.failed_starts < MAX_FAILED_STARTS:
                raise
            with contextlib.suppress(docker.errors.APIError):
                self._api.disconnect_container_from_network(known.id, known.spec.launch.network or DEFAULT, force=True)
            self.discard(known.id)
            known.id = None
            return False
        known.failed_starts = 0
        return True

    def _await_cleanup(self, container: str) -> bool:
        """Wait until the engine has cleaned up the dead container; return whether it has."""
        deadline = time.monotonic() + CLEANUP_TIMEOUT
        while self._api.inspect_container(container)["State"].get("Status") == "stopped":
            if time.monotonic() > deadline:
                return False
            self._closed.wait(STATE_POLL_PAUSE)
        return True

    def kill(self, known: Known, signal: int) -> None:
        if known.id is None or not known.running:
            return
        try:
            self._api.kill(known.id, signal)
        except docker.errors.APIError as error:
            # 404 and 409: it is gone or does not run, which the event stream reports as well.
            if error.status_code not in (404, 409):
                raise

    def discard_of(self, name: str) -> None:
        """Remove every container of this replica."""
        for container in self._of(name):
            self.discard(container)

    def discard(self, container: str) -> None:
        try:
            self._api.remove_container(container, force=True, v=True)
        except docker.errors.NotFound:
            return
        except docker.errors.APIError as error:
            if error.status_code != 409:  # Its removal is in progress.
                raise
