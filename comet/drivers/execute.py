"""How process workers come into being: executed, as the worker's user, in a session of their own.

Root's workers run as uid 10001. That user cannot enter `.comet/` (mode 0700), nor perhaps the folders that the interpreter lies in, so
setpriv(1) leaves one capability, CAP_DAC_READ_SEARCH: it may pass and read, and write only what is its own.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from comet.cluster import Cluster, Owner
from comet.drivers.process import Launched
from comet.errors import UserError
from comet.listeners import Listeners
from comet.replica import ReplicaSpec

KEEP_LOG_BYTES = 1 << 20


@dataclass(frozen=True)
class ExecLaunch:
    """A command line and its environment: complete but for what marks it as ours or, with `inherit`, added to the one that Comet was
    started in. `listen` is the address whose listening socket it is given; `fingerprint` changes whenever a process made earlier would
    no longer do."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    owner: Owner
    cwd: str
    fingerprint: str
    listen: tuple[str, int] | None = None
    inherit: bool = False


def as_owner(argv: tuple[str, ...], owner: Owner) -> tuple[str, ...]:
    """The command line that runs `argv` as `owner`; UserError where that would need a tool that is missing."""
    if os.getuid() == owner.uid:
        return argv
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise UserError("workers as processes of another user need setpriv; install util-linux, or do not run as root")
    ids = (f"--reuid={owner.uid}", f"--regid={owner.gid}", "--clear-groups", "--no-new-privs")
    rights = ("--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search", "--bounding-set=-all,+dac_read_search")
    return (setpriv, *ids, *rights, "--", *argv)


TAKES_SOCKET = ("sh", "-c", 'exec 3<&0 </dev/null; LISTEN_PID=$$ exec "$@"', "sh")
"""Moves the socket that it finds as its input to descriptor 3, the first that sd_listen_fds(3) knows, and says whose it is."""


class ExecLauncher:
    """Makes processes from command lines. Their output goes to `.comet/logs/NAME.log`."""

    def __init__(self, cluster: Cluster, listeners: Listeners) -> None:
        self._cluster = cluster
        self._listeners = listeners
        # As it is now, before the forkserver is prepared, which changes it.
        self._inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def launch(self, spec: ReplicaSpec, instance: int) -> Launched:
        launch: ExecLaunch = spec.launch
        environment = (
            (self._inherited if launch.inherit else {})
            | dict(launch.environment)
            | {"COMET_CLUSTER": self._cluster.id or "", "COMET_REPLICA": spec.name}
        )
        argv, given = launch.argv, subprocess.DEVNULL
        if launch.listen is not None:
            argv, given = (*TAKES_SOCKET, *argv), self._listeners[spec.name].fileno()
            environment["LISTEN_FDS"] = "1"
        with open_log(self._cluster.path("logs", f"{spec.name}.log")) as log:
            process = subprocess.Popen(
                as_owner(argv, launch.owner),
                stdin=given,
                stdout=log,
                stderr=log,
                cwd=launch.cwd,
                env=environment,
                start_new_session=True,
            )
        return Launched(process.pid, partial(_status, process))

    def drain(self, name: str, grace: float) -> bool:
        return False

    def gone(self, name: str, instance: int) -> None:
        return

    def release(self, name: str) -> None:
        self._listeners.release(name)

    def rename(self, former: str, name: str) -> None:
        return

    def close(self) -> None:
        return


def open_log(path: Path) -> IO[bytes]:
    """Open a replica's log for appending; a grown one is put aside as `.1` first, so that two files bound what is kept."""
    try:
        if path.stat().st_size > KEEP_LOG_BYTES:
            path.replace(path.with_name(f"{path.name}.1"))
    except FileNotFoundError:
        pass
    return path.open("ab")


def trim(paths: Iterable[Path]) -> None:
    """Bound logs under their writers' hands: of a grown one the last MiB is put aside as `.1` and the file cut to nothing. Who appends
    goes on at its new end; a line written in just this moment may be lost, as with logrotate's copytruncate."""
    for path in paths:
        with contextlib.suppress(OSError):
            size = path.stat().st_size
            if size <= KEEP_LOG_BYTES:
                continue
            with contextlib.suppress(OSError), path.open("rb") as log:  # A full disk: cut all the same.
                log.seek(size - KEEP_LOG_BYTES)
                aside = path.with_name(f"{path.name}.1")
                aside.write_bytes(log.read(KEEP_LOG_BYTES))
            os.truncate(path, 0)


def _status(process: "subprocess.Popen[bytes]") -> int | None:
    """The exit status of what has ended, with all that it leaves in its session ended as well.

    Until it is reaped its PID, and so the number of its process group, can be nobody else's.
    """
    if process.returncode is None and os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.poll()
