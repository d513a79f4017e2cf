"""Writes the engine API's specification of the workers' Swarm service. Pure.

All workers are one service: the swarm's own templates fill in what differs from one worker to the next. Each task's
port is published on its node (`PublishMode: host`) under a number that the node chooses, so that any number of tasks
fits on one node. The load balancers connect to the tasks themselves and need neither routing mesh nor virtual address.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NANOSECONDS = 1_000_000_000
RESTART_DELAY = 0.5
"""Seconds from a task's end to its successor's start; a swarm has no delay that grows."""

MONITOR_SECONDS = 2.0
"""Seconds for which an updated task must not fail, else the update is rolled back."""

UNCHECKED_DELAY = 5.0
"""Seconds between two steps of an update whose tasks have no health check.

The tasks of one step can begin to answer before the next step, and one that fails within them ends the update: without
a check, a task that needs a while to fail would count as updated, and the next step would end what still serves.
"""

MAX_UPDATE_WAVES = 4
"""The approximate number of steps of an update."""

SECRET_FILE = "comet-database"
TASK_NAME = "{{.Task.Name}}"


@dataclass(frozen=True)
class ServiceLaunch:
    """What the workers' service is made of.

    Memory is in bytes, times are in seconds. Without arguments, health command or user, the image's own apply. `mounts`
    are (source on the node, target, read-only). `secret` is the content of the file that tasks find as
    /run/secrets/comet-database. `fingerprint` changes whenever tasks made earlier must be replaced.
    """

    image: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    user: str
    port: int
    mounts: tuple[tuple[str, str, bool], ...]
    memory: int
    pids: int
    grace: float
    fingerprint: str
    health: tuple[str, ...] = ()
    health_interval: float = 5.0
    health_timeout: float = 2.0
    health_retries: int = 6
    start_timeout: float = 60.0
    constraints: tuple[str, ...] = ()
    confined: bool = True
    read_only: bool = True
    cpus: float | None = None
    secret: str | None = field(default=None, repr=False)


def service_name(cluster_id: str) -> str:
    return f"comet-{cluster_id}"


def secret_name(cluster_id: str, content: str) -> str:
    """Return the name of the secret with this content: a secret cannot be changed, so new content has a new name."""
    return f"comet-{cluster_id}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def service(
    cluster_id: str, launch: ServiceLaunch, replicas: int, secret_id: str | None, checked: bool, force: int = 0
) -> dict[str, Any]:
    """Return the service's whole specification.

    `checked`: its tasks have a health check, the launch's or their image's. `force` is a number; when it changes, the
    swarm replaces all tasks.
    """
    return {
        "Name": service_name(cluster_id),
        "Labels": {"comet.cluster": cluster_id, "comet.fingerprint": launch.fingerprint},
        "TaskTemplate": {
            "ContainerSpec": _container(cluster_id, launch, secret_id),
            "Resources": {"Limits": _limits(launch)},
            "RestartPolicy": {"Condition": "any", "Delay": round(RESTART_DELAY * NANOSECONDS)},
            "Placement": {"Constraints": list(launch.constraints)},
            "LogDriver": {"Name": "json-file", "Options": {"max-size": "1m", "max-file": "2"}},
            "ForceUpdate": force,
        },
        "Mode": {"Replicated": {"Replicas": replicas}},
        "UpdateConfig": _rollout(replicas, "rollback", checked),
        "RollbackConfig": _rollout(replicas, "pause", checked),
        "EndpointSpec": {
            "Mode": "dnsrr",
            "Ports": [{"Protocol": "tcp", "TargetPort": launch.port, "PublishMode": "host"}],
        },
    }


def _container(cluster_id: str, launch: ServiceLaunch, secret_id: str | None) -> dict[str, Any]:
    mounts = [
        {"Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only}
        for source, target, read_only in launch.mounts
    ]
    if launch.read_only:
        options = {"SizeBytes": 16 << 20, "Mode": 0o1777}
        mounts.append({"Type": "tmpfs", "Target": "/tmp", "TmpfsOptions": options})  # nosec B108  # within the container
    made: dict[str, Any] = {
        "Image": launch.image,
        "Env": [f"{name}={value}" for name, value in launch.environment.items()],
        "Labels": {"comet.cluster": cluster_id, "comet.fingerprint": launch.fingerprint},
        "Init": True,
        "ReadOnly": launch.read_only,
        "Mounts": mounts,
        # The time beyond the worker's own grace is for a worker that hangs.
        "StopGracePeriod": round((launch.grace + 2) * NANOSECONDS),
    }
    if launch.arguments:
        made["Args"] = list(launch.arguments)
    if launch.user:
        made["User"] = launch.user
    if launch.confined:
        made["CapabilityDrop"] = ["ALL"]
    if launch.health:
        made["Healthcheck"] = {
            "Test": ["CMD", *launch.health],
            "Interval": round(launch.health_interval * NANOSECONDS),
            "Timeout": round(launch.health_timeout * NANOSECONDS),
            "Retries": launch.health_retries,
            "StartPeriod": round(launch.start_timeout * NANOSECONDS),
        }
    if launch.secret is not None and secret_id is not None:
        owner, _, group = launch.user.partition(":")
        file = {"Name": SECRET_FILE, "UID": owner or "0", "GID": group or "0", "Mode": 0o400}
        made["Secrets"] = [{"SecretID": secret_id, "SecretName": secret_name(cluster_id, launch.secret), "File": file}]
    return made


def _limits(launch: ServiceLaunch) -> dict[str, int]:
    limits = {"MemoryBytes": launch.memory, "Pids": launch.pids}
    return limits if launch.cpus is None else limits | {"NanoCPUs": round(launch.cpus * NANOSECONDS)}


def _rollout(replicas: int, on_failure: str, checked: bool) -> dict[str, Any]:
    return {
        "Parallelism": max(1, -(-replicas // MAX_UPDATE_WAVES)),
        "Order": "start-first",
        "Delay": 0 if checked else round(UNCHECKED_DELAY * NANOSECONDS),
        "FailureAction": on_failure,
        "Monitor": round((MONITOR_SECONDS if checked else UNCHECKED_DELAY) * NANOSECONDS),
        "MaxFailureRatio": 0,
    }


def resized(spec: Mapping[str, Any], replicas: int) -> dict[str, Any]:
    """Return the manager's specification with another number of tasks; the tasks that stay are left alone."""
    return {**spec, "Mode": {"Replicated": {"Replicas": replicas}}}
