"""How load balancers come into being: forked from a clean server process.

The supervisor has threads, so a plain fork of it would be unsafe; a fork of multiprocessing's forkserver, which has imported the load
balancer beforehand and holds nothing else, is safe and takes milliseconds. The start method is named here and nowhere else.

One fork is always made in advance (`lb.standby`): the next load balancer that is wanted is that one, in half the time. Where it is missing
(the last one was taken a moment ago, it has died) a load balancer is forked when it is wanted.
"""

import asyncio
import contextlib
import multiprocessing
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import lb.forked
import lb.standby
from comet.cluster import Cluster
from comet.drivers.process import Launched, is_stopped, reap
from comet.listeners import Listeners
from comet.replica import ReplicaSpec
from comet.router import Router
from lb.settings import Settings


@dataclass(frozen=True)
class LbLaunch:
    """What a load balancer needs to be started. Its listening socket is held under `settings.name`; `counters` is the file, in
    `.comet/run/`, that it alone writes; `fingerprint` tells the code it is made of."""

    settings: Settings
    counters: str
    fingerprint: str = ""


STANDBY_PAUSE = 0.5
"""Seconds after a start until the next standby is made: what has just been started needs the CPU more."""

PATIENCE = 2.0
"""Seconds that a helper which was told to end may take."""


@dataclass(frozen=True)
class _Standby:
    """The load balancer in waiting; by its pidfd it is known whatever becomes of the forkserver, its parent."""

    process: ForkServerProcess
    orders: socket.socket
    pidfd: int

    @property
    def well(self) -> bool:
        return not self._ended(0) and not is_stopped(self.process.pid)

    @property
    def waits(self) -> bool:
        """Whether it would take an order now. It says so once: to be asked until it does, and no more."""
        return self.well and lb.standby.has_rehearsed(self.orders)

    def let_go(self) -> None:
        """It is somebody else's business from now on."""
        self.orders.close()
        os.close(self.pidfd)

    def end(self) -> None:
        """It has nothing to lose."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self._ended(PATIENCE)
        reap(self.pidfd)  # Where the forkserver has died it is our child.
        self.let_go()

    def _ended(self, patience: float) -> bool:
        """Whether it ends within so many seconds."""
        poll = select.poll()  # Not select(2): a descriptor may be above 1023.
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(patience * 1000))


class ForkserverLauncher:
    """Makes load balancers, and connects each with the router."""

    def __init__(self, loop: asyncio.AbstractEventLoop, cluster: Cluster, router: Router, listeners: Listeners) -> None:
        self._loop = loop
        self._standby: _Standby | None = None
        self._refill: asyncio.TimerHandle | None = None
        self._cluster = cluster
        self._router = router
        self._listeners = listeners
        self._context = multiprocessing.get_context("forkserver")
        self._control: dict[tuple[str, int], str] = {}

    def prepare(self) -> None:
        """Start the forkserver (some 100 ms), so that it is warm when the first load balancer is wanted."""
        hide_main()
        root = str(Path(lb.forked.__file__).parents[1])
        # The forkserver's interpreter gets no sys.path of ours: the preload would fail, and silently, from another directory.
        known = os.environ.get("PYTHONPATH", "")
        if root not in known.split(os.pathsep):
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, known)))
        # Its children inherit its environment: by COMET_CLUSTER they are found; without SPT_NOENV setproctitle would overwrite it.
        os.environ["COMET_CLUSTER"] = self._cluster.id or ""
        os.environ["SPT_NOENV"] = "1"
        # multiprocessing would make a folder under /tmp, and leave it there when we are killed.
        multiprocessing.current_process()._config["tempdir"] = self._cluster.run_address  # type: ignore[attr-defined]
        self._context.set_forkserver_preload(["lb.preload"])
        forkserver.ensure_running()

    def launch(self, spec: ReplicaSpec, instance: int) -> Launched:
        launch: LbLaunch = spec.launch
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        control_name = f"{spec.name}.{instance}.sock"
        control_listener = self._cluster.listen(control_name)
        order = (
            launch.settings,
            self._listeners[launch.settings.name],
            self._router.table,
            theirs,
            control_listener,
            str(self._cluster.path("run", launch.counters)),
            str(self._cluster.path("logs", f"{launch.settings.name}.log")),
        )
        try:
            process = self._ordered(order) or self._forked(spec.name, lb.forked.main, order)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            control_listener.close()
        self._want_standby()
        self._control[spec.name, instance] = control_name
        self._router.attach(spec.name, instance, ours)
        assert process.pid is not None
        return Launched(process.pid, _status_of(process), process.sentinel, time.clock_gettime(time.CLOCK_BOOTTIME))

    def _forked(self, name: str, target: Callable[..., None], arguments: tuple[Any, ...]) -> ForkServerProcess:
        _heal()
        process = self._context.Process(target=target, name=name, args=arguments)
        process.start()
        return process

    def _ordered(self, order: tuple[Any, ...]) -> ForkServerProcess | None:
        """The standby, told what to be; None where none waits for that."""
        standby = self._standby
        if standby is None or not standby.waits:
            return None
        self._standby = None
        try:
            lb.standby.give(standby.orders, *order)
        except OSError:
            standby.end()
            return None
        standby.let_go()
        return standby.process

    def _want_standby(self) -> None:
        if self._refill is None:
            self._refill = self._loop.call_later(STANDBY_PAUSE, self._stand_by)

    def _stand_by(self) -> None:
        """Have a standby that waits, or is about to."""
        self._refill = None
        if self._standby is not None:
            if self._standby.well:
                return
            self._end_standby()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            process = self._forked("standby", lb.standby.main, (theirs,))
            assert process.pid is not None
            self._standby = _Standby(process, ours, os.pidfd_open(process.pid))
        except (OSError, EOFError):  # No memory, no descriptors: what matters is told when a load balancer cannot be forked.
            ours.close()
        finally:
            theirs.close()

    def _end_standby(self) -> None:
        standby, self._standby = self._standby, None
        if standby is not None:
            standby.end()

    def drain(self, name: str, grace: float) -> bool:
        return self._router.drain(name, grace)

    def control_name(self, name: str, instance: int) -> str | None:
        """Under which name in `.comet/run/` a later supervisor reaches it."""
        return self._control.get((name, instance))

    def adopt(self, name: str, instance: int, control_name: str | None) -> None:
        """Know a load balancer that an earlier supervisor launched."""
        if control_name is not None:
            self._control[name, instance] = control_name
        self._want_standby()

    def gone(self, name: str, instance: int) -> None:
        self._router.detach(name)
        control = self._control.pop((name, instance), None)
        if control is not None:
            self._cluster.path("run", control).unlink(missing_ok=True)

    def release(self, name: str) -> None:
        self._listeners.release(name)

    def rename(self, former: str, name: str) -> None:
        for known, instance in list(self._control):
            if known == former:
                self._control[name, instance] = self._control.pop((known, instance))
        self._router.rename(former, name)

    def close(self) -> None:
        """End the forkserver and multiprocessing's resource tracker; load balancers that still run are not touched.

        Both end when the pipe that we hold is closed. multiprocessing's own `_stop` would wait for that without end.
        """
        if self._refill is not None:
            self._refill.cancel()
        self._end_standby()
        server, tracker = forkserver._forkserver, resource_tracker._resource_tracker
        for owner, fd_name, pid_name in ((server, "_forkserver_alive_fd", "_forkserver_pid"), (tracker, "_fd", "_pid")):
            fd, pid = getattr(owner, fd_name, None), getattr(owner, pid_name, None)
            setattr(owner, fd_name, None)
            setattr(owner, pid_name, None)
            if fd is not None:
                os.close(fd)
            if pid is not None:
                _reap(pid)


def _heal() -> None:
    """End a forkserver that is stopped: it would be waited for without end. multiprocessing starts another in place of a dead one."""
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if pid is not None and is_stopped(pid):
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def _status_of(process: "multiprocessing.context.ForkServerProcess") -> Callable[[], int | None]:
    def status() -> int | None:
        try:
            code = process.exitcode
        except (OSError, ValueError):
            return None
        # 255 is what multiprocessing says when the forkserver died and nobody can know.
        return None if code == 255 else code

    return status


def _reap(pid: int, patience: float = PATIENCE) -> None:
    """Wait for a child that is about to end; kill it if it does not. It is ours until reaped, so its PID names nobody else."""
    deadline = time.monotonic() + patience
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)


def hide_main() -> None:
    """Keep multiprocessing from importing the main script in every child: for a load balancer it would only cost time."""
    main = sys.modules["__main__"]
    main.__spec__ = None
    if hasattr(main, "__file__"):
        del main.__file__
