"""Two containers beside the workers: the relay to a database server on the host's loopback, and the trial of the way to a database.

The relay is in the host's network, as its workers are not, and has nothing else: no rights, no other mounts, no secret. The engine itself
starts it again when it dies, so it needs no supervisor; who kills it through the engine has stopped it, and `Relay.ensure` mends that.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import docker
import docker.errors
from docker.types import LogConfig, Mount

from comet.cluster import Owner
from comet.drivers.container import ENGINE_ERRORS, container_name, told
from comet.errors import UserError

INSIDE = "/run/comet/sockets"
READY_WITHIN = 15.0
"""Seconds that the relay may take until it listens."""

TRIAL_WITHIN = 60
"""Seconds that a trial may take; what it waits for ends sooner by itself."""

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
