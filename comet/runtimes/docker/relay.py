"""Runs two containers alongside the workers: the database relay and the trial of the database.

The relay passes connections on to a database server on the host's loopback. The trial tests the connection to a
database. The relay is in the host's network, as its workers are not, and has nothing else: no rights, no other mounts,
no secret. The engine itself restarts it when it dies, so it needs no supervisor. Killing it through the engine counts
as stopping it, so the engine does not restart it then; `RelaySupervisor` does.
"""

import contextlib
import hashlib
import json
import stat
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import docker
import docker.errors
from docker.types import Mount

from comet.common.errors import UserError
from comet.common.values import url_host
from comet.engine import traits as engine_traits
from comet.engine.errors import engine_errors, error_text
from comet.engine.traits import EngineTraits
from comet.events.event import Event
from comet.host.files import Directory
from comet.runtimes.docker.container_spec import container_name, helper_limits
from comet.state.directory import Owner

CONTAINER_FOLDER = "/run/comet/sockets"
READY_TIMEOUT = 15.0
"""Seconds that the relay may take until it listens."""

TRIAL_TIMEOUT = 60
"""Seconds that a trial may take; what it waits for ends sooner by itself."""

CHECK_PAUSE = 1.0
"""Seconds between two checks of the relay."""


class Relay:
    """The relay of one cluster, which connects a socket in `folder` with `address` (host, port).

    Not for concurrent use.
    """

    def __init__(
        self,
        client: docker.DockerClient,
        cluster_id: str,
        image: str,
        owner: Owner,
        folder: Path,
        address: tuple[str, str],
    ) -> None:
        host, port = address
        self._api = client.api
        traits = engine_traits.of(client)
        self._name = container_name(cluster_id, "relay")
        self._owner = owner
        self._socket = folder / f".s.PGSQL.{port}"
        made = {
            "image": image,
            "entrypoint": ["python3", "-m", "worker_app.relay"],
            "command": [f"{CONTAINER_FOLDER}/{self._socket.name}", f"{url_host(host)}:{port}"],
            "user": traits.user(f"{owner.uid}:{owner.gid}"),
        }
        mounts = {str(folder): (CONTAINER_FOLDER, False)}
        self._fingerprint = hashlib.sha256(json.dumps([made, mounts], sort_keys=True).encode()).hexdigest()[:16]
        labels = {"comet.cluster": cluster_id, "comet.fingerprint": self._fingerprint}
        restart = {"Name": "unless-stopped"}
        host_config = _host_config(self._api, traits, mounts, network_mode="host", restart_policy=restart)
        self._creation: dict[str, Any] = made | {"name": self._name, "labels": labels, "host_config": host_config}

    def ensure(self) -> bool:
        """Make sure that the relay runs with the right settings; return whether anything had to be done.

        UserError: the relay cannot be started.
        """
        try:
            found = self._found()
            if found is not None and found["Config"]["Labels"].get("comet.fingerprint") != self._fingerprint:
                self._discard()
                found = None
            if found is not None and (found["State"]["Running"] or found["State"]["Restarting"]):
                return False
            with self._folder() as folder:
                folder.remove(self._socket.name)
            if found is None:
                self._api.create_container(**self._creation)
            self._api.start(self._name)
            self._await_socket()
        except engine_errors() as error:
            raise UserError(f"the relay to the database cannot be started: {error_text(error)}") from None
        return True

    def remove(self) -> None:
        """Remove the relay; errors are left to the process that finds it later."""
        with contextlib.suppress(*engine_errors()):
            self._discard()

    def _await_socket(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT
        while not self._listens():
            if time.monotonic() > deadline:
                words = self._api.logs(self._name, tail=1).decode(errors="replace").strip()
                raise UserError(f"the relay to the database does not listen: {words or 'it says nothing'}")
            time.sleep(0.02)

    def _folder(self) -> Directory:
        """Open the socket's directory, which belongs to the relay's user: nothing in it is looked up by path."""
        with Directory.of(self._socket.parent.parent) as above:
            return above.child(self._socket.parent.name, owner=self._owner)

    def _listens(self) -> bool:
        with self._folder() as folder:
            found = folder.lstat(self._socket.name)
        return found is not None and stat.S_ISSOCK(found.st_mode)

    def _found(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._api.inspect_container(self._name)
        except docker.errors.NotFound:
            return None
        return found

    def _discard(self) -> None:
        with contextlib.suppress(docker.errors.NotFound):
            self._api.remove_container(self._name, force=True, v=True)


class RelaySupervisor:
    """Keeps a relay running from its own thread, and removes it at the end.

    No other thread acts on the relay, so no start follows the removal. `on_ready` is called once: with None when the
    relay runs, else with the reason why it does not. `notify` receives the later events.
    """

    def __init__(
        self, relay: Relay, on_ready: Callable[[str | None], object], notify: Callable[[Event], object]
    ) -> None:
        self._relay = relay
        self._on_ready = on_ready
        self._notify = notify
        self._leave = False
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="relay", daemon=True)
        self._thread.start()

    def end(self, leave: bool = False) -> None:
        """Ask for the relay's end, or with `leave` only for the end of its supervision.

        `ended` says when that is done.
        """
        self._leave = leave
        self._ending.set()

    def ended(self) -> bool:
        return not self._thread.is_alive()

    def _supervise(self) -> None:
        try:
            self._relay.ensure()
            self._on_ready(None)
        except UserError as error:
            self._on_ready(error.message)
        while not self._ending.wait(CHECK_PAUSE):
            try:
                if self._relay.ensure():
                    self._notify(Event("relay_restarted"))
            except UserError as error:
                self._notify(Event("engine_error", None, {"reason": error.message}))
        if not self._leave:
            self._relay.remove()


def trial(
    client: docker.DockerClient,
    cluster_id: str,
    image: str,
    owner: Owner,
    environment: Mapping[str, str],
    mounts: tuple[tuple[str, str, bool], ...],
    network: str | None,
) -> str | None:
    """Test the database from a container that sees what a worker sees; return None, or one line why it fails."""
    api, name = client.api, container_name(cluster_id, "trial")
    try:
        traits = engine_traits.of(client)
        with contextlib.suppress(docker.errors.NotFound):
            api.remove_container(name, force=True, v=True)
        created = api.create_container(
            image=image,
            name=name,
            entrypoint=["python3", "-m", "worker_app.address"],
            user=traits.user(f"{owner.uid}:{owner.gid}"),
            environment=dict(environment),
            labels={"comet.cluster": cluster_id},
            host_config=_host_config(
                api, traits, {source: (target, read_only) for source, target, read_only in mounts}, network_mode=network
            ),
        )["Id"]
        try:
            api.start(created)
            code = api.wait(created, timeout=TRIAL_TIMEOUT)["StatusCode"]
            words = api.logs(created, stdout=False).decode(errors="replace").strip()
        finally:
            api.remove_container(created, force=True, v=True)
    except engine_errors() as error:
        return error_text(error)
    return None if code == 0 else words.splitlines()[-1] if words else f"exit code {code}"


def forget_trial(client: docker.DockerClient, cluster_id: str) -> None:
    """Remove the container of a trial that was not waited for."""
    with contextlib.suppress(*engine_errors()):
        client.api.remove_container(container_name(cluster_id, "trial"), force=True, v=True)


def _host_config(api: Any, traits: EngineTraits, mounts: Mapping[str, tuple[str, bool]], **more: Any) -> Any:
    return api.create_host_config(
        **helper_limits(),
        mounts=[
            Mount(target, source, type="bind", read_only=read_only) for source, (target, read_only) in mounts.items()
        ],
        userns_mode=traits.host_users,
        **more,
    )
