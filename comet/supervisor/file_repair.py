"""Recreates files of a running cluster that were removed (cleanup jobs, `git clean -fdx`, `rm -rf .comet`).

The supervisor knows their content, or has read it before, and checks once a second which files are missing. Load
balancers are ordered to `reopen` their own files. Two things cannot be given back to a process or container that still
holds a removed folder: its mounts (of a container, and of a process that root has started as another user), and a
process's log. Such workers are rolled, as `restart worker` does it; a log continues with the next start. A worker that
root started is also rolled when a folder above its files was closed to its user (chmod) after its start.
"""

import asyncio
import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from comet.balancers import request_statistics
from comet.common.errors import Busy, UserError
from comet.common.file_checks import Owner
from comet.concurrency.background import Background
from comet.config.schema import Config
from comet.events.event import Event
from comet.events.journal import Journal
from comet.faults import files as fault_files
from comet.host import files
from comet.reconcile.restart_policy import RestartPolicy
from comet.state import secrets as secret_files
from comet.state import traffic_orders
from comet.state.control_server import ControlServer
from comet.state.directory import ID_FILES, Cluster, worker_owner
from comet.state.lock import Lock
from comet.statistics import database
from comet.supervisor.admin_feed import AdminFeed
from comet.supervisor.fleet import Fleet
from comet.supervisor.operations import Operations
from comet.tracing.process import SpanExport

READ_LATER = (fault_files.ORDERS,)
REMEMBERED = (*READ_LATER, traffic_orders.FILE, request_statistics.BASELINE)
"""Files that other programs also write, or that are read when needed: their last seen content is restored. A load
balancer that starts reads those of READ_LATER, which are restored whenever they are missing.
"""

MAX_REMEMBERED_BYTES = 1 << 20
"""Size in bytes up to which the content of a file is remembered."""

RETRIES = RestartPolicy(first=1.0)
"""When a failed roll is tried again: the workers serve nothing, or with old files, until one succeeds."""


class FileRepair:
    """The file repair of one supervised cluster; `operations` returns None until the start is complete."""

    def __init__(
        self,
        cluster: Cluster,
        lock: Lock,
        fleet: Fleet,
        journal: Journal,
        control: ControlServer,
        admin_feed: AdminFeed,
        span_export: SpanExport,
        config: Callable[[], Config],
        operations: Callable[[], Operations | None],
        notify: Callable[[Event], None],
    ) -> None:
        self._cluster = cluster
        self._lock = lock
        self._fleet = fleet
        self._journal = journal
        self._control = control
        self._admin_feed = admin_feed
        self._span_export = span_export
        self._config = config
        self._operations = operations
        self._notify = notify
        self._loop = asyncio.get_running_loop()
        self._seen: dict[Path, tuple[tuple[int, int], str, int, Owner]] = {}
        self._mounted: dict[Path, int] = {}
        """A descriptor of each folder that workers mount; while it is open, no other folder gets the same inode."""
        self._database = Background(self._loop)
        self._task: asyncio.Task[None] | None = None
        self._rolling: asyncio.Task[None] | None = None
        self._failed_rolls = 0
        """Rolls that failed in a row."""
        self._next_roll = 0.0
        """When the next roll may start, as the loop's clock counts."""
        self._failures: dict[str, str | None] = {}
        self._stale = set[tuple[str, int]]()
        """Name and instance of each worker that still has a removed folder mounted."""
        self._closed = False

    def check(self) -> None:
        """Start one check, unless the folder was renamed: what then stands in its place is not this cluster's."""
        if self._cluster.displaced() is None and not self._closed and (self._task is None or self._task.done()):
            self._task = self._loop.create_task(self._check())

    def close(self) -> None:
        self._closed = True
        for task in (self._task, self._rolling):
            if task is not None:
                task.cancel()
        while self._mounted:
            os.close(self._mounted.popitem()[1])

    def watch_mounts(self) -> None:
        """Take the folders that are there now as those that workers have mounted; to be called before these start."""
        for folder in self._mounted_folders():
            self._hold(folder)

    def is_missing(self, where: database.Place | database.Server) -> bool:
        """Whether a folder is missing that workers of an earlier supervisor have mounted."""
        folders = [self._cluster.path("faults"), *([where.file] if isinstance(where, database.Place) else [])]
        return not all(os.path.lexists(folder) for folder in folders)

    async def _check(self) -> None:
        try:
            restored = self._restore_folders()
            run_folder_was_lost = "run" in restored
            if not self._lock.repair():
                return  # Another supervisor holds the lock and owns the files.
            restored += [name for name in await self._restore_sockets() if name not in restored]
            restored += self._restore_content(run_folder_was_lost)
        except (OSError, UserError) as error:
            self._report_failure("files", getattr(error, "strerror", None) or str(error))
            return
        self._report_failure("files", None)
        self._check_mounts()
        if restored:
            self._notify(Event("files_restored", None, {"files": restored}))
        if not self._closed:
            self._roll()

    def _restore_folders(self) -> list[str]:
        """Recreate `.comet/`, its id files and the folders in it; return the names of those that were missing."""
        restored = [name for name in ("run", "logs") if not files.is_there(self._cluster.path(name), stat.S_IFDIR)]
        restored += [name for name in ID_FILES if not files.is_there(self._cluster.path(name))]
        if not {"run", "logs"}.isdisjoint(restored):
            self._cluster.create()
        if restored:
            self._cluster.repair_id()
        return restored

    async def _restore_sockets(self) -> list[str]:
        """Recreate the sockets of supervisor and forkserver, and the load balancers' files; return their names."""
        restored = ["run/supervisor.sock"] if await self._control.repair() else []
        return restored + self._span_export.repair() + self._fleet.repair()

    def _restore_content(self, run_folder_was_lost: bool) -> list[str]:
        restored = ["events.jsonl"] if self._journal.repair() else []
        if self._fleet.state.enabled and self._fleet.state.file.is_missing():
            self._fleet.state.write()
            restored.append("state.json")
        restored += self._admin_feed.repair()
        remembered = [self._cluster.path(name) for name in (REMEMBERED if run_folder_was_lost else READ_LATER)]
        folder = self._cluster.path(secret_files.FOLDER)
        remembered += (
            [path for path in self._seen if path.parent == folder] if run_folder_was_lost or not folder.exists() else []
        )
        restored += [str(path.relative_to(self._cluster.state)) for path in remembered if self._restore(path)]
        if (operations := self._operations()) is not None:
            restored += operations.repair()
        restored += self._restore_fault_files()
        for name in REMEMBERED:
            self._remember(self._cluster.path(name))
        with contextlib.suppress(OSError):
            for entry in os.scandir(folder):
                self._remember(Path(entry.path))
        return restored

    def _restore_fault_files(self) -> list[str]:
        if not self._fleet.state.enabled:
            return []
        workers = self._fleet.worker_names()
        places = [self._cluster.path(folder) for folder in ("faults", "lb-faults")]
        missing = [name for name in workers if not all(files.is_there(place / f"{name}.json") for place in places)]
        if missing:
            fault_files.write(self._cluster, self._config(), missing)
        return [f"faults/{name}.json" for name in missing]

    def _remember(self, path: Path) -> None:
        """Remember the content of a file; it is read only when it has changed since the last check."""
        found = files.lstat(path)
        if found is None or not stat.S_ISREG(found.st_mode) or found.st_size > MAX_REMEMBERED_BYTES:
            return
        version = (found.st_ino, found.st_mtime_ns)
        if path not in self._seen or self._seen[path][0] != version:
            with contextlib.suppress(OSError, ValueError):
                content = files.read_text(path, MAX_REMEMBERED_BYTES)
                self._seen[path] = (version, content, stat.S_IMODE(found.st_mode), Owner(found.st_uid, found.st_gid))

    def _restore(self, path: Path) -> bool:
        if path not in self._seen or files.is_there(path):
            return False
        _, content, mode, owner = self._seen[path]
        path.parent.mkdir(mode=0o700, exist_ok=True)
        files.write(path, content, mode, owner)
        return True

    # What is mounted for workers.

    def _check_mounts(self) -> None:
        """Restore the database and mark the workers as stale when a folder that they have mounted was recreated.

        Workers do not see the content of a recreated folder, but their successors do. The database is restored first.
        """
        where = self._fleet.watchdogs.database
        if where is not None and self._fleet.state.enabled:
            self._database.attempt(lambda: _restore_database(where), self._on_database_restored)
        for folder in self._mounted_folders():
            if folder not in self._mounted:
                self._hold(folder)
            elif self._was_recreated(folder):
                self._hold(folder)
                self.mark_stale()

    def mark_stale(self) -> None:
        """Have each present worker that keeps its mounts replaced: a folder that it has mounted was removed."""
        self._stale.update(
            (name, replica.instance)
            for name, replica in self._fleet.supervisor.replicas.items()
            if self._fleet.runtime_of(replica).keeps_mounts(replica.spec)
        )

    def _mounted_folders(self) -> list[Path]:
        where = self._fleet.watchdogs.database
        return [self._cluster.path("faults"), *([where.file.parent] if where is not None else [])]

    def _was_recreated(self, folder: Path) -> bool:
        """Whether another folder is at the path than the one that is held; a missing one is recreated first."""
        with contextlib.suppress(OSError):
            return not os.path.samestat(os.fstat(self._mounted[folder]), os.lstat(folder))
        return False

    def _hold(self, folder: Path) -> None:
        with contextlib.suppress(OSError):
            fresh = os.open(folder, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            former, self._mounted[folder] = self._mounted.get(folder), fresh
            if former is not None:
                os.close(former)

    def _on_database_restored(self, reason: str | None) -> None:
        self._report_failure("database", reason or None)
        if reason == "":
            self._notify(Event("files_restored", None, {"files": ["the database: its statistics begin again"]}))

    def _report_failure(self, of: str, reason: str | None, event: str = "state_unwritable") -> None:
        """Report a failure once, however often the attempt is repeated."""
        if reason != self._failures.get(of):
            self._failures[of] = reason
            if reason is not None:
                self._notify(Event(event, None, {"reason": reason}))

    def _roll(self) -> None:
        operations, where = self._operations(), self._fleet.watchdogs.database
        if where is not None and not _database_exists(where):
            return  # A replacement cannot start while the database cannot be mounted.
        if operations is None or self._config().custom_service or not (self._rolling is None or self._rolling.done()):
            return
        if self._loop.time() < self._next_roll:
            return
        # Asked again at each check: another operation, as a takeover, may have replaced them meanwhile.
        replicas = self._fleet.supervisor.replicas
        self._stale &= {(name, replica.instance) for name, replica in replicas.items()}
        stale = {name for name, _ in self._stale}
        workers = [
            name
            for name, replica in replicas.items()
            if name in stale or self._fleet.runtime_of(replica).has_lost_access(replica)
        ]
        if workers:
            self._rolling = self._loop.create_task(self._replace(operations, workers))

    async def _replace(self, operations: Operations, workers: list[str]) -> None:
        # A folder may be recreated meanwhile: a worker that was just replaced is stale again, as another instance.
        taken = {each for each in self._stale if each[0] in workers}
        try:
            await operations.replace_stale(workers)
        except Busy:
            return
        except UserError as error:
            self._failed_rolls += 1
            self._next_roll = self._loop.time() + RETRIES.delay(self._failed_rolls + 1, 0)
            self._report_failure("roll", f"workers cannot be replaced: {error.message}", "engine_error")
        else:
            self._failed_rolls = 0
            self._report_failure("roll", None)
            self._stale -= taken


def _restore_database(where: database.Place) -> str | None:
    """Recreate the database where it is missing or something else is in its place.

    Return "" if it was recreated, None if it was there, else the reason why it could not be recreated.
    """
    if _database_exists(where):
        return None
    try:
        database.prepare(where, worker_owner())
    except UserError as error:
        return error.message
    return ""


def _database_exists(where: database.Place) -> bool:
    """Whether the database's file exists; it may have a second hard link, which a user made as a copy."""
    try:
        return stat.S_ISREG(os.lstat(where.file).st_mode)
    except OSError:
        return False
