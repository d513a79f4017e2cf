"""Starts load balancers as forks of a clean server process.

The supervisor has threads, so a plain fork of it would be unsafe. A fork of multiprocessing's forkserver, which has
imported the load balancer beforehand and holds nothing else, is safe and takes milliseconds. Only this module names the
start method.

One fork is always made in advance (`lb.process.standby`): the next load balancer is that one, in half the time. Where
there is no standby (the last one was just taken, or has died), a load balancer is forked on demand.
"""

import asyncio
import contextlib
import multiprocessing
import os
import select
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import lb.process.fork_entry
import lb.process.standby
from comet.balancers.router import Router
from comet.host import files
from comet.host.checkout import SOURCES
from comet.host.process_identity import is_stopped
from comet.host.sockets import FRONT, Listeners, is_listening
from comet.reconcile.replica import ReplicaSpec, public_name
from comet.runtimes.process.driver import Launched, reap
from comet.state.directory import Cluster
from lb.interface.settings import Settings


@dataclass(frozen=True)
class LbLaunch:
    """What is needed to start a load balancer.

    Its listening socket is held under `settings.name`. `counters` is the file in `.comet/run/` that only this load
    balancer writes. `fingerprint` identifies the code that it runs.
    """

    settings: Settings
    counters: str
    fingerprint: str = ""


STANDBY_DELAY = 0.5
"""Seconds from a start until the next standby is forked: the process that just started needs the CPU more."""

END_TIMEOUT = 2.0
"""Seconds that a helper may take to end."""


@dataclass(frozen=True)
class _Standby:
    """A load balancer that waits for its order.

    Its pidfd identifies it even after the forkserver, its parent, has died.
    """

    process: ForkServerProcess
    orders: socket.socket
    pidfd: int

    @property
    def is_healthy(self) -> bool:
        return not self._ended(0) and not is_stopped(self.process.pid)

    @property
    def is_waiting(self) -> bool:
        """Whether it would take an order now.

        It reports that only once, so this is not to be called again after it was true.
        """
        return self.is_healthy and lb.process.standby.has_warmed_up(self.orders)

    def close_inherited_fds(self) -> None:
        """Close this process's descriptors for a standby that got its order."""
        self.orders.close()
        os.close(self.pidfd)

    def end(self) -> None:
        """Kill the standby; it has no work to finish."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self._ended(END_TIMEOUT)
        reap(self.pidfd)  # If the forkserver has died, it is a child of this process.
        self.close_inherited_fds()

    def _ended(self, timeout: float) -> bool:
        """Whether it ends within `timeout` seconds."""
        poll = select.poll()  # Not select(2): a descriptor may be above 1023.
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(timeout * 1000))


@dataclass
class _ControlSocket:
    """A load balancer's socket in `.comet/run/`, and its status once it is known that it is not another one."""

    name: str
    status: os.stat_result | None = None


class ForkserverLauncher:
    """Starts load balancers and connects each with the router."""

    def __init__(self, loop: asyncio.AbstractEventLoop, cluster: Cluster, router: Router, listeners: Listeners) -> None:
        self._loop = loop
        self._standby: _Standby | None = None
        self._refill: asyncio.TimerHandle | None = None
        self._cluster = cluster
        self._router = router
        self._listeners = listeners
        self._staying: set[str] = set()  # the load balancers that run or restart, and are not to end
        self._context = multiprocessing.get_context("forkserver")
        self._control: dict[tuple[str, int], _ControlSocket] = {}
        self._forkserver_socket: Path | None = None
        self._forkserver_socket_status: os.stat_result | None = None

    def prepare(self) -> None:
        """Ensure that the forkserver runs (its start takes some 100 ms): the next load balancer finds it warm."""
        hide_main()
        _replace_resource_tracker()
        root = str(SOURCES)
        # The forkserver does not get this process's sys.path: from another directory the preload would fail, and
        # silently.
        known = os.environ.get("PYTHONPATH", "")
        if root not in known.split(os.pathsep):
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, known)))
        # Its children inherit its environment: COMET_CLUSTER makes them discoverable; without SPT_NOENV setproctitle
        # would overwrite it.
        os.environ["COMET_CLUSTER"] = self._cluster.id or ""
        os.environ["COMET_FOLDER"] = self._cluster.mark
        os.environ["SPT_NOENV"] = "1"
        # multiprocessing would create a folder under /tmp, and leave it there when this process is killed.
        multiprocessing.current_process()._config["tempdir"] = self._cluster.run_address  # type: ignore[attr-defined]
        self._context.set_forkserver_preload(["lb.process.preload"])
        forkserver.ensure_running()
        path = self._cluster.path("run", os.path.basename(_forkserver_attribute("address")))
        if path != self._forkserver_socket:
            if self._forkserver_socket is not None:
                files.discard(self._forkserver_socket)
            self._forkserver_socket, self._forkserver_socket_status = path, files.lstat(path)

    def repair(self) -> bool:
        """Replace the forkserver if its socket was removed or replaced; return whether it was.

        Its children are not affected.
        """
        path = self._forkserver_socket
        if path is None or files.is_same(path, self._forkserver_socket_status):
            return False
        self._end_standby()
        _kill_forkserver()
        self.prepare()
        self._schedule_standby()
        return True

    def launch(self, spec: ReplicaSpec, instance: int) -> Launched:
        launch: LbLaunch = spec.launch
        self._staying.add(public_name(spec.name))
        self._cluster.require_in_place()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        control_name = f"{spec.name}.{instance}.sock"
        control_listener = self._cluster.listen(control_name)
        order = (
            replace(launch.settings, paused_until=self._router.paused_until),
            self._listeners[launch.settings.name],
            self._router.table,
            theirs,
            control_listener,
            str(self._cluster.path("run", launch.counters)),
            str(self._cluster.path("logs", f"{launch.settings.name}.log")),
            self._listeners.get(FRONT),
        )
        try:
            process = self._use_standby(order) or self._fork(spec.name, lb.process.fork_entry.main, order)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            control_listener.close()
        self._schedule_standby()
        # Known from the start: that of a load balancer which dies before it is looked at would seem replaced.
        made = files.lstat(self._cluster.path("run", control_name))
        self._control[spec.name, instance] = _ControlSocket(control_name, made)
        self._router.attach(spec.name, instance, ours)
        assert process.pid is not None
        return Launched(process.pid, _status_of(process), process.sentinel, time.clock_gettime(time.CLOCK_BOOTTIME))

    def _fork(self, name: str, target: Callable[..., None], arguments: tuple[Any, ...]) -> ForkServerProcess:
        # A fork would wait without a limit for a stopped forkserver (SIGSTOP), or for what listens in its place.
        if is_stopped(_forkserver_attribute("pid")):
            _kill_forkserver()
        self.repair()
        self.prepare()
        process = self._context.Process(target=target, name=name, args=arguments)
        try:
            process.start()
        except ConnectionRefusedError:
            self._forkserver_socket_status = None  # It was replaced while the forkserver started.
            raise
        return process

    def _use_standby(self, order: tuple[Any, ...]) -> ForkServerProcess | None:
        """Give the order to the standby and return its process; None where there is none."""
        standby = self._standby
        if standby is None or not standby.is_waiting:
            return None
        self._standby = None
        try:
            lb.process.standby.send_order(standby.orders, *order)
        except OSError:
            standby.end()
            return None
        standby.close_inherited_fds()
        return standby.process

    def _schedule_standby(self) -> None:
        if self._refill is None:
            self._refill = self._loop.call_later(STANDBY_DELAY, self._fork_standby)

    def _fork_standby(self) -> None:
        """Ensure that there is a healthy standby."""
        self._refill = None
        if self._standby is not None:
            if self._standby.is_healthy:
                return
            self._end_standby()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            process = self._fork("standby", lb.process.standby.main, (theirs,))
            assert process.pid is not None
            self._standby = _Standby(process, ours, os.pidfd_open(process.pid))
        except (OSError, EOFError):
            # No memory or descriptors: reported when a load balancer cannot be forked.
            ours.close()
        finally:
            theirs.close()

    def _end_standby(self) -> None:
        standby, self._standby = self._standby, None
        if standby is not None:
            standby.end()

    def drain(self, name: str, grace: float) -> bool:
        unused = 0  # A successor accepts on its own socket, and all others on that of the front.
        if name == public_name(name):
            self._staying.discard(name)
            unused = 1 if self._staying else 2
        return self._router.drain(name, grace, unused)

    def control_name(self, name: str, instance: int) -> str | None:
        """Return the socket's name in `.comet/run/` on which a later supervisor reaches it."""
        control = self._control.get((name, instance))
        return control.name if control is not None else None

    def has_control_socket(self, name: str, instance: int) -> bool:
        """Return whether a later supervisor reaches a load balancer: its socket is there, and not another one.

        One that was adopted, or was asked for a new socket, created it itself: the socket is taken to be its own once a
        process listens on it.
        """
        control = self._control[name, instance]
        found = files.lstat(self._cluster.path("run", control.name))
        if found is None or not stat.S_ISSOCK(found.st_mode):
            return False
        if control.status is None or not os.path.samestat(found, control.status):
            if not is_listening(self._cluster.socket_address(control.name)):
                return False
            control.status = found
        return True

    def adopt(self, name: str, instance: int, control_name: str | None) -> None:
        """Record a load balancer that an earlier supervisor started."""
        self._staying.add(public_name(name))
        if control_name is not None:
            self._control[name, instance] = _ControlSocket(control_name)
        self._schedule_standby()

    def on_exit(self, name: str, instance: int) -> None:
        self._router.detach(name)
        control = self._control.pop((name, instance), None)
        if control is not None:
            files.discard(self._cluster.path("run", control.name))

    @property
    def pids(self) -> set[int]:
        """PIDs of the forkserver and the standby."""
        helpers = {_forkserver_attribute("pid")}
        standby = {self._standby.process.pid} if self._standby is not None else set()
        return {pid for pid in helpers | standby if pid is not None}

    def release(self, name: str) -> None:
        self._staying.discard(name)
        self._listeners.release(name)

    def rename(self, former: str, name: str) -> None:
        for known, instance in list(self._control):
            if known == former:
                self._control[name, instance] = self._control.pop((known, instance))
        self._router.rename(former, name)

    def close(self) -> None:
        """End the forkserver; running load balancers are not affected.

        It ends when the pipe that this process holds is closed. multiprocessing's own `_stop` would wait for that
        without a limit.
        """
        if self._refill is not None:
            self._refill.cancel()
        self._end_standby()
        server: Any = forkserver._forkserver
        fd, pid = _forkserver_attribute("alive_fd"), _forkserver_attribute("pid")
        server._forkserver_alive_fd = server._forkserver_pid = None
        if fd is not None:
            os.close(fd)
        if pid is not None:
            _reap(pid)


def _forkserver_attribute(name: str) -> Any:
    """Return what multiprocessing knows of the forkserver (`pid`, `address`, `alive_fd`); None while there is none."""
    return getattr(forkserver._forkserver, f"_forkserver_{name}", None)


def _replace_resource_tracker() -> None:
    """Keep multiprocessing from starting its resource tracker, a Python of its own next to the forkserver.

    It removes the semaphores and shared memory that processes leave behind, and load balancers have none. It counts as
    running while what is written to its pipe is accepted.
    """
    tracker: Any = resource_tracker._resource_tracker
    if getattr(tracker, "_fd", None) is None:
        tracker._fd = os.open(os.devnull, os.O_WRONLY)


def _kill_forkserver() -> None:
    """Kill the forkserver, in place of which multiprocessing starts another one."""
    pid = _forkserver_attribute("pid")
    if pid is not None:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)  # An unreaped child: no other process has this PID.
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def _status_of(process: "multiprocessing.context.ForkServerProcess") -> Callable[[], int | None]:
    def status() -> int | None:
        try:
            code = process.exitcode
        except (OSError, ValueError):
            return None
        # multiprocessing returns 255 when the forkserver died and the status is unknown.
        return None if code == 255 else code

    return status


def _reap(pid: int) -> None:
    """Wait for a child that is about to end; kill it if it does not.

    It is a child until it is reaped, so its PID names no other process.
    """
    deadline = time.monotonic() + END_TIMEOUT
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)


def hide_main() -> None:
    """Keep multiprocessing from importing the main script in every child, where it would only cost time."""
    main = sys.modules["__main__"]
    main.__spec__ = None
    if hasattr(main, "__file__"):
        del main.__file__
