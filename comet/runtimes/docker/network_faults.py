"""Injects faults into the networks of workers' containers: a helper container for each, in the worker's own network.

The helper has one right (NET_ADMIN), in that network alone; nothing of the host changes. Its rules in the kernel end
with its process (`worker_app.network`). So no fault remains, whatever is killed, and a lease ends on time without a
supervisor. A change starts a new helper before the earlier one is removed: in between both apply, never none. A
container that is started again has a new network, and gets a new helper.
"""

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import docker
import docker.errors

from comet.common.errors import UserError
from comet.engine import own_containers
from comet.engine.errors import engine_errors, error_text
from comet.engine.traits import EngineTraits
from comet.runtimes.docker.container_spec import container_name, helper_limits
from comet.runtimes.docker.container_states import Known
from comet.runtimes.docker.finder import NETWORK_LABEL

READY = "ready"
"""What a helper prints when its faults are effective; anything else is why they are not."""

READY_TIMEOUT = 15.0
"""Seconds that a helper may take."""

END_TIMEOUT = 3
"""Seconds that a helper may take to end by itself; it lets packets leave that it has delayed."""

POLL_INTERVAL = 0.02
"""Seconds between two looks at what a helper prints."""


class NetworkFaults:
    """The network faults of one cluster's workers. Its methods may block; one thread at a time for each worker.

    `image` returns the worker image of Comet, and may take long.
    """

    def __init__(
        self, client: docker.DockerClient, cluster_id: str, traits: EngineTraits, image: Callable[[], str]
    ) -> None:
        self._api = client.api
        self._cluster_id = cluster_id
        self._traits = traits
        self._image = image

    def inject(self, worker: str, known: Known | None, leases: Sequence[Mapping[str, Any]]) -> None:
        """Let these leases hold in place of earlier ones; raise UserError where they cannot.

        Where the worker does not run, they begin with its next start.
        """
        try:
            former = self._helpers(worker)
            if leases and known is not None and known.running and known.id is not None:
                self._start(worker, known, leases)
            for helper in former:
                if not leases:
                    self._stop(helper)
                self._remove(helper)
        except engine_errors() as error:
            raise UserError(_refusal(worker, error_text(error))) from None

    def end(self, worker: str | None = None) -> None:
        """Remove the helpers of a worker, or all; errors are left to the process that finds them later."""
        with contextlib.suppress(*engine_errors()):
            for helper in self._helpers(worker):
                self._remove(helper)

    def _start(self, worker: str, known: Known, leases: Sequence[Mapping[str, Any]]) -> None:
        created = self._api.create_container(
            image=self._image(),
            name=f"{container_name(self._cluster_id, worker)}-network-{secrets.token_hex(3)}",
            entrypoint=["python3", "-m", "worker_app.network"],
            command=[json.dumps([*leases])],
            user="0:0",
            labels={"comet.cluster": self._cluster_id, NETWORK_LABEL: worker},
            host_config=self._api.create_host_config(
                **helper_limits(),
                auto_remove=True,
                cap_add=["NET_ADMIN"],
                network_mode=f"container:{known.id}",
                # Rights in a network are those of the user namespace that it belongs to.
                userns_mode=self._traits.host_users if known.spec.launch.hosts_user else None,
            ),
        )["Id"]
        try:
            self._api.start(created)
            said = self._first_line(created)
            if said != READY and not _all_over(leases):
                raise UserError(_refusal(worker, said))
        except BaseException as error:
            with contextlib.suppress(*engine_errors()):
                self._remove(created)
            if not isinstance(error, engine_errors()) or self._runs(known.id or ""):
                raise

    def _runs(self, container: str) -> bool:
        """Whether a worker's container still runs; where it does not, its next start brings the faults."""
        try:
            return bool(self._api.inspect_container(container)["State"]["Running"])
        except docker.errors.NotFound:
            return False

    def _first_line(self, helper: str) -> str:
        deadline = time.monotonic() + READY_TIMEOUT
        while time.monotonic() < deadline:
            try:
                said = self._api.logs(helper).decode(errors="replace")
            except docker.errors.NotFound:
                return "its helper has ended"
            if "\n" in said:
                return str(said.splitlines()[0])
            time.sleep(POLL_INTERVAL)
        return "its helper does not answer"

    def _helpers(self, worker: str | None) -> list[str]:
        label = NETWORK_LABEL if worker is None else f"{NETWORK_LABEL}={worker}"
        listed = own_containers.listed(self._api, f"comet.cluster={self._cluster_id}", label)
        return [str(entry["Id"]) for entry in listed]

    def _stop(self, helper: str) -> None:
        """Let a helper remove its queues (`worker_app.faults.packet_delay`); nothing else would until the next one."""
        with contextlib.suppress(docker.errors.NotFound):
            self._api.stop(helper, timeout=END_TIMEOUT)

    def _remove(self, helper: str) -> None:
        try:
            self._api.remove_container(helper, force=True, v=True)
        except docker.errors.NotFound:
            return
        except docker.errors.APIError as error:
            if error.status_code != 409:
                raise
            with contextlib.suppress(*engine_errors()):  # The engine is removing it, as it has ended.
                self._api.wait(helper, timeout=END_TIMEOUT, condition="removed")


def _all_over(leases: Sequence[Mapping[str, Any]]) -> bool:
    return all(lease["until"] <= time.clock_gettime(time.CLOCK_BOOTTIME) for lease in leases)


def _refusal(worker: str, reason: str) -> str:
    return f"faults: {worker}: its network can have no faults: {reason}; nothing was changed"
