"""Starts a supervisor: in the foreground, or in a session of its own that outlives the command."""

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from comet.api.background import BackgroundSupervisor
from comet.common.errors import UserError
from comet.config.schema import Config
from comet.events.event import visible
from comet.host.process_identity import is_being_killed
from comet.host.process_setup import shortages
from comet.state.directory import Cluster
from comet.state.lock import DEATH_TIMEOUT, Lock
from comet.state.lock_holders import Holder
from comet.terminal.messages import Display

NO_THREAD = "can't start new thread"
"""What Python says of a thread that the system refuses."""


def supervise(config: Config, cluster: Cluster, make_display: Callable[[], Display], owner: int | None = None) -> int:
    """Run a supervisor in this process; `owner` is a pidfd of the process with which it ends."""
    # Imported here, not at the top: no other command needs the engine's SDK, the forkserver or the load balancer's
    # code.
    from setproctitle import setproctitle

    from comet.runtimes.process.driver import become_subreaper
    from comet.supervisor.lifecycle import Run

    lock = Lock(cluster)
    if not lock.acquire():
        raise already_running(config.folder, lock.find_holder())
    cluster.create()  # It may have been removed since the command created it.
    cluster.keep_id(cluster.id or "")
    # The title is one line of valid text; a path need not be.
    setproctitle(visible(f"comet: supervisor {config.path}".encode(errors="replace").decode()))
    # multiprocessing reads the working folder whenever it starts a load balancer, and any other folder may be removed
    # while the supervisor runs.
    os.chdir(config.folder)
    become_subreaper()

    display = make_display()
    for lack in shortages():
        display.show({"kind": "step", "text": f"{lack.text}; {lack.advice}"})

    async def serve() -> int:
        return await Run(config, cluster, display, lock, owner).serve()

    try:
        code = asyncio.run(serve())
    except BaseException as error:
        # The process that started this one does not read the log. (It receives only messages that come before `ready`.)
        display.show({"kind": "failed", "text": cause(error), "exit_code": 1})
        raise
    finally:
        display.close()
        lock.release()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    if any(
        thread.is_alive() and not thread.daemon
        for thread in threading.enumerate()
        if thread is not threading.main_thread()
    ):
        # A thread waits for an engine that hangs. Everything else is done, and Python would wait for that thread
        # forever.
        os._exit(code)
    return code


def watched_parent(pid: int) -> int:
    """Return a pidfd of this process's parent; raise UserError if that has ended, and another process has its PID."""
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(pid)
        if os.getppid() == pid:
            return pidfd
        os.close(pidfd)
    raise UserError(f"the process that starts this cluster (PID {pid}) has ended")


def already_running(folder: Path, holder: Holder | None) -> UserError:
    """Return the error for a second supervisor; `holder` is None if the first one has just ended."""
    which = f" (PID {holder.pid})" if holder is not None else ""
    if holder is not None and is_being_killed(holder.pid):
        return UserError(
            f"{folder}: its supervisor{which} was killed, and has not ended within {DEATH_TIMEOUT:g} s; try again when "
            "it has"
        )
    return UserError(f"{folder}: a supervisor is running already{which}; stop it with: python supervisor.py stop")


def run_detached(config: Config, cluster: Cluster, display: Display) -> int:
    """Start a supervisor in a session of its own, show its start, and return when all replicas are ready.

    Return 130 where the user interrupts the start, which then stops. Raises UserError if the start fails.
    """
    started = BackgroundSupervisor(config, cluster)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        for message in started.messages():
            display.show(message)
    except KeyboardInterrupt:
        started.process.send_signal(signal.SIGTERM)
        started.process.wait()
        return 130
    finally:
        display.close()
    return 0


def cause(error: BaseException) -> str:
    """Return one line on an unexpected error.

    The line describes the first exception of the error's chain that is more than a cancelled task or an interrupt.
    """
    errors = [error]
    while (previous := errors[-1].__cause__ or errors[-1].__context__) is not None and previous not in errors:
        errors.append(previous)
    known = [
        each
        for each in reversed(errors)
        if not isinstance(each, asyncio.CancelledError | KeyboardInterrupt | SystemExit)
    ]
    if not known:
        return "it was interrupted"
    first = known[0]
    if isinstance(first, UserError):
        return first.message
    if isinstance(first, OSError) and first.strerror:
        return f"{first.filename}: {first.strerror}" if first.filename else first.strerror
    if isinstance(first, MemoryError):
        return "the machine, or a limit (ulimit -v), gives no more memory: free some, or raise the limit"
    if isinstance(first, RuntimeError) and str(first) == NO_THREAD:
        return (
            "no more threads or processes may be started here: raise the limit (ulimit -u, or TasksMax= of a systemd "
            "unit)"
        )
    return f"internal error: {visible(repr(first))}; see .comet/logs/supervisor.log"


def _interrupt(number: int, frame: object) -> None:
    """Interrupt like Ctrl-C, which itself may be ignored."""
    raise KeyboardInterrupt
