"""Renders a worker that is a container."""

from pathlib import Path

from comet.common.errors import UserError
from comet.config.schema import Config
from comet.reconcile.replica import ManagedReplica
from comet.runtimes.docker.container_spec import ContainerLaunch
from comet.runtimes.docker.finder import DRIVER, KIND
from comet.runtimes.docker.network import network_name
from comet.runtimes.interface import RenderContext
from comet.workloads import builtin
from comet.workloads.builtin import CONTAINER_PORT, WORKER_PIDS, arguments
from comet.workloads.custom import ANY_HOST, absolute, fill_placeholders, variables


def worker(config: Config, context: RenderContext, index: int) -> ManagedReplica:
    """Return the worker with this number."""
    name, port = f"worker-{index}", config.port("worker", index)
    assert context.image is not None
    launch = (
        _custom_launch(config, context.image, name, config.folder)
        if config.custom_service
        else _builtin_launch(config, context, context.image, name)
    )
    return builtin.worker(config, index, KIND, DRIVER, builtin.with_fingerprint(launch, port))


def _builtin_launch(config: Config, context: RenderContext, image: str, name: str) -> ContainerLaunch:
    return ContainerLaunch(
        image=image,
        arguments=arguments(config, name, f"{ANY_HOST}:{CONTAINER_PORT}", "container", f"/faults/{name}.json"),
        environment={**context.database.environment, "COMET_REPLICA": name},
        user=f"{context.owner.uid}:{context.owner.gid}",
        host=config.worker_host,
        container_port=CONTAINER_PORT,
        mounts=(*context.database.mounts, (str(context.cluster.path("faults")), "/faults", True)),
        memory=config.worker_memory,
        pids=WORKER_PIDS,
        fingerprint="",
        hosts_user=True,
        network=network_name(context.cluster.id or "", context.database.outward),
    )


def _custom_launch(config: Config, image: str, name: str, cluster_folder: Path) -> ContainerLaunch:
    """Return the container of a service whose `image` is an id; UserError where a volume's source does not exist."""
    port = config.worker_target_port
    return ContainerLaunch(
        image=image,
        arguments=fill_placeholders(config.worker_command, ANY_HOST, port, name),
        environment=variables(config, ANY_HOST, port, name),
        user=config.worker_user or "",
        host=config.worker_host,
        container_port=port,
        mounts=tuple(_mount(config, cluster_folder, *volume) for volume in config.worker_volumes),
        memory=config.worker_memory,
        pids=config.worker_pids,
        fingerprint="",
        confined=False,
        read_only=config.worker_read_only,
        cpus=config.worker_cpus,
    )


def _mount(config: Config, folder: Path, source: str, target: str, read_only: bool) -> tuple[str, str, bool]:
    path = Path(absolute(folder, source))
    if not path.exists():
        line = config.lines.get("worker-volumes", 1)
        raise UserError(
            f"{config.path.name}:{line}: worker-volumes: {path} does not exist (allowed: files and folders of this "
            "machine)",
            2,
        )
    return (str(path), target, read_only)
