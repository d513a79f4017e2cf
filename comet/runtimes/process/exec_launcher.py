"""Starts process workers as the worker's user, without any capability, in their own session.

Root's workers run as uid 10001. The built-in worker sees what it needs of closed directories under the same paths (see
`confine`). A custom service gets no such view: it reaches what its user reaches.
"""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from comet.common.errors import UserError
from comet.events import exit_markers
from comet.events.event import Event
from comet.host import confinement, port_owners, process_setup
from comet.host.confinement import Mount
from comet.host.files import Directory
from comet.host.sockets import Listeners
from comet.reconcile.replica import ReplicaSpec
from comet.runtimes.process import memory_limits
from comet.runtimes.process.driver import Launched
from comet.state.directory import Cluster, Owner

KEEP_LOG_BYTES = 10 << 20


@dataclass(frozen=True)
class ExecLaunch:
    """A command line with its environment, user and limits.

    The environment is complete except for the variables that mark it as ours or, with `inherit`, is added to the one
    that Comet was started in. `listen` is the address whose listening socket the process is given. `needs` is what it
    must reach (see `confine`). `memory` limits it together with all that it starts (bytes; None: no limit), unless no
    control group can be made and it `limits_itself`. With a `umask` of -1 it has ours. `fingerprint` changes whenever a
    process made earlier must be replaced.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    owner: Owner
    cwd: str
    fingerprint: str
    listen: tuple[str, int] | None = None
    inherit: bool = False
    needs: tuple[Mount, ...] = ()
    umask: int = -1
    memory: int | None = None
    limits_itself: bool = False


TAKE_SOCKET = "exec 3<&0 </dev/null; export LISTEN_PID=$$"
"""Moves the socket from the shell's input to descriptor 3, and sets LISTEN_PID to the process that it is for.

Descriptor 3 is the first that sd_listen_fds(3) uses.
"""

AWAIT_LIMIT = "read -r go <&1 || exit 125; exec >&2"
"""Waits for a line from the pipe that is the shell's output.

Until then no memory is counted, and no process is started, outside of the limit.
"""

LIMITED_VARIABLE = "COMET_MEMORY_GROUP"
"""The environment variable that says to the built-in worker that it need not watch its own memory."""


class ExecLauncher:
    """Makes processes from command lines; their output goes to `.comet/logs/NAME.log`."""

    def __init__(self, cluster: Cluster, listeners: Listeners, notify: Callable[[Event], None]) -> None:
        self._notify = notify
        self._running: dict[str, tuple[int, ReplicaSpec]] = {}
        """PID and specification of each process that was made here and lives."""
        self._left_background: dict[str, tuple[str, ...]] = {}
        """The command line with which a replica last left processes in the background."""
        self._cluster = cluster
        self._listeners = listeners
        self._groups = memory_limits.MemoryGroups(cluster.id or "")
        # Read now, before the forkserver is prepared, which changes the environment.
        self._inherited = {
            name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("COMET_")
        }

    def launch(self, spec: ReplicaSpec, instance: int) -> Launched:
        launch: ExecLaunch = spec.launch
        self._cluster.require_in_place()
        self._groups.sweep()
        # setproctitle, which many servers use, would write a title over the environment, and so over the mark.
        environment = (
            ({"SPT_NOENV": "1"} | self._inherited if launch.inherit else {})
            | dict(launch.environment)
            | {"COMET_CLUSTER": self._cluster.id or "", "COMET_FOLDER": self._cluster.mark, "COMET_REPLICA": spec.name}
        )
        group = self._groups.make(spec.name, launch.memory) if launch.memory is not None else None
        limit = None if group is None and launch.limits_itself else launch.memory
        if group is not None and launch.limits_itself:
            environment[LIMITED_VARIABLE] = "1"
        # The built-in worker has hardly begun when its limit is set; a shell would only delay it.
        waits = limit is not None and not launch.limits_itself
        steps, stdin = [], subprocess.DEVNULL
        if waits:
            steps.append(AWAIT_LIMIT)
        if launch.listen is not None:
            steps.append(TAKE_SOCKET)
            stdin = self._listeners[spec.name].fileno()
            os.set_blocking(stdin, True)  # The program before may have changed it: the flag is the socket's.
            environment["LISTEN_FDS"] = "1"
        argv = ("sh", "-c", "; ".join((*steps, 'exec "$@"')), "sh", *launch.argv) if steps else launch.argv
        exit_markers.append_unobserved(self._cluster, spec.name)
        with open_log(self._cluster.path("logs", f"{spec.name}.log")) as log, _Gate() as gate:
            _allow_reopening(log, launch)
            try:
                process = confinement.spawn(
                    argv,
                    launch.owner,
                    launch.needs,
                    stdin=stdin,
                    stdout=gate.reader if waits else log,
                    stderr=log,
                    cwd=launch.cwd,
                    env=environment,
                    umask=process_setup.inherited.umask if launch.inherit else launch.umask,
                    start_new_session=True,
                )
            except PermissionError as error:
                raise UserError(
                    f"uid {launch.owner.uid} may not run {error.filename or argv[0]} (worker-user names who may)"
                ) from None
            if limit is not None:
                group = _limit_memory(process, group, limit)
            if waits:
                gate.open()
        self._running[spec.name] = process.pid, spec
        return Launched(process.pid, process.poll, group=group, leads_session=True)

    def drain(self, name: str, grace: float) -> bool:
        """Do nothing: the router has the load balancers drain the replica, and reports when that is done."""
        return True

    def on_exit(self, name: str, instance: int) -> None:
        if name in self._running:
            _, spec = self._running.pop(name)
            sessions = {pid for pid, _ in self._running.values()}
            left = port_owners.end_background(self._cluster.id or "", name, spec.port, sessions)
            if left:  # It would hold the port of the next start.
                self._notify(Event("left_in_background", name, {"reason": ", ".join(map(str, left))}))
                self._left_background[name] = spec.launch.argv
        self._groups.sweep()

    def leaves_background(self, spec: ReplicaSpec) -> bool:
        """Whether a life of the replica with this command line ended and left processes in the background."""
        return bool(spec.launch.argv == self._left_background.get(spec.name))

    def release(self, name: str) -> None:
        self._listeners.release(name)
        # A later replica of this name begins without a past.
        self._left_background.pop(name, None)

    def rename(self, former: str, name: str) -> None:
        if former in self._running:
            self._running[name] = self._running.pop(former)
        self._left_background.pop(name, None)
        if former in self._left_background:
            self._left_background[name] = self._left_background.pop(former)

    def close(self) -> None:
        self._groups.sweep()


class _Gate:
    """A pipe whose reader waits until it is opened, and gives up where it is closed before that."""

    def __enter__(self) -> "_Gate":
        self.reader, self._writer = os.pipe()
        return self

    def open(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # The process has been killed meanwhile.
            os.write(self._writer, b"\n")

    def __exit__(self, *_: object) -> None:
        os.close(self.reader)
        os.close(self._writer)


def _limit_memory(process: "subprocess.Popen[bytes]", group: Path | None, limit: int) -> Path | None:
    """Limit the memory of a process that waits for that; return the group that it is in.

    UserError: it cannot be limited, and was ended.
    """
    for place in (group, None) if group is not None else (None,):
        try:
            memory_limits.confine(process.pid, place, limit)
        except ProcessLookupError:
            return None  # The process has ended.
        except OSError as error:
            reason = error.strerror
        else:
            return place
    process.kill()
    process.wait()
    raise UserError(f"its memory cannot be limited: {reason} (worker-memory)")


def open_log(path: Path) -> IO[bytes]:
    """Open a replica's log for appending.

    A log over KEEP_LOG_BYTES is renamed to `.1` first, so that two files bound what is kept.
    """
    with Directory.of(path.parent) as folder:
        found = folder.lstat(path.name)
        if found is not None and found.st_size > KEEP_LOG_BYTES:
            folder.replace(path.name, f"{path.name}.1")
        return os.fdopen(folder.append(path.name), "ab")


def _allow_reopening(log: IO[bytes], launch: ExecLaunch) -> None:
    """Let a custom service of another user open its output again, as /dev/stdout or /dev/stderr.

    Access is through the file's group, and for writing only. The file stays ours: its owner could change its mode, or
    give it a second name elsewhere.
    """
    if os.getuid() == 0:
        os.fchown(log.fileno(), -1, launch.owner.gid if launch.inherit else os.getgid())
        os.fchmod(log.fileno(), 0o620 if launch.inherit else 0o600)


def trim(paths: Iterable[Path]) -> None:
    """Bound logs while they are written to.

    The last part of a log over KEEP_LOG_BYTES is copied to `.1`, and the file is truncated to nothing. A process that
    appends goes on at the new end. A line written at just this moment may be lost, as with logrotate's copytruncate.
    """
    for path in paths:
        with contextlib.suppress(OSError), Directory.of(path.parent) as folder:
            size = folder.check(path.name).st_size
            if size <= KEEP_LOG_BYTES:
                continue
            with os.fdopen(folder.open(path.name, os.O_RDWR), "r+b") as log:
                with contextlib.suppress(OSError):  # Truncate even when the disk is full.
                    folder.write(f"{path.name}.1", os.pread(log.fileno(), KEEP_LOG_BYTES, size - KEEP_LOG_BYTES))
                os.ftruncate(log.fileno(), 0)
