"""Two containers beside the workers: the relay to a database server on the host's loopback, and the trial of the way to a database.

The relay is in the host's network, as its workers are not, and has nothing else: no rights, no other mounts, no secret. The engine itself
starts it again when it dies, so it needs no supervisor; who kills it through the engine has stopped it, which `Keeper` mends.
"""

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import docker
import docker.errors
from docker.types import LogConfig, Mount

from comet.cluster import Owner
from comet.drivers.container import ENGINE_ERRORS, container_name, told
from comet.errors import UserError
from comet.events import Event

INSIDE = "/run/comet/sockets"
READY_WITHIN = 15.0
"""Seconds that the relay may take until it listens."""

TRIAL_WITHIN = 60
"""Seconds that a trial may take; what it waits for ends sooner by itself."""

LOOK_PAUSE = 1.0
"""Seconds between two looks at the relay."""

MEMORY = 128 << 20


class Relay:
    """The relay of one cluster: listens at a socket in `folder`, passes on to `address` (host, port). Not for concurrent use."""

    def __init__(
        self, client: docker.DockerClient, cluster_id: str, image: str, owner: Owner, folder: Path, address: tuple[str, str]
    ) -> None:
        host, port = address
        self._api = client.api
        self._name = container_name(cluster_id, "relay")
        self._socket = folder / f".s.PGSQL.{port}"
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        made = {
            "image": image,
            "entrypoint": ["python3", "-m", "worker_app.relay"],
            "command": [f"{INSIDE}/{self._socket.name}", target],
            "user": f"{owner.uid}:{owner.gid}",
        }
        mounts = {str(folder): (INSIDE, False)}
        self._fingerprint = hashlib.sha256(json.dumps([made, mounts], sort_keys=True).encode()).hexdigest()[:16]
        labels = {"comet.cluster": cluster_id, "comet.fingerprint": self._fingerprint}
        restart = {"Name": "unless-stopped"}
        host_config = _host_config(self._api, mounts, network_mode="host", restart_policy=restart)
        self._creation: dict[str, Any] = made | {"name": self._name, "labels": labels, "host_config": host_config}

    def ensure(self) -> bool:
        """Have it run, made as it should be; whether anything had to be done. UserError: it cannot be had."""
        try:
            found = self._found()
            if found is not None and found["Config"]["Labels"].get("comet.fingerprint") != self._fingerprint:
                self._discard()
                found = None
            if found is not None and (found["State"]["Running"] or found["State"]["Restarting"]):
                return False
            self._socket.unlink(missing_ok=True)
            if found is None:
                self._api.create_container(**self._creation)
            self._api.start(self._name)
            self._await()
        except ENGINE_ERRORS as error:
            raise UserError(f"the relay to the database cannot be started: {told(error)}") from None
        return True

    def remove(self) -> None:
        """Leave nothing of it; errors are for who finds it left."""
        with contextlib.suppress(*ENGINE_ERRORS):
            self._discard()

    def _await(self) -> None:
        deadline = time.monotonic() + READY_WITHIN
        while not self._socket.is_socket():
            if time.monotonic() > deadline:
                words = self._api.logs(self._name, tail=1).decode(errors="replace").strip()
                raise UserError(f"the relay to the database does not listen: {words or 'it says nothing'}")
            time.sleep(0.02)

    def _found(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._api.inspect_container(self._name)
        except docker.errors.NotFound:
            return None
        return found

    def _discard(self) -> None:
        with contextlib.suppress(docker.errors.NotFound):
            self._api.remove_container(self._name, force=True, v=True)


class Keeper:
    """Looks after a relay from a thread of its own, and removes it at the end: nobody else acts on it, so no start comes after the removal.

    `up` is called once: with None when it runs, else with the reason why it does not. `tell` hears of what happens later.
    """

    def __init__(self, relay: Relay, up: Callable[[str | None], object], tell: Callable[[Event], object]) -> None:
        self._relay = relay
        self._up = up
        self._tell = tell
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="relay", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Ask for the relay's end; `ended` tells when that is done."""
        self._ending.set()

    def ended(self) -> bool:
        return not self._thread.is_alive()

    def _keep(self) -> None:
        try:
            self._relay.ensure()
            self._up(None)
        except UserError as error:
            self._up(error.message)
        while not self._ending.wait(LOOK_PAUSE):
            try:
                if self._relay.ensure():
                    self._tell(Event("relay_restarted"))
            except UserError as error:
                self._tell(Event("engine_error", None, {"reason": error.message}))
        self._relay.remove()


def trial(
    client: docker.DockerClient,
    cluster_id: str,
    image: str,
    owner: Owner,
    environment: Mapping[str, str],
    mounts: tuple[tuple[str, str, bool], ...],
) -> str | None:
    """Try in a container that sees what a worker sees whether the database can be used; None, or in one line why not."""
    api, name = client.api, container_name(cluster_id, "trial")
    try:
        with contextlib.suppress(docker.errors.NotFound):
            api.remove_container(name, force=True, v=True)
        created = api.create_container(
            image=image,
            name=name,
            entrypoint=["python3", "-m", "worker_app.address"],
            user=f"{owner.uid}:{owner.gid}",
            environment=dict(environment),
            labels={"comet.cluster": cluster_id},
            host_config=_host_config(api, {source: (target, read_only) for source, target, read_only in mounts}),
        )["Id"]
        try:
            api.start(created)
            code = api.wait(created, timeout=TRIAL_WITHIN)["StatusCode"]
            words = api.logs(created, stdout=False).decode(errors="replace").strip()
        finally:
            api.remove_container(created, force=True, v=True)
    except ENGINE_ERRORS as error:
        return told(error)
    return None if code == 0 else words.splitlines()[-1] if words else f"exit code {code}"


def forget_trial(client: docker.DockerClient, cluster_id: str) -> None:
    """Remove what a trial left that was not waited for."""
    with contextlib.suppress(*ENGINE_ERRORS):
        client.api.remove_container(container_name(cluster_id, "trial"), force=True, v=True)


def _host_config(api: Any, mounts: Mapping[str, tuple[str, bool]], **more: Any) -> Any:
    return api.create_host_config(
        init=True,
        mounts=[Mount(target, source, type="bind", read_only=read_only) for source, (target, read_only) in mounts.items()],
        mem_limit=MEMORY,
        pids_limit=64,
        read_only=True,
        tmpfs={"/tmp": "size=1m,mode=1777"},
        cap_drop=["ALL"],
        security_opt=["no-new-privileges:true"],
        log_config=LogConfig(type=LogConfig.types.JSON, config={"max-size": "1m", "max-file": "2"}),
        **more,
    )
