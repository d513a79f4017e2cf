"""Writes the engine's specification of a worker's container."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from docker import APIClient
from docker.types import LogConfig, Mount

from comet.engine.traits import EngineTraits
from comet.reconcile.replica import ReplicaSpec
from comet.runtimes.docker.network import is_closed

LOG_SIZE = "10m"
"""The size of one file of a container's log; two such files bound what is kept."""

HELPER_MEMORY = 128 << 20


@dataclass(frozen=True)
class ContainerLaunch:
    """What a worker's container is made of.

    `mounts` are (source, target, read-only); `memory` is in bytes. Without arguments the image's own apply. `confined`:
    without any capability. `fingerprint` changes whenever a container made earlier must be replaced.
    """

    image: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    user: str
    """The user in the container; with `hosts_user`, a user of this machine, as `uid:gid`."""
    host: str
    container_port: int
    mounts: tuple[tuple[str, str, bool], ...]
    memory: int
    pids: int
    fingerprint: str
    confined: bool = True
    hosts_user: bool = False
    """Whether the container acts as a user of this machine, whatever mapping of users the engine has.

    It has files of that user mounted.
    """
    read_only: bool = True
    cpus: float | None = None
    network: str | None = None
    """A network of the cluster; None: the engine's default."""


def container_name(cluster_id: str, replica: str) -> str:
    return f"comet-{cluster_id}-{replica}"


def creation(
    api: APIClient, traits: EngineTraits, labels: Mapping[str, str], spec: ReplicaSpec, network: str | None
) -> dict[str, Any]:
    """Return the arguments of `create_container` for this replica, on this network; `labels` are its cluster's."""
    launch: ContainerLaunch = spec.launch
    port = launch.container_port
    mapped = launch.hosts_user
    host_config = api.create_host_config(
        init=True,
        port_bindings={port: (launch.host, spec.port)},
        mounts=[Mount(target, source, type="bind", read_only=read_only) for source, target, read_only in launch.mounts],
        mem_limit=launch.memory,
        memswap_limit=launch.memory,
        pids_limit=launch.pids,
        nano_cpus=None if launch.cpus is None else round(launch.cpus * 1e9),
        read_only=launch.read_only,
        tmpfs={"/tmp": "size=16m,mode=1777"} if launch.read_only else None,  # nosec B108  # within the container
        cap_drop=["ALL"] if launch.confined else None,
        security_opt=["no-new-privileges"],
        restart_policy={"Name": "no"},
        network_mode=network,
        # Otherwise the engine would ask the host's name servers for the container, which itself may call no other
        # machine.
        dns=["127.0.0.1"] if network is not None and is_closed(network) else None,
        userns_mode=traits.host_users if mapped else None,
        log_config=LogConfig(
            type=traits.log_driver, config={"max-size": LOG_SIZE, "max-file": "2", **traits.log_options}
        ),
    )
    return {
        "image": launch.image,
        "name": container_name(labels["comet.cluster"], spec.name),
        "command": list(launch.arguments) or None,
        "environment": dict(launch.environment),
        "user": traits.user(launch.user) if mapped else launch.user,
        "ports": [port],
        "labels": {**labels, "comet.replica": spec.name, "comet.fingerprint": launch.fingerprint},
        "host_config": host_config,
    }


def helper_limits() -> dict[str, Any]:
    """Return what every helper's container has of a host config: no rights, no room, a small log."""
    return {
        "init": True,
        "mem_limit": HELPER_MEMORY,
        "pids_limit": 64,
        "read_only": True,
        "tmpfs": {"/tmp": "size=1m,mode=1777"},  # nosec B108  # within the container
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "log_config": LogConfig(type=LogConfig.types.JSON, config={"max-size": "1m", "max-file": "2"}),
    }
