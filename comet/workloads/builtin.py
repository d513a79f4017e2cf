"""What the config says of a worker, whatever runs it; the runtimes render their replicas from this."""

import functools
import hashlib
import json
import os
import sys
from dataclasses import asdict, replace
from typing import Any

from comet.common.values import url_host
from comet.config.schema import Config
from comet.host.checkout import SOURCES
from comet.reconcile.observations import Endpoint
from comet.reconcile.replica import ManagedReplica, ReplicaSpec
from comet.reconcile.restart_policy import RestartPolicy

CONTAINER_PORT = 8080

WORKER_PIDS = 2100
"""Limit of processes and threads of a container: the most that `worker-threads` allows, and some for other threads."""

AUTO_CAPACITY = 4000
"""Requests in flight that a worker with `worker-threads: auto` takes; more get 503 with `worker is full`."""

BARRIER_GRACE = 2.0
"""Seconds that load balancers may take to apply a table before a draining worker is to end anyway."""


def worker(config: Config, index: int, kind: str, driver: str, launch: Any) -> ManagedReplica:
    """Return a worker that listens on an address of this machine."""
    port = config.port("worker", index)
    unhealthy_grace = (
        max(0, config.health_restart - config.health_fall) * config.health_interval if config.health_restart else None
    )
    spec = ReplicaSpec(
        name=f"worker-{index}",
        role="worker",
        kind=kind,
        driver=driver,
        port=port,
        rank=0,
        start_timeout=config.start_timeout,
        # A custom service may end at once on SIGTERM: its requests in flight must end before.
        drain_grace=max(BARRIER_GRACE, config.shutdown_grace, config.tunnel_grace)
        if config.custom_service
        else BARRIER_GRACE,
        # The worker ends itself within the grace; the seconds beyond it are for a hung one.
        terminate_grace=config.shutdown_grace + 2,
        unhealthy_grace=unhealthy_grace,
        restart=restart_policy(config),
        launch=launch,
    )
    address = reachable(config.worker_host)
    endpoint = Endpoint(address, port, health_path=config.health_path, health_host=config.health_host)
    probe = f"http://{url_host(address)}:{port}{config.health_path}"
    return ManagedReplica(spec, probe=probe, endpoint=endpoint, health_host=config.health_host)


def with_fingerprint(launch: Any, port: int, made_of: str = "") -> Any:
    """Return the launch with a fingerprint of its content, its port, and the code that is `made_of`."""
    content = json.dumps([port, asdict(launch), made_of], sort_keys=True)
    return replace(launch, fingerprint=hashlib.sha256(content.encode()).hexdigest()[:16])


def in_flight_share(config: Config) -> int:
    """Return how many requests each load balancer may have in flight on one worker.

    Together they are no more than a worker takes, unless there are more load balancers than that. Then each may have
    one, and the worker reports that it is full.
    """
    capacity = config.worker_threads if config.worker_threads is not None else AUTO_CAPACITY
    return max(1, capacity // config.pool)


def reachable(host: str) -> str:
    """Return the address to connect to for a listener on `host`: loopback for an unspecified address."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def restart_policy(config: Config) -> RestartPolicy:
    return RestartPolicy(maximum=config.restart_backoff_max, stable=config.restart_stable)


def arguments(config: Config, name: str, listen: str, identity: str, faults: str | None = None) -> tuple[str, ...]:
    # Workers with the same seed would all fail at the same request number: each gets the next seed.
    seed = () if config.seed is None else ("--seed", str(config.seed + int(name.rpartition("-")[2])))
    threads = "auto" if config.worker_threads is None else str(config.worker_threads)
    file = () if faults is None else ("--faults", faults)
    request_ledger = ("--request-ledger",) if config.request_ledger else ()
    return (
        "--listen", listen, "--name", name, "--identity", identity, "--threads", threads, *file, *seed, *request_ledger,
        "--grace", f"{config.shutdown_grace:g}",
    )  # fmt: skip


@functools.cache
def code_digest(package: str) -> str:
    """Return a hash of a package's sources, of the faults that it may inject, and of the Python that runs them.

    A process with another hash is replaced at the next `run`.
    """
    digest = hashlib.sha256(sys.version.encode())
    for folder in (package, "fault_rules"):
        for path in sorted((SOURCES / folder).rglob("*.py")):
            digest.update(os.fsencode(path.relative_to(SOURCES)) + path.read_bytes())
    return digest.hexdigest()[:16]
