"""Renders a worker that is a process."""

import sys

from comet.common.values import url_host
from comet.config.schema import Config
from comet.reconcile.replica import ManagedReplica
from comet.runtimes.cluster_processes import WORKER_DRIVER
from comet.runtimes.interface import RenderContext
from comet.runtimes.process import custom_service
from comet.runtimes.process.exec_launcher import ExecLaunch
from comet.statistics.database import worker_environment
from comet.workloads import builtin
from comet.workloads.builtin import arguments


def worker(config: Config, context: RenderContext, index: int) -> ManagedReplica:
    """Return the worker with this number."""
    name, port = f"worker-{index}", config.port("worker", index)
    if config.custom_service:
        launch, made_of = custom_service.exec_launch(config, name, port, context.owner), ""
    else:
        launch, made_of = _builtin_launch(config, context, name, port), builtin.code_digest("worker_app")
    return builtin.worker(config, index, "process", WORKER_DRIVER, builtin.with_fingerprint(launch, port, made_of))


def _builtin_launch(config: Config, context: RenderContext, name: str, port: int) -> ExecLaunch:
    faults = str(context.cluster.path("faults"))
    options = arguments(config, name, f"{url_host(config.worker_host)}:{port}", "process", f"{faults}/{name}.json")
    return ExecLaunch(
        argv=(sys.executable, "-m", "worker_app", *options, "--memory", str(config.worker_memory)),
        environment=worker_environment(context.database.environment),
        owner=context.owner,
        cwd="/",
        fingerprint="",
        needs=(*context.database.mounts, (faults, faults, True)),
        umask=0o077,
        memory=config.worker_memory,
        limits_itself=True,
    )
