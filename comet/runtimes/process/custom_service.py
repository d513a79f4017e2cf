"""Renders the process of a custom service, and checks that its user can reach what it needs."""

import contextlib
import grp
import os
import pwd
from collections.abc import Iterator, Sequence

from comet.common.errors import UserError
from comet.config.schema import Config
from comet.host import confinement
from comet.runtimes.process.exec_launcher import ExecLaunch
from comet.state.directory import Owner
from comet.workloads.custom import fill_placeholders, variables

KERNEL_FOLDERS = ("/dev/", "/proc/", "/sys/")
"""Folders in which names mean something else to each process."""


def exec_launch(config: Config, name: str, port: int, owner: Owner) -> ExecLaunch:
    """Return the process of a service.

    It inherits the environment that Comet was started in, and runs in the config's folder. Raises UserError where its
    user does not exist, or cannot reach the folder or the program.
    """
    host = config.worker_host
    held = not any("{port}" in word for word in config.worker_command)
    argv, user = fill_placeholders(config.worker_command, host, port, name), _owner(config, owner)
    if os.getuid() == 0:
        _require_reachable(config, argv, user)
    return ExecLaunch(
        argv=argv,
        environment={**variables(config, host, port, name), **_home_folder(config, user)},
        owner=user,
        cwd=str(config.folder),
        fingerprint="",
        listen=(host, port) if held else None,
        inherit=True,
        # The default suits the built-in worker; only a config knows what a custom command needs.
        memory=config.worker_memory if "worker-memory" in config.lines else None,
    )


def _owner(config: Config, usual: Owner) -> Owner:
    """Return the user that a process runs as: `worker-user`, by names or numbers, else `usual`.

    Raises UserError where there is no such user, or only root could run processes as it.
    """
    if config.worker_user is None:
        return usual
    name, _, group_name = config.worker_user.partition(":")
    where = f"{config.path.name}:{config.lines.get('worker-user', 1)}: worker-user"
    try:
        user = pwd.getpwuid(int(name)) if _is_id(name) else pwd.getpwnam(name)
        uid, gid = user.pw_uid, user.pw_gid
    except KeyError:
        if not _is_id(name):
            raise UserError(
                f"{where}: there is no user {name} on this machine (allowed: its users, or numbers)", 2
            ) from None
        uid = gid = int(name)
    try:
        gid = gid if not group_name else int(group_name) if _is_id(group_name) else grp.getgrnam(group_name).gr_gid
    except KeyError:
        raise UserError(
            f"{where}: there is no group {group_name} on this machine (allowed: its groups, or numbers)", 2
        ) from None
    if os.getuid() and (uid, gid) != (os.getuid(), os.getgid()):
        raise UserError(f"{where}: only root can run processes as another user (leave it out, or run Comet as root)", 2)
    return Owner(uid, gid)


def _require_reachable(config: Config, argv: Sequence[str], user: Owner) -> None:
    """Raise UserError if the service's user cannot reach the folder, the program, or a file on the command line."""
    folder = str(config.folder)
    path = dict(config.worker_environment).get("PATH") or os.environ.get("PATH") or os.defpath
    for place, right in ((folder, confinement.EXECUTE), *_files(argv, folder, path, user)):
        with contextlib.suppress(OSError):  # The start itself reports what is missing or changing.
            closed = confinement.obstacle(place, user, right)
            if closed is not None:
                key = "worker-user" if "worker-user" in config.lines else "worker-command"
                at = "" if closed == place else f": {closed} is closed to it"
                raise UserError(
                    f"{config.path.name}:{config.lines.get(key, 1)}: worker-command: uid {user.uid} cannot reach "
                    f"{place}{at} "
                    "(set worker-user to a user who can, or change its mode)",
                    2,
                )


def _files(argv: Sequence[str], folder: str, path: str, user: Owner) -> Iterator[tuple[str, int]]:
    """Yield the files that a command line needs, each with the required right.

    These are the program, its interpreter, and arguments that name a file.
    """
    program = _program(argv[0], folder, path, user)
    if program is not None:
        yield program, confinement.EXECUTE
        with contextlib.suppress(OSError), open(program, "rb") as file:
            first = file.readline(256)
        words = os.fsdecode(first[2:]).split() if first.startswith(b"#!") else []
        if words:
            yield program, confinement.READ
            if os.path.basename(words[0]) == "env" and len(words) == 2:
                words[0] = _program(words[1], folder, path, user) or words[0]
            yield words[0], confinement.EXECUTE
    for word in argv[1:]:
        named = os.path.join(folder, word)
        if not named.startswith(KERNEL_FOLDERS) and os.path.isfile(named):
            yield named, confinement.READ


def _program(word: str, folder: str, path: str, user: Owner) -> str | None:
    """Return what execvp(3) finds for this user, else a program that the user may not run, None for nothing at all."""
    places = [word] if "/" in word else [os.path.join(each, word) for each in path.split(os.pathsep)]
    found = [place for each in places if os.path.isfile(place := os.path.join(folder, each))]
    for place in found:
        with contextlib.suppress(OSError):
            if confinement.obstacle(place, user, confinement.EXECUTE) is None:
                return place
    return found[0] if found else None


def _home_folder(config: Config, user: Owner) -> dict[str, str]:
    """Return the variables that identify the process's user, where it is not the supervisor's.

    They are those that su(1) and systemd set.
    """
    if user.uid == os.getuid():
        return {}
    try:
        entry = pwd.getpwuid(user.uid)
        defaults = {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}
    except KeyError:
        defaults = {"HOME": "/", "USER": str(user.uid), "LOGNAME": str(user.uid)}
    given = dict(config.worker_environment)
    return {name: given.get(name, value) for name, value in defaults.items()}


def _is_id(name: str) -> bool:
    """Whether this is a user's or group's number; the highest number means no user (chown(2))."""
    return name.isascii() and name.isdigit() and len(name) <= 10 and int(name) < 2**32 - 1
