"""Queries and orders to a swarm's manager: blocking calls of the engine API for one cluster's service.

The docker SDK is used below its own service methods. Those fill in defaults at each change, after which a change of
size replaces every task. They also lack some of what is needed here (a rollback, the log of one task).
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import docker
import docker.auth
import docker.errors
import requests.exceptions
import urllib3.exceptions

from comet.common.errors import UserError
from comet.engine.errors import engine_errors
from comet.engine.log_stream import Message, framed
from comet.runtimes.swarm import service_spec
from comet.runtimes.swarm.service_spec import ServiceLaunch, secret_name, service_name
from comet.runtimes.swarm.tasks import ENDED, Ports, Reading, Task, reading

Service = dict[str, Any]


class Manager:
    """The service of one cluster, through an engine that manages its swarm.

    Every method may raise `engine_errors()`.
    """

    def __init__(self, client: docker.DockerClient, cluster_id: str) -> None:
        self._api: Any = client.api
        self._cluster_id = cluster_id
        self._name = service_name(cluster_id)

    def read(self, ports: Ports) -> Reading:
        """Return the service, its tasks and the swarm's nodes as the manager sees them now.

        `ports` are the ports known so far.
        """
        service, tasks = self._service(), []
        if service is not None:
            try:
                tasks = self._api.tasks(filters={"service": [service["ID"]]})
            except docker.errors.NotFound:
                service = None  # Removed between the two calls.
        return reading(service or {}, tasks, self._api.nodes(), ports)

    def serving(self, ports: Ports) -> tuple[list[Task], Service]:
        """Return the tasks that serve now, and the service (empty where there is none)."""
        now = self.read(ports)
        return [task for task in now.tasks if task.serves], dict(now.service)

    def is_running(self, task: str) -> bool:
        """Return whether a task has not ended yet."""
        try:
            return str((self._api.inspect_task(task).get("Status") or {}).get("State")) not in ENDED
        except docker.errors.NotFound:
            return False

    def log(self, task: str, follow: bool, tail: int | str) -> Iterator[Message]:
        """Yield the last `tail` messages of what a task has printed, from whatever node it is on.

        ConnectionError where the manager becomes unreachable meanwhile.
        """
        params = {"stdout": 1, "stderr": 1, "timestamps": 1, "follow": int(follow), "tail": tail}
        limit = None if follow else self._api.timeout
        answer = self._api._get(self._api._url("/tasks/{0}/logs", task), params=params, stream=True, timeout=limit)
        self._api._raise_for_status(answer)
        try:
            self._api._disable_socket_timeout(self._api._get_raw_response_socket(answer))
            yield from framed(answer.raw.read)
        except (
            urllib3.exceptions.HTTPError
        ) as error:  # The SDK reads this kind of answer past requests, and so past its errors.
            raise ConnectionError(" ".join(str(error).split())) from error
        finally:
            answer.close()

    def resize(self, launch: ServiceLaunch | None, replicas: int) -> None:
        """Make the service, or set its number of tasks.

        Where the service is missing and `launch` is None, nothing is done.
        """
        present = self._service()
        if present is not None:
            if present["Spec"]["Mode"]["Replicated"]["Replicas"] != replicas:
                self._change(lambda spec: service_spec.resized(spec, replicas))
        elif launch is not None and replicas:
            made = service_spec.service(self._cluster_id, launch, replicas, self._secret(launch), self._checked(launch))
            self._post("/services/create", made, launch.image)

    def update(self, launch: ServiceLaunch) -> None:
        """Have all tasks replaced by tasks made as `launch` says, even where nothing has changed."""
        secret, checked = self._secret(launch), self._checked(launch)

        def changed(spec: Mapping[str, Any]) -> Service:
            force = int(spec["TaskTemplate"].get("ForceUpdate") or 0) + 1
            return service_spec.service(
                self._cluster_id, launch, spec["Mode"]["Replicated"]["Replicas"], secret, checked, force
            )

        self._change(changed, launch.image)

    def roll_back(self) -> None:
        """Undo the last update."""
        self._change(lambda spec: {**spec}, rollback="previous")

    def kill(self, container: str, signal: int) -> None:
        """Send a signal to a container of the manager's own node."""
        with contextlib.suppress(docker.errors.NotFound):
            self._api.kill(container, signal)

    def remove(self) -> None:
        """Remove the service and its secrets; the swarm ends its tasks."""
        with contextlib.suppress(docker.errors.NotFound):
            self._api.remove_service(self._name)
        for secret in self._api.secrets(filters={"label": [f"comet.cluster={self._cluster_id}"]}):
            with contextlib.suppress(docker.errors.NotFound):
                self._api.remove_secret(secret["ID"])

    def _service(self) -> Service | None:
        try:
            found: Service = self._api.inspect_service(self._name)
        except docker.errors.NotFound:
            return None
        return found

    def _change(self, change: Callable[[Mapping[str, Any]], Service], image: str = "", **params: Any) -> None:
        """Change the service's present specification; retry while other changes interfere.

        Another client may change the service at the same time, and the swarm itself does.
        """
        while True:
            present = self._api.inspect_service(self._name)
            with contextlib.suppress(_OutOfDate):
                path = self._api._url("/services/{0}/update", present["ID"])
                return self._post(path, change(present["Spec"]), image, version=present["Version"]["Index"], **params)

    def _post(self, path: str, content: Service, image: str = "", **params: Any) -> None:
        """Post an order; with `image`, include the credentials for which its registry may ask the nodes."""
        headers: dict[str, Any] = {}
        if image:
            registry, _ = docker.auth.resolve_repository_name(image.partition("@")[0])
            credentials = docker.auth.get_config_header(self._api, registry)
            headers |= {"X-Registry-Auth": credentials} if credentials else {}
        url = path if "://" in path else self._api._url(path)
        answer = self._api._post_json(url, data=content, params=params, headers=headers)
        try:
            self._api._raise_for_status(answer)
        except docker.errors.APIError as error:
            if "out of sequence" in str(error):
                raise _OutOfDate from None
            raise

    def _checked(self, launch: ServiceLaunch) -> bool:
        """Return whether the swarm can distinguish a task that answers from one that was only started."""
        if launch.health:
            return True
        try:
            check = self._api.inspect_image(launch.image)["Config"].get("Healthcheck") or {}
        except docker.errors.NotFound:
            return False
        return bool(check.get("Test", ["NONE"])[0] != "NONE")

    def _secret(self, launch: ServiceLaunch) -> str | None:
        """Return the id of the secret with this launch's content, which is made where it is missing."""
        if launch.secret is None:
            return None
        name = secret_name(self._cluster_id, launch.secret)
        for found in self._api.secrets(filters={"name": [name]}):
            if found["Spec"]["Name"] == name:
                return str(found["ID"])
        return str(self._api.create_secret(name, launch.secret.encode(), {"comet.cluster": self._cluster_id})["ID"])


class _OutOfDate(Exception):
    """The service was changed between a reading and an order."""


def require_manager(client: docker.DockerClient) -> str:
    """Return the id of the manager's node; raise UserError where the engine manages no swarm.

    The error says in one line what to do.
    """
    try:
        swarm = client.info().get("Swarm") or {}
    except engine_errors() as error:
        raise UserError(f"the swarm cannot be asked: {error_text(error)}") from None
    state = swarm.get("LocalNodeState")
    if state in (None, "", "inactive"):
        raise UserError(
            "runtime: swarm: this Docker engine is in no swarm; make one (docker swarm init), or point DOCKER_HOST at "
            "a manager"
        )
    if not swarm.get("ControlAvailable"):
        managers = ", ".join(str(each.get("Addr", "")).rpartition(":")[0] for each in swarm.get("RemoteManagers") or [])
        if state != "active" or not managers:
            raise UserError(
                f"runtime: swarm: this node's part in the swarm is {state}: {swarm.get('Error') or 'see docker info'}"
            )
        raise UserError(
            "runtime: swarm: this node is a worker of its swarm, not a manager; run Comet on a manager or point "
            "DOCKER_HOST at one "
            f"({managers}), or: docker node promote"
        )
    try:
        client.api.nodes()
    except engine_errors() as error:
        raise UserError(f"runtime: swarm: this manager cannot lead: {error_text(error)}") from None
    return str(swarm["NodeID"])


def error_text(error: Exception) -> str:
    """Return a manager's error in one line."""
    if isinstance(error, docker.errors.APIError) and error.explanation:
        return " ".join(str(error.explanation).split())
    if isinstance(
        error, requests.exceptions.ConnectionError | requests.exceptions.Timeout | ConnectionError | TimeoutError
    ):
        return "the swarm's manager does not answer"
    return " ".join(str(error).split()) or type(error).__name__
