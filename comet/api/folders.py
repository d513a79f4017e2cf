"""Keeps the folders of clusters that belong to a process, and clears away those whose process is dead.

A folder's name says whose it is: PID and time of birth of its process, and the boot of the machine. A process that is
killed takes its clusters with it, because their supervisors watch it; but its folders stay. And where the supervisors
were killed too, so do replicas. The next process that makes a cluster ends and removes both.
"""

import contextlib
import os
import re
import secrets
import shutil
import stat
import tempfile
from pathlib import Path

from comet.common.errors import UserError
from comet.host import process_identity
from comet.state.directory import Cluster
from comet.state.lock import Lock

_NAME = re.compile(r"([0-9]{1,7})-([0-9]{1,20})-([0-9a-f]{8})-[0-9a-f]{8}")


def made() -> Path:
    """Return a new folder of this process; clear away what dead processes left. UserError where it cannot be made."""
    place = _place()
    for name in os.listdir(place):
        if _is_abandoned(name):
            with contextlib.suppress(UserError, OSError):
                _clear(place / name)
    folder = place / f"{_owner(os.getpid())}-{secrets.token_hex(4)}"
    folder.mkdir(0o700)
    return folder


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _place() -> Path:
    """Return the folder of all such folders of this user; nobody else may write to it."""
    place = Path(tempfile.gettempdir()).absolute() / f"comet-{os.getuid()}"
    try:
        place.mkdir(0o700, exist_ok=True)
        found = os.lstat(place)
    except OSError as error:
        raise UserError(f"{place}: cannot be made: {error.strerror} (set TMPDIR to a folder of yours)") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise UserError(f"{place}: is not a folder of this user alone; remove it, or set TMPDIR to a folder of yours")
    return place


def _owner(pid: int) -> str:
    return f"{pid}-{_ticks(process_identity.birth_of(pid))}-{process_identity.boot_id()[:8]}"


def _ticks(birth: float) -> int:
    return round(birth * process_identity.CLOCK_TICKS)


def _is_abandoned(name: str) -> bool:
    """Return whether this is the folder of a process that is dead."""
    match = _NAME.fullmatch(name)
    if match is None:
        return False
    owner = process_identity.process(int(match[1]))
    same_boot = match[3] == process_identity.boot_id()[:8]
    return owner is None or not owner.alive or not same_boot or _ticks(owner.birth) != int(match[2])


def _clear(folder: Path) -> None:
    """End what runs of an abandoned cluster, and remove its folder."""
    cluster = Cluster(folder)
    if Lock(cluster).holder() is not None:
        return  # It is just stopping.
    end_rest(cluster)
    remove(folder)


def end_rest(cluster: Cluster) -> None:
    """End at once what is alive of a cluster whose supervisor is dead."""
    from comet.engine.clients import Engines
    from comet.runtimes import discovery  # With it comes the engine's SDK, which is needed here only.

    discovery.recognize(cluster)
    if cluster.id is None:
        return
    with contextlib.closing(Engines()) as engines:
        for _ in discovery.end(cluster, discovery.find(cluster, engines), engines, 0.0):
            pass
