"""Keeps a helper of the supervisor running: a process that serves no requests, and whose deaths affect nothing else.

A pidfd reports its death, which is published as an event, and restarts follow the restart policy of the replicas.
"""

import asyncio
import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

from comet.events.event import Event
from comet.host.checkout import environment
from comet.reconcile.restart_policy import RestartPolicy
from comet.runtimes.process.driver import decode
from comet.runtimes.process.exec_launcher import open_log
from comet.state.directory import Cluster


class Helper(ABC):
    """One helper; `event` is the name of the event of its death, `log` that of its log file."""

    event: str
    log: str

    def __init__(self, cluster: Cluster, notify: Callable[[Event], None], policy: RestartPolicy) -> None:
        self._loop = asyncio.get_running_loop()
        self._cluster = cluster
        self._notify = notify
        self._policy = policy
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._started_at = 0.0
        self._ready = True
        """Whether it has begun its work; one that has not is no success, however long it ran."""
        self._failures = 0
        self._restart_timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def pids(self) -> set[int]:
        return {self._process.pid} if self._process is not None else set()

    def start(self) -> None:
        """Start the process; a start that fails (no memory or descriptors left) is retried like a death."""
        self._restart_timer, self._started_at = None, self._loop.time()
        try:
            self._begin()
        except OSError as error:
            self._handle_exit({"code": None, "signal": None, "reason": f"cannot be started: {error.strerror}"})

    @abstractmethod
    def _begin(self) -> None:
        """Start the process by `_launch`; raise OSError where that fails."""

    def _launch(self, argv: list[str], fds: Iterable[int]) -> None:
        """Start the process with these descriptors; raise OSError where that fails."""
        self._process, self._pidfd = start_helper(argv, self._cluster, self.log, fds)
        self._loop.add_reader(self._pidfd, self._on_exit)

    def _on_exit(self) -> None:
        assert self._process is not None
        code = self._process.wait()
        self._process = None
        self._handle_exit({"code": code, "signal": decode(code).signal})

    def _handle_exit(self, fields: dict[str, object]) -> None:
        self._release()
        if self._closed:
            return
        self._notify(Event(self.event, None, fields))
        if self._ready and self._loop.time() - self._started_at >= self._policy.stable:
            self._failures = 0
        self._failures += 1
        self._restart_timer = self._loop.call_later(self._policy.delay(self._failures, 0.0), self.start)

    def _release(self) -> None:
        """Release what belongs to the process that has ended."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1


def start_helper(
    argv: list[str], cluster: Cluster, log: str, fds: Iterable[int]
) -> "tuple[subprocess.Popen[bytes], int]":
    """Start a process of the supervisor's own, which inherits these descriptors; return it and a pidfd of it.

    Raise OSError where that fails; nothing runs then.
    """
    with open_log(cluster.path("logs", log)) as output:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment(cluster.id),
            start_new_session=True, pass_fds=tuple(fds),
        )  # fmt: skip
    try:
        return process, os.pidfd_open(process.pid)
    except OSError:
        process.kill()
        process.wait()
        raise
