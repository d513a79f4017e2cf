"""Renders the workers' Swarm service; all its tasks have one specification."""

from dataclasses import replace

from comet.config.schema import Config
from comet.reconcile.replica import HERE, ManagedReplica
from comet.reconcile.restart_policy import RestartPolicy
from comet.runtimes.interface import RenderContext
from comet.runtimes.swarm.finder import DRIVER, KIND
from comet.runtimes.swarm.service_spec import TASK_NAME, ServiceLaunch
from comet.state.directory import WORKER_UID
from comet.workloads import builtin
from comet.workloads.builtin import CONTAINER_PORT, WORKER_PIDS, arguments
from comet.workloads.custom import ANY_HOST, absolute, fill_placeholders, variables

CHECK = r"""import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5) as peer:
    hosts = [f"Host: {host}" for host in sys.argv[3:]]
    peer.sendall("\r\n".join([f"GET {sys.argv[2]} HTTP/1.0", *hosts, "", ""]).encode())
    sys.exit(not peer.recv(64).split()[1].startswith((b"2", b"3")))"""
"""The health check that a node's engine runs within a task, with no more of Python than that takes."""

DRAIN_DELAY = 1.5
"""Seconds for which a task that the swarm stops still accepts connections.

Within them the supervisor reads the manager, and the load balancers learn of the stop.
"""

MAX_RETRIES = 1_000_000
"""Failed checks in a row that never happen: the swarm then restarts no task for its health."""

CHECK_TIMEOUT = 5.0
"""Seconds that such a check may take: unlike the load balancers', it starts a process, and the machine may be busy."""


def worker(config: Config, context: RenderContext, index: int) -> ManagedReplica:
    """Return the worker with this number."""
    assert context.image is not None
    launch = (
        _custom_launch(config, context.image)
        if config.custom_service
        else _builtin_launch(config, context, context.image)
    )
    member = builtin.worker(config, index, KIND, DRIVER, builtin.with_fingerprint(launch, 0))
    # A swarm checks and restarts its tasks itself: here they are only waited for.
    policy = RestartPolicy(first=0.0, maximum=0.0, stable=config.restart_stable)
    spec = replace(member.spec, unhealthy_grace=None, restart=policy)
    return ManagedReplica(spec, probe=f"http://{HERE}{config.health_path}", health_host=config.health_host)


def _health_check_options(config: Config) -> tuple[str, ...]:
    return (config.health_path,) if config.health_host is None else (config.health_path, config.health_host)


def _builtin_launch(config: Config, context: RenderContext, image: str) -> ServiceLaunch:
    return ServiceLaunch(
        image=image,
        arguments=(
            *arguments(config, "worker", f"{ANY_HOST}:{CONTAINER_PORT}", "container"),
            "--no-faults",
            "--linger",
            f"{DRAIN_DELAY:g}",
        ),
        environment={**context.database.environment, "COMET_REPLICA": TASK_NAME},
        user=f"{WORKER_UID}:{WORKER_UID}",
        port=CONTAINER_PORT,
        mounts=(),
        memory=config.worker_memory,
        pids=WORKER_PIDS,
        grace=config.shutdown_grace + DRAIN_DELAY,
        fingerprint="",
        health=("python3", "-I", "-S", "-c", CHECK, str(CONTAINER_PORT), *_health_check_options(config)),
        health_interval=config.health_interval,
        health_timeout=max(config.health_timeout, CHECK_TIMEOUT),
        health_retries=config.health_restart or MAX_RETRIES,
        start_timeout=config.start_timeout,
        constraints=config.worker_constraints,
        secret=context.database.secret,
    )


def _custom_launch(config: Config, image: str) -> ServiceLaunch:
    """Return the swarm service of a custom service. Volumes are folders of the node on which a task runs."""
    port = config.worker_target_port
    return ServiceLaunch(
        image=image,
        arguments=fill_placeholders(config.worker_command, ANY_HOST, port, ""),
        environment=variables(config, ANY_HOST, port, TASK_NAME),
        user=config.worker_user or "",
        port=port,
        mounts=tuple(
            (absolute(config.folder, source), target, read_only) for source, target, read_only in config.worker_volumes
        ),
        memory=config.worker_memory,
        pids=config.worker_pids,
        grace=config.shutdown_grace,
        fingerprint="",
        start_timeout=config.start_timeout,
        constraints=config.worker_constraints,
        confined=False,
        read_only=config.worker_read_only,
        cpus=config.worker_cpus,
    )
