"""Says what the engine knows of a container: its image, its layers, its network, its ports.

The engine names the first process of a container as its own PID namespace counts. A process is taken for that one only
if the kernel agrees: it is in the container's control group, or was born when the container started.
"""

import contextlib
from collections.abc import Mapping
from typing import Any, Final

import docker
import docker.errors

from comet.common.clock import parse
from comet.engine import traits
from comet.engine.errors import engine_errors, error_text
from comet.host import process_identity
from comet.inspection.facts import EngineFacts, Fact, Missing
from comet.inspection.proc import Gone, ProcessFolder
from comet.inspection.tree import INITS
from comet.runtimes.cluster_processes import wall_time

BORN_BEFORE: Final = 30.0
"""Seconds by which a container's first process may be older than its start, as the engine tells it."""


def container(client: docker.DockerClient, identity: str) -> Mapping[str, Any] | None:
    """Return what the engine says of a container; None if this engine has no such container."""
    try:
        found: Mapping[str, Any] = client.api.inspect_container(identity)
    except docker.errors.NotFound:
        return None
    return found


def facts(client: docker.DockerClient, inspected: Mapping[str, Any]) -> EngineFacts:
    """Return the facts of a container, from the engine's answer about it."""
    config, settings = inspected.get("Config") or {}, inspected.get("HostConfig") or {}
    network = inspected.get("NetworkSettings") or {}
    names = ", ".join(network.get("Networks") or {}) or str(settings.get("NetworkMode") or "")
    binds = [
        (str(mount.get("Source", "")), str(mount.get("Destination", "")), bool(mount.get("RW", True)))
        for mount in inspected.get("Mounts") or ()
        if mount.get("Type") in ("bind", "volume")
    ]
    return EngineFacts(
        id=str(inspected["Id"]),
        title=traits.of(client).title,
        image=str(config.get("Image") or inspected.get("Image") or ""),
        image_layers=_image_layers(client, str(inspected.get("Image", ""))),
        runtime=str(settings.get("Runtime") or inspected.get("OCIRuntime") or ""),
        network=names,
        binds=tuple(sorted(binds)),
        ports=tuple(ports(inspected)),
    )


def ports(inspected: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return the published ports as (address in the container, port on the host)."""
    network = inspected.get("NetworkSettings") or {}
    addresses = [str(each.get("IPAddress") or "") for each in (network.get("Networks") or {}).values()]
    address = next(filter(None, addresses), str(network.get("IPAddress") or ""))
    found = {
        (f"{address}:{inner.partition('/')[0]}", int(binding["HostPort"]))
        for inner, bindings in (network.get("Ports") or {}).items()
        for binding in bindings or ()
        if str(binding.get("HostPort", "")).isdigit()
    }
    return sorted(found)


def _image_layers(client: docker.DockerClient, image: str) -> Fact[int]:
    try:
        found: Mapping[str, Any] = client.api.inspect_image(image)  # type: ignore[no-untyped-call]
        return len((found.get("RootFS") or {}).get("Layers") or ())
    except engine_errors() as error:
        return Missing("not known", error_text(error))


def first_process(inspected: Mapping[str, Any]) -> ProcessFolder:
    """Return the first process of a running container; raise Gone where none is found.

    An engine in a PID namespace of its own, or in another user's, names PIDs that are others here. Then the process is
    looked for by its control group.
    """
    identity = str(inspected["Id"])
    state = inspected.get("State") or {}
    pid = int(state.get("Pid") or 0)
    if pid:
        with contextlib.suppress(Gone):
            folder = ProcessFolder(pid)
            if _is_of(folder, identity) or _began(folder, str(state.get("StartedAt", ""))):
                return folder
            folder.close()
        for other in process_identity.pids():
            with contextlib.suppress(Gone, OSError):
                folder = ProcessFolder(other)
                if _is_of(folder, identity) and _number_inside(folder) == 1:
                    return folder
                folder.close()
    raise Gone(pid)


def _is_of(folder: ProcessFolder, identity: str) -> bool:
    """Return whether a process is in the container's control group, which carries its full id."""
    try:
        return identity in folder.text("cgroup")
    except OSError:
        return False


def _began(folder: ProcessFolder, started: str) -> bool:
    """Return whether a process is the first one of a namespace and was born just before the container's start."""
    at = parse(started)
    if at is None or _number_inside(folder) != 1 or folder.pid == 1:
        return False
    return -BORN_BEFORE <= wall_time(folder.birth) - at <= 1.0


def _number_inside(folder: ProcessFolder) -> int | None:
    """Return a process's PID in its own namespace."""
    with contextlib.suppress(OSError):
        for line in folder.text("status").splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return None


def service_process(first: ProcessFolder) -> ProcessFolder:
    """Return the process that does a container's work: the child of an init program, else the first process."""
    if first.text("comm").strip() not in INITS:
        return first
    for each in process_identity.processes():
        if each.parent == first.pid and each.alive:
            with contextlib.suppress(Gone):
                child = ProcessFolder(each.pid, each.birth)
                first.close()
                return child
    return first
