"""What goes wrong around the replicas, looked for once a second: a wall clock that moves, logs that grow, a database that stays locked."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from comet import writelock
from comet.cluster import Cluster
from comet.drivers.execute import trim
from comet.events import Event
from comet.observation import Hung
from comet.replica import public_name
from comet.supervise import Supervisor
from comet.wallclock import ClockWatch

LOOKS_PER_TRIM = 5
"""Looks between two that bound the logs of what does not do so itself: load balancers do, and the engine for containers."""


class Lookout:
    """Of one cluster. `database` is the SQLite file of the built-in workers, once it is known."""

    def __init__(self, loop: asyncio.AbstractEventLoop, cluster: Cluster, supervisor: Supervisor, tell: Callable[[Event], None]) -> None:
        self._loop = loop
        self._cluster = cluster
        self._supervisor = supervisor
        self._tell = tell
        self.database: Path | None = None
        self._clock = ClockWatch(time.time(), time.monotonic())
        self._patience = writelock.Patience()
        self._looks = 0

    def look(self) -> None:
        """Look once; on the loop's thread, without a wait."""
        by = self._clock.moved(time.time(), time.monotonic())
        if by is not None:
            self._tell(Event("clock_moved", None, {"by_s": by}))
        self._looks += 1
        if self._looks % LOOKS_PER_TRIM == 0:
            self._trim_logs()
        if self.database is not None:
            self._look_at_lock(self.database)

    def _trim_logs(self) -> None:
        printed = [name for name, replica in self._supervisor.replicas.items() if replica.spec.driver == "worker-process"]
        paths = [self._cluster.path("logs", f"{public_name(name)}.log") for name in (*printed, "supervisor", "admin")]
        self._loop.run_in_executor(None, trim, paths)

    def _look_at_lock(self, database: Path) -> None:
        """A worker that keeps the database locked and does nothing keeps all others from counting: only its end helps them."""
        held = writelock.look(database)
        if not self._patience.exhausted(held) or held is None:
            return
        replicas = self._supervisor.replicas
        mains = {each.pid: each.name for each in replicas.values() if each.pid is not None and each.spec.unhealthy_grace is not None}
        name = writelock.whose(held.pid, mains)
        if name is not None:
            self._supervisor.observe(name, replicas[name].instance, Hung("hung: it keeps the database locked"))
