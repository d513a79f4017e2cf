"""Replicas that are containers: made, started and ended through the docker SDK, watched through the engine's event stream.

The engine may take a second for a call, or hang: every call runs on a thread of this driver (`Lanes`: in order for one replica, side
by side for different ones) and its outcome is handed to the loop. Deaths are pushed by the event stream, which has a thread of its
own; when the stream breaks, the engine is lost until a new stream is open, and then the containers' true state is compared with
what was known (`_reconcile`), so that nothing that happened meanwhile is missed.

A container that crashed is started again: same container, same id. One that was removed from outside is made anew, and so is one
that cannot be started again: an engine that dies in the midst of a start leaves traces (`task … already exists`, `endpoint with name …
already exists`) that only a removal heals.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from signal import Signals
from typing import Any

import docker
import docker.errors
import requests.exceptions
from docker.types import LogConfig, Mount

from comet.drivers.base import Sink
from comet.drivers.lanes import Lanes
from comet.events import Event
from comet.exits import of_container
from comet.observation import Exit, Exited, Lost, Removed, Revived, Started, StartFailed
from comet.replica import ReplicaSpec

THREADS = 8
RECONNECT_PAUSE = 0.5
"""Seconds between two attempts to reach an engine that is lost."""

AWAY = "the Docker engine does not answer"

SPOILT_AFTER = 5
"""A container that could not be started again so many times is replaced. Not at once: an engine on its way down fails, too."""

ENGINE_ERRORS = (docker.errors.DockerException, requests.exceptions.RequestException, OSError)


@dataclass(frozen=True)
class ContainerLaunch:
    """What a worker's container is made of. `mounts` are (source, target, read-only); memory in bytes; no arguments: what the image
    says; `confined`: without any capability; `fingerprint` changes whenever a container made earlier would no longer do."""

    image: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    user: str
    host: str
    container_port: int
    mounts: tuple[tuple[str, str, bool], ...]
    memory: int
    pids: int
    fingerprint: str
    confined: bool = True
    read_only: bool = True
    cpus: float | None = None


@dataclass
class _Known:
    spec: ReplicaSpec
    instance: int
    id: str | None = None
    running: bool = False
    failed_starts: int = 0


class ContainerDriver:
    """Drives the containers of one cluster, which its label tells from all others."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sink: Sink,
        tell: Callable[[Event], None],
        client: docker.DockerClient,
        cluster_id: str,
    ) -> None:
        self._loop = loop
        self._sink = sink
        self._tell = tell
        self._api = client.api
        self._cluster_id = cluster_id
        self._lanes = Lanes(THREADS, self._failed)
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._oom: set[str] = set()
        self._closed = threading.Event()
        self._watching = threading.Event()
        self._lost = False
        """Whether the engine is away: its event stream has ended and is not open again."""
        self._watcher = threading.Thread(target=self._watch, name="engine-events", daemon=True)

    def watch(self, timeout: float = 10.0) -> bool:
        """Begin to listen for events; whether the stream is open."""
        self._watcher.start()
        return self._watching.wait(timeout)

    def start(self, spec: ReplicaSpec, instance: int) -> None:
        with self._lock:
            former = self._known.get(spec.name)
            known = self._known[spec.name] = _Known(spec, instance)
            if former is not None:
                known.id, known.failed_starts = former.id, former.failed_starts
        self._lanes.put(spec.name, lambda: self._start(known))

    def adopt(self, spec: ReplicaSpec, instance: int, container: str) -> None:
        """Know a running container that an earlier supervisor started; its full id."""
        with self._lock:
            self._known[spec.name] = _Known(spec, instance, container, running=True)

    def drain(self, name: str) -> None:
        """Nothing to do here: the load balancers are told by the router, which says when it is done."""

    def terminate(self, name: str) -> None:
        self.kill(name, Signals.SIGTERM)

    def kill(self, name: str, signal: int) -> None:
        known = self._known.get(name)
        if known is not None:
            self._lanes.put(name, lambda: self._kill(known, signal))

    def remove(self, name: str) -> None:
        self._lanes.put(name, lambda: self._remove(name))

    def release(self, name: str) -> None:
        return

    def rename(self, former: str, name: str) -> None:
        raise ValueError(f"{former}: a container keeps its name")

    def close(self) -> None:
        self._closed.set()
        self._lanes.close()

    # On the lanes' threads.

    def _start(self, known: _Known) -> None:
        port = known.spec.launch.container_port
        if self._lost:
            # An engine that is coming up half makes what it is asked for too early; when it is back all are started anyway.
            self._say(known, StartFailed(AWAY))
            return
        try:
            if known.id is None or not self._start_again(known):
                self._make(known)
            seen = self._started(known)
            if seen["State"]["Running"] and not _publishes(seen, port):
                # Starts that failed in an engine on its way down can leave a container without a network for good.
                known.running = False
                self._make(known)
                seen = self._started(known)
            state = seen["State"]
        except ENGINE_ERRORS as error:
            known.running = False
            self._say(known, StartFailed(told(error)))
            return
        self._say(known, Started(state["Pid"] or None, short(known.id or "")))
        if not state["Running"]:
            self._died(known, state, time.time())

    def _make(self, known: _Known) -> None:
        """Start a new container in place of any that is there."""
        self._discard(container_name(self._cluster_id, known.spec.name))
        known.id = self._api.create_container(**self._creation(known.spec, known.spec.launch))["Id"]
        self._api.start(known.id)

    def _started(self, known: _Known) -> dict[str, Any]:
        """What the engine says of it. From here on a die event counts; what died before is seen here. `_died` takes only the first."""
        known.running = True
        seen: dict[str, Any] = self._api.inspect_container(known.id or "")
        return seen

    def _start_again(self, known: _Known) -> bool:
        """Start the container that is there; False where it is gone, or is spoilt and was removed for that."""
        assert known.id is not None
        try:
            self._api.start(known.id)
        except docker.errors.NotFound:
            return False
        except docker.errors.APIError as error:
            known.failed_starts += 1
            if "already exists" not in told(error) and known.failed_starts < SPOILT_AFTER:
                raise
            with contextlib.suppress(docker.errors.APIError):
                self._api.disconnect_container_from_network(known.id, "bridge", force=True)
            self._discard(known.id)
            known.id = None
            return False
        known.failed_starts = 0
        return True

    def _creation(self, spec: ReplicaSpec, launch: ContainerLaunch) -> dict[str, Any]:
        port = launch.container_port
        host_config = self._api.create_host_config(
            init=True,
            port_bindings={port: (launch.host, spec.port)},
            mounts=[Mount(target, source, type="bind", read_only=read_only) for source, target, read_only in launch.mounts],
            mem_limit=launch.memory,
            memswap_limit=launch.memory,
            pids_limit=launch.pids,
            nano_cpus=None if launch.cpus is None else round(launch.cpus * 1e9),
            read_only=launch.read_only,
            tmpfs={"/tmp": "size=16m,mode=1777"} if launch.read_only else None,
            cap_drop=["ALL"] if launch.confined else None,
            security_opt=["no-new-privileges:true"],
            restart_policy={"Name": "no"},
            log_config=LogConfig(type=LogConfig.types.JSON, config={"max-size": "1m", "max-file": "2"}),
        )
        return {
            "image": launch.image,
            "name": container_name(self._cluster_id, spec.name),
            "command": list(launch.arguments) or None,
            "environment": dict(launch.environment),
            "user": launch.user,
            "ports": [port],
            "labels": {"comet.cluster": self._cluster_id, "comet.replica": spec.name, "comet.fingerprint": launch.fingerprint},
            "host_config": host_config,
        }

    def _kill(self, known: _Known, signal: int) -> None:
        if known.id is None or not known.running:
            return
        try:
            self._api.kill(known.id, signal)
        except docker.errors.APIError as error:
            # 404 and 409: it is gone or does not run, which the event stream tells as well.
            if error.status_code not in (404, 409):
                raise

    def _remove(self, name: str) -> None:
        known = self._known.get(name)
        self._discard(known.id if known and known.id else container_name(self._cluster_id, name))
        with self._lock:
            self._known.pop(name, None)
        self._loop.call_soon_threadsafe(self._sink, name, known.instance if known else None, Removed())

    def _discard(self, container: str) -> None:
        try:
            self._api.remove_container(container, force=True, v=True)
        except docker.errors.NotFound:
            return
        except docker.errors.APIError as error:
            if error.status_code != 409:  # Its removal is under way.
                raise

    def _failed(self, name: str, error: Exception) -> None:
        if not isinstance(error, ENGINE_ERRORS):
            raise error
        # The plan repeats what does not come about; the user reads why.
        event = Event("engine_error", name, {"reason": told(error)})
        self._loop.call_soon_threadsafe(self._tell, event)

    # On the watcher's thread.

    def _watch(self) -> None:
        while not self._closed.is_set():
            try:
                stream = self._api.events(decode=True, filters={"label": f"comet.cluster={self._cluster_id}", "type": "container"})
                if self._lost:
                    self._lost = False
                    self._loop.call_soon_threadsafe(self._tell, Event("engine_back"))
                    self._reconcile()
                self._watching.set()
                for record in stream:
                    self._heard(record)
                raise ConnectionError("its event stream ended")
            except ENGINE_ERRORS as error:
                if self._closed.is_set():
                    return
                if not self._lost:
                    self._lost = True
                    self._loop.call_soon_threadsafe(self._tell, Event("engine_lost", None, {"reason": told(error)}))
                self._closed.wait(RECONNECT_PAUSE)

    def _heard(self, record: dict[str, Any]) -> None:
        action, container = record.get("Action"), record.get("id")
        if action not in ("die", "oom", "destroy") or not container:
            return
        known = self._by_id(container)
        if known is None:
            return
        if action == "oom":
            self._oom.add(container)
        elif action == "die" and known.running:
            # The load balancers hear of it now. The engine holds the container locked for another 150 ms, for this question as well as
            # for a start: waiting for the answer, which has the time of death, delays no restart.
            heard = time.time()
            self._say(known, Lost())
            try:
                state = self._api.inspect_container(container)["State"]
            except ENGINE_ERRORS:
                state = {"ExitCode": record.get("Actor", {}).get("Attributes", {}).get("exitCode")}
            if not state.get("Running"):
                self._died(known, state, heard)
        elif action == "destroy" and known.running:
            self._died(known, {}, time.time())

    def _reconcile(self) -> None:
        """Compare what is known with what the engine says, after a time without events; then let everything try again."""
        with self._lock:
            every = list(self._known.values())
        for known in every:
            if known.running and known.id is not None:
                try:
                    state = self._api.inspect_container(known.id)["State"]
                except docker.errors.NotFound:
                    state = {}
                if not state.get("Running"):
                    self._died(known, state, time.time())
            self._say(known, Revived())

    def _by_id(self, container: str) -> _Known | None:
        with self._lock:
            return next((known for known in self._known.values() if known.id == container), None)

    # On either.

    def _died(self, known: _Known, state: dict[str, Any], noticed: float) -> None:
        with self._lock:
            if not known.running:
                return
            known.running = False
        oom = bool(state.get("OOMKilled")) or known.id in self._oom
        self._oom.discard(known.id or "")
        self._say(known, Exited(decode(state, oom, noticed)))

    def _say(self, known: _Known, observation: Any) -> None:
        if not self._closed.is_set():
            self._loop.call_soon_threadsafe(self._sink, known.spec.name, known.instance, observation)


def _publishes(seen: Mapping[str, Any], port: int) -> bool:
    """Whether a running container can be reached at its port."""
    return bool(((seen.get("NetworkSettings") or {}).get("Ports") or {}).get(f"{port}/tcp"))


def container_name(cluster_id: str, replica: str) -> str:
    return f"comet-{cluster_id}-{replica}"


def short(container: str) -> str:
    """The id as `docker ps` shows it, which is also the container's hostname."""
    return container[:12]


def told(error: Exception) -> str:
    """An engine's error in one line."""
    if isinstance(error, docker.errors.APIError) and error.explanation:
        return " ".join(str(error.explanation).split())
    if isinstance(error, requests.exceptions.ConnectionError | ConnectionError):
        return AWAY
    return " ".join(str(error).split()) or type(error).__name__


def decode(state: Mapping[str, Any], oom: bool, noticed: float) -> Exit:
    """An exit from a container's State, whose ExitCode is 128 + N for signal N (docker run(1)); {} where nothing could be read.
    `noticed` is the wall time at which the death was heard of."""
    code = state.get("ExitCode")
    return of_container(None if code is None else int(code), str(state.get("FinishedAt", "")), noticed, oom)
