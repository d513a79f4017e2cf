"""Settings that do not go together. Each function yields a line per problem. Pure."""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from comet.config.database_url import is_url
from comet.config.fault_settings import FRONT, WORKER_ONLY
from comet.config.keys import KEYS
from comet.config.runtimes import RUNTIMES


def folder_problems(runtime: str, path: Path, lines: Mapping[str, int]) -> Iterator[str]:
    """Yield a problem if the folder's name cannot be sent to an engine.

    Engines are sent JSON, but a folder's name may consist of any bytes.
    """
    if not RUNTIMES[runtime].uses_engine:
        return
    try:
        str(path.parent).encode()
    except UnicodeEncodeError:
        where = f"{path.name}:{lines.get('runtime', 1)}: runtime"
        yield (
            f"{where}: the folder's name {path.parent.name!r} is not UTF-8, which no engine takes (rename it, "
            "or set runtime: process)"
        )


PLACES = ("{host}", "{port}", "{name}")
"""The placeholders of a worker-command."""

CUSTOM_SERVICE_ONLY = (
    "worker-target-port",
    "worker-environment",
    "worker-volumes",
    "worker-user",
    "worker-read-only",
    "worker-cpus",
    "worker-pids",
)
BUILTIN_WORKER_ONLY = ("avg-delay", "failure", "delay-distribution", "seed")
CONTAINER_ONLY = (
    "worker-image",
    "worker-target-port",
    "worker-volumes",
    "worker-read-only",
    "worker-cpus",
    "worker-pids",
)


def _is_set(key: str, values: Mapping[str, Any], lines: Mapping[str, int]) -> bool:
    """Whether the file gives the key a value other than its default."""
    return key in lines and values[key] != KEYS[key].check(KEYS[key].default)


def service_problems(values: Mapping[str, Any], lines: Mapping[str, int], name: str) -> Iterator[str]:
    """Yield the settings that do not fit the workers' service (custom or built-in) or its runtime."""
    containers, command = RUNTIMES[values["runtime"]].uses_engine, values["worker-command"]

    def refused(keys: Iterable[str], wrong: str) -> Iterator[str]:
        return (f"{name}:{lines[key]}: {key}: {wrong}" for key in keys if _is_set(key, values, lines))

    if not RUNTIMES[values["runtime"]].custom_service and (command or values["worker-image"] is not None):
        wrong = f"runtime: {values['runtime']} runs the built-in worker only (leave it out, or choose one runtime)"
        yield from islice(refused(("worker-image", "worker-command"), wrong), 1)
        return
    if command and containers and values["worker-image"] is None:
        yield from refused(
            ("worker-command",), "has nothing to run it in (name a worker-image, or set runtime: process)"
        )
    unknown = [mark for word in command for mark in re.findall(r"\{[a-z]+\}", word) if mark not in PLACES]
    if unknown:
        yield from refused(("worker-command",), f"{unknown[0]} is not known (allowed: {', '.join(PLACES)})")
    if not containers:
        yield from refused(CONTAINER_ONLY, "is for containers (leave it out with runtime: process)")
    if values["worker-image"] is not None or command:
        yield from refused(("request-ledger",), "is kept by the built-in worker only (leave it out)")
        if values["fault-point"] == "worker":
            yield from refused(
                BUILTIN_WORKER_ONLY, "acts in the built-in worker only (with a custom service, set fault-point: lb)"
            )
    else:
        own = "is for a custom service (name its worker-image, or with runtime: process its worker-command)"
        yield from refused((key for key in CUSTOM_SERVICE_ONLY if containers or key not in CONTAINER_ONLY), own)


def lb_fault_problems(values: Mapping[str, Any], lines: Mapping[str, int], name: str) -> Iterator[str]:
    """Yield the fault settings that a load balancer cannot inject."""
    named = [worker for worker in values["faults"] if worker != FRONT]
    if values["fault-point"] == FRONT and named:
        yield (
            f"{name}:{lines['faults']}: faults.{named[0]}: acts in a worker or before it (set fault-point: worker or "
            "lb: front goes with both)"
        )
    if values["fault-point"] == "lb":
        for worker, settings in values["faults"].items():
            for key in sorted(set(settings) & set(WORKER_ONLY)):
                yield (
                    f"{name}:{lines['faults']}: faults.{worker}.{key}: acts within the worker (leave it out "
                    "with fault-point: lb)"
                )


def tls_problems(values: Mapping[str, Any], lines: Mapping[str, int], name: str) -> Iterator[str]:
    """Yield settings about TLS that do not go together."""
    pair = {"tls-certificate": "tls-key", "tls-key": "tls-certificate"}
    for key, other in pair.items():
        if values[key] is not None and values["tls"] is not None:
            yield f"{name}:{lines[key]}: {key}: tls: {values['tls']} has its own certificate (leave one of them out)"
        elif values[key] is not None and values[other] is None:
            yield f"{name}:{lines[key]}: {key}: needs {other} (name both files)"


LOOPBACK = r"postgres(?:ql)?://(?:[^@/]*@)?(?:localhost|127\.[0-9.]+|\[::1\])?(?:[:/?]|$)"
SWARM_ONLY = ("registry", "worker-constraints")


def swarm_problems(values: Mapping[str, Any], lines: Mapping[str, int], name: str) -> Iterator[str]:
    """Yield the settings that conflict with workers on other machines, or that need a swarm."""
    stats, own = str(values["stats-dir"]), values["worker-image"] is not None
    if not RUNTIMES[values["runtime"]].remote or not RUNTIMES[values["runtime"]].supervised:
        given = (key for key in SWARM_ONLY if _is_set(key, values, lines))
        yield from (
            f"{name}:{lines[key]}: {key}: is for a swarm (set runtime: swarm, or leave it out)" for key in given
        )
        return
    line, allowed = (lines.get("stats-dir", lines["runtime"]), "postgresql://user:password@host/database")
    if not own and not is_url(stats):
        yield (
            f"{name}:{line}: stats-dir: {stats} is a file, and other machines cannot reach it (allowed with "
            f"runtime: swarm: {allowed})"
        )
    elif not own and re.match(LOOPBACK, stats):
        yield (
            f"{name}:{line}: stats-dir: means a different machine on each node (name the address at which "
            "the nodes reach it)"
        )
    if values["fault-point"] == "worker":
        wrong = (
            "acts through a folder of this machine (leave it out: with runtime: swarm the load balancers bring "
            "faults about)"
        )
        yield f"{name}:{lines['fault-point']}: fault-point: worker {wrong}"
    if any("{name}" in word for word in values["worker-command"]):
        yield (
            f"{name}:{lines['worker-command']}: worker-command: {{name}} is not known to a swarm (the variable "
            "COMET_REPLICA tells it)"
        )
