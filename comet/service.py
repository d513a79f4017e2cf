"""Workers that are somebody's own service: an image, or a command line, run as it stands.

Comet asks nothing of such a service but that it speaks HTTP/1.1 where it is told to listen, and that a GET of `health-path` is answered
with a status from 200 to 399. It is told where by the words {host}, {port} and {name} of its command line and by the variables HOST, PORT
and COMET_REPLICA. A command line without {port} is given the listening socket itself, as descriptor 3, in the manner of
sd_listen_fds(3) (LISTEN_FDS, LISTEN_PID): the supervisor holds that socket, so connections wait while the service is started again.
"""

import grp
import os
import pwd
from pathlib import Path

from comet.cluster import Owner
from comet.config import Config
from comet.drivers.container import ContainerLaunch
from comet.drivers.execute import ExecLaunch
from comet.errors import UserError
from comet.servicespec import TASK_NAME, ServiceLaunch

ANY = "0.0.0.0"
"""A container's service listens on all addresses of its own network."""


def contained(config: Config, image: str, name: str, cluster_folder: Path) -> ContainerLaunch:
    """The container of a service whose `image` is an id; UserError: a volume's source is not there."""
    port = config.worker_target_port
    return ContainerLaunch(
        image=image,
        arguments=filled(config.worker_command, ANY, port, name),
        environment=_variables(config, ANY, port, name),
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


def placed(config: Config, image: str) -> ServiceLaunch:
    """The swarm's tasks of a service of one's own. Volumes are folders of whatever node a task comes to run on."""
    port = config.worker_target_port
    return ServiceLaunch(
        image=image,
        arguments=filled(config.worker_command, ANY, port, ""),
        environment=_variables(config, ANY, port, TASK_NAME),
        user=config.worker_user or "",
        port=port,
        mounts=tuple((_absolute(config.folder, source), target, read_only) for source, target, read_only in config.worker_volumes),
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


def executed(config: Config, name: str, port: int, owner: Owner) -> ExecLaunch:
    """The process of a service. It sees the environment that Comet was started in, and runs in the config's folder."""
    host = config.worker_host
    held = not any("{port}" in word for word in config.worker_command)
    return ExecLaunch(
        argv=filled(config.worker_command, host, port, name),
        environment=_variables(config, host, port, name),
        owner=_owner(config, owner),
        cwd=str(config.folder),
        fingerprint="",
        listen=(host, port) if held else None,
        inherit=True,
    )


def filled(words: tuple[str, ...], host: str, port: int, name: str) -> tuple[str, ...]:
    """The command line with its places filled in. An IPv6 host gets its brackets."""
    address = f"[{host}]" if ":" in host else host
    values = {"{host}": address, "{port}": str(port), "{name}": name}
    found = []
    for word in words:
        for place, value in values.items():
            word = word.replace(place, value)
        found.append(word)
    return tuple(found)


def _owner(config: Config, usual: Owner) -> Owner:
    """Who a process is to run as: `worker-user`, by names or numbers, else the usual one. UserError: there is no such user, or it takes
    root to become him."""
    if config.worker_user is None:
        return usual
    name, _, group_name = config.worker_user.partition(":")
    where = f"{config.path.name}:{config.lines.get('worker-user', 1)}: worker-user"
    try:
        user = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
        uid, gid = user.pw_uid, user.pw_gid
    except KeyError:
        if not name.isdigit():
            raise UserError(f"{where}: there is no user {name} on this machine (allowed: its users, or numbers)", 2) from None
        uid = gid = int(name)
    try:
        gid = gid if not group_name else int(group_name) if group_name.isdigit() else grp.getgrnam(group_name).gr_gid
    except KeyError:
        raise UserError(f"{where}: there is no group {group_name} on this machine (allowed: its groups, or numbers)", 2) from None
    if os.getuid() and (uid, gid) != (os.getuid(), os.getgid()):
        raise UserError(f"{where}: only root can run processes as another user (leave it out, or run Comet as root)", 2)
    return Owner(uid, gid)


def _variables(config: Config, host: str, port: int, name: str) -> dict[str, str]:
    return {"HOST": host, "PORT": str(port), "COMET_REPLICA": name, **dict(config.worker_environment)}


def _mount(config: Config, folder: Path, source: str, target: str, read_only: bool) -> tuple[str, str, bool]:
    path = Path(_absolute(folder, source))
    if not path.exists():
        line = config.lines.get("worker-volumes", 1)
        raise UserError(f"{config.path.name}:{line}: worker-volumes: {path} does not exist (allowed: files and folders of this machine)", 2)
    return (str(path), target, read_only)


def _absolute(folder: Path, source: str) -> str:
    return os.path.abspath(folder / Path(source).expanduser())
