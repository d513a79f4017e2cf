"""Looks once a second for what goes wrong around the replicas: clock jumps, large logs, a locked database.

The database's directory belongs to the workers, which may put anything there: a thread reads it.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable

from comet.common.clock import ClockWatch
from comet.concurrency.background import Background
from comet.events.event import Event
from comet.reconcile.observations import Hung
from comet.reconcile.replica import public_name
from comet.runtimes.process.exec_launcher import trim
from comet.state.directory import Cluster, worker_owner
from comet.statistics import database_files, writer_lock
from comet.statistics.database_files import Place
from comet.supervisor.reconcile_loop import Supervisor

POLLS_PER_TRIM = 5
"""Polls from one trim of the logs to the next.

Only logs that nothing else bounds are trimmed: load balancers bound theirs, and the engine those of containers.
"""


STUCK_TIMEOUT = 10.0
"""Seconds after which a poll of the database's directory that does not return is reported."""


class Watchdogs:
    """The watchdogs of one cluster.

    `untrimmed_logs` returns the replicas whose logs nothing else bounds. `database` is the SQLite database of the
    built-in workers, None until it is known.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        cluster: Cluster,
        supervisor: Supervisor,
        untrimmed_logs: Callable[[], list[str]],
        notify: Callable[[Event], None],
    ) -> None:
        self._cluster = cluster
        self._supervisor = supervisor
        self._untrimmed_logs = untrimmed_logs
        self._notify = notify
        self.database: Place | None = None
        self._clock = ClockWatch(time.time(), time.monotonic())
        self._hang_detector = writer_lock.HangDetector()
        self._polls = 0
        self._locks, self._logs = Background(loop), Background(loop)
        self._stuck = self._displaced = False

    def poll(self) -> None:
        """Poll once; on the loop's thread, without waiting."""
        by = self._clock.moved(time.time(), time.monotonic())
        if by is not None:
            self._notify(Event("clock_moved", None, {"by_s": by}))
        displaced = self._cluster.displaced()
        if displaced is not None and not self._displaced:
            self._notify(Event("folder_moved", None, {"reason": displaced}))
        self._displaced = displaced is not None
        self._polls += 1
        if self._polls % POLLS_PER_TRIM == 0:
            self._trim_logs()
        if self.database is not None:
            self._check_lock(self.database)

    def _trim_logs(self) -> None:
        names = (*self._untrimmed_logs(), "supervisor", "admin", "tracing")
        paths = [self._cluster.path("logs", f"{public_name(name)}.log") for name in names]
        self._logs.attempt(lambda: trim(paths), lambda _: None)

    def _check_lock(self, where: Place) -> None:
        """Report a worker as hung that keeps the database locked and does nothing.

        Such a worker keeps all others from counting, and only its end releases the lock.
        """

        def read_lock() -> writer_lock.LockHolder | None:
            with contextlib.suppress(OSError), database_files.opened(where, worker_owner()) as directory:
                holder = writer_lock.lock_holder(directory, where.file.name)
                return None if holder is None or writer_lock.waits_for_disk(holder.pid) else holder
            return None

        self._locks.attempt(read_lock, self._on_lock_read)
        stuck = self._locks.stuck(STUCK_TIMEOUT)
        if stuck and not self._stuck:
            self._notify(Event("files_hang", None, {"path": str(where.file.parent)}))
        self._stuck = stuck

    def _on_lock_read(self, held: writer_lock.LockHolder | None) -> None:
        if not self._hang_detector.is_hung(held) or held is None:
            return
        replicas = self._supervisor.replicas
        names = {
            each.pid: each.name
            for each in replicas.values()
            if each.pid is not None and each.spec.unhealthy_grace is not None
        }
        name = writer_lock.replica_of(held.pid, names)
        if name is not None:
            self._supervisor.observe(name, replicas[name].instance, Hung("hung: it keeps the database locked"))
