"""Commits requests to the statistics in groups and releases each response after its commit.

Each commit contains all responses that are ready, so they share its cost. Where the store can commit without waiting,
the event loop's thread does it (`commit`): to wake a second thread and be woken by it costs more than the transaction.
Everything else (another writer, a full disk, a network, maintenance) is done by the writer thread, and while that
thread works, all entries go through it. The holder of `_store_lock` may use the store.

`notify` is called exactly once for an entry: it is committed, or refused because `COMMIT_TIMEOUT` passed without a
commit that could contain it. A refused entry is never counted.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import NoReturn, Protocol

from worker_app.common.errors import NotCommitted, Undecided
from worker_app.stats.batch import Batch, Record, batch_of
from worker_app.stats.store import Store

log = logging.getLogger("worker_app")

COMMIT_TIMEOUT = 5.0
"""Seconds a response may wait for its commit."""

RETRY_INTERVAL = 0.05
"""Seconds between two attempts while the database refuses at once (disk full)."""

SPACING_PER_REQUEST = 20e-6
"""Seconds between two commits per request in flight: about a tenth of the time that serving them all takes."""

MAX_SPACING = 0.004
"""Seconds that a response waits at most for others to share its commit."""

TICK_INTERVAL = 1.0
"""Seconds between two checks of the database by an idle writer thread."""


class Entry(Protocol):
    """One response that waits for its commit."""

    record: Record
    deadline: float  # time.monotonic() at which the wait ends


Notify = Callable[[Sequence[Entry], bool], None]


class CommitQueue:
    """Owns the writer thread; `notify(entries, committed)` is called in that thread, or by `commit` in its caller's."""

    def __init__(self, store: Store, notify: Notify) -> None:
        self._store = store
        self._notify = notify
        # The cheapest way to wake the writer thread; an empty sequence only wakes it.
        self._submitted: SimpleQueue[Sequence[Entry]] = SimpleQueue()
        self._pending: list[Entry] = []  # used by the writer thread alone
        self._notes_lock = threading.Lock()
        self._notes = Batch()
        self._after_notes: list[Callable[[], None]] = []  # calls that wait for the commit of `_notes`
        self._noted: list[Callable[[], None]] = []  # calls whose notes are taken; used by the writer thread alone
        self._store_lock = threading.Lock()
        self._undecided: tuple[Sequence[Entry], str] | None = None  # after an inline commit, with the reason
        self._closing: float | None = None
        self._in_flight = 1
        self._last_commit_started = 0.0
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="commit-queue", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, entries: Sequence[Entry], in_flight: int = 1) -> None:
        """Queue finished requests; `notify` is called for each within a little over `COMMIT_TIMEOUT` seconds.

        `in_flight` is the number of requests that the worker has accepted and not answered: the more there are, the
        longer a commit waits for others to join it.
        """
        self._in_flight = in_flight
        self._submitted.put(entries)

    def commit(self, entries: Sequence[Entry], in_flight: int = 1) -> None:
        """Commit in the calling thread, always the same one, if that needs no waiting; else `submit`."""
        if self._store_lock.acquire(blocking=False):
            try:
                done = self._commit_inline(entries)
            except BaseException:
                self._end_process()
            finally:
                self._store_lock.release()
            if done:
                return
        self.submit(entries, in_flight)

    def batching_delay(self, waiting: int, in_flight: int) -> float:
        """Return the seconds that a commit should wait for others to join: 0 if all requests in flight wait for it."""
        if waiting >= in_flight or self._closing is not None:
            return 0.0
        return self._last_commit_started + min(in_flight * SPACING_PER_REQUEST, MAX_SPACING) - time.monotonic()

    def note(self, *, disconnected: int = 0, injected: str | None = None) -> None:
        """Add to the side counters; a later transaction writes them, and no response waits for that."""
        with self._notes_lock:
            self._notes.disconnected += disconnected
            if injected is not None:
                self._notes.injections[injected] += 1

    def note_now(self, *, injected: str, then: Callable[[], None]) -> None:
        """Add to the side counters and commit at once, for a fault that will end this process.

        `then` is called after the commit, in the writer thread.
        """
        with self._notes_lock:
            self._notes.injections[injected] += 1
            self._after_notes.append(then)
        self._submitted.put(())

    def close(self, grace: float) -> bool:
        """Commit what is pending for at most `grace` seconds and end the thread; return False if entries are left."""
        self._closing = time.monotonic() + grace
        self._submitted.put(())
        self._thread.join(grace + 1.0)
        return not self._thread.is_alive() and not self._pending and self._submitted.empty()

    def _run(self) -> None:
        try:
            self._write_until_closed()
        except BaseException:
            self._end_process()

    @staticmethod
    def _end_process() -> NoReturn:
        """End the process: without its statistics a worker cannot count exactly, so it must be restarted."""
        log.exception("writing the statistics failed; ending at once")  # noqa: LOG004 called by the handler
        os._exit(70)  # EX_SOFTWARE

    def _commit_inline(self, entries: Sequence[Entry]) -> bool:
        """Commit in this thread; return False if nothing was done."""
        # Earlier entries go first, and the writer thread deals with failures.
        if (
            self._pending
            or not self._submitted.empty()
            or self._failing
            or self._undecided
            or self._closing is not None
        ):
            return False
        self._last_commit_started = time.monotonic()
        sums = batch_of([entry.record for entry in entries])
        try:
            if not self._store.try_commit(sums) or self._store.replaced():
                return False
        except Undecided as error:
            self._undecided = (entries, str(error))
            self._submitted.put(())
            return True
        self._notify(entries, True)
        if self._store.maintenance_due():
            self._submitted.put(())
        return True

    def _write_until_closed(self) -> None:
        while True:
            if not self._pending:
                self._receive(0.0 if self._closing is not None else TICK_INTERVAL)
            with self._notes_lock:
                noted = not self._notes.empty()
            with self._store_lock:
                self._resolve_undecided()
                idle = not self._pending and not noted
                if idle and self._closing is not None:
                    break
                if not idle:
                    self._commit_pending()
                if idle or self._store.maintenance_due():
                    self._tick()
            if self._closing is not None and time.monotonic() >= self._closing:
                break
        self._store.close()

    def _wait_for_more(self) -> None:
        """Wait for others to join the commit if the last one started recently and more requests are in flight."""
        left = self.batching_delay(len(self._pending), self._in_flight)
        if left > 0.0:
            time.sleep(left)
        self._last_commit_started = time.monotonic()

    def _receive(self, timeout: float) -> None:
        """Move all submitted entries to `_pending`; wait up to `timeout` seconds for the first."""
        try:
            self._pending.extend(self._submitted.get(timeout=timeout))
            while True:
                self._pending.extend(self._submitted.get_nowait())
        except Empty:
            return

    def _take_pending(self) -> tuple[list[Entry], Batch]:
        self._receive(0.0)
        entries, self._pending = self._pending, []
        with self._notes_lock:
            notes, self._notes = self._notes, Batch()
            self._noted += self._after_notes
            self._after_notes = []
        return entries, notes

    def _commit_pending(self) -> None:
        """Commit until nothing is pending; refuse entries past their deadline."""
        self._wait_for_more()
        entries, notes = self._take_pending()
        while entries or not notes.empty():
            problem = self._commit_batch(batch_of([entry.record for entry in entries], notes))
            if problem is None:
                self._notify(entries, True)
                noted, self._noted = self._noted, []
                for call in noted:
                    call()
                self._log_problem(None)
                return
            self._log_problem(problem)
            entries = self._refuse_overdue(entries)
            if self._closing is not None and time.monotonic() >= self._closing:
                return
            time.sleep(RETRY_INTERVAL)
            new_entries, new_notes = self._take_pending()
            entries += new_entries
            notes.disconnected += new_notes.disconnected
            notes.injections.update(new_notes.injections)
            if not entries:
                with self._notes_lock:
                    self._notes.disconnected += notes.disconnected
                    self._notes.injections.update(notes.injections)
                return

    def _refuse_overdue(self, entries: list[Entry]) -> list[Entry]:
        """Refuse the entries past their deadline; return the others."""
        now = time.monotonic()
        overdue = [entry for entry in entries if entry.deadline <= now]
        if not overdue:
            return entries
        self._notify(overdue, False)
        return [entry for entry in entries if entry.deadline > now]

    def _commit_batch(self, sums: Batch) -> str | None:
        """Commit to the database now at the address; return None, or why the batch left no trace."""
        try:
            while True:
                try:
                    self._store.commit(sums)
                except Undecided as error:
                    if not self._verify_until_known(str(error)):
                        return str(error)
                if not self._store.replaced():
                    return None
                # The commit is lost with the old file, so it is repeated in the new one.
                if not self._failing:
                    log.warning("the database was deleted or replaced while running; a new one is used")
                self._store.reopen()
        except NotCommitted as error:
            return str(error)

    def _resolve_undecided(self) -> None:
        """Verify an inline commit with unknown outcome: release its responses, or put them into the next commit."""
        if self._undecided is None:
            return
        entries, reason = self._undecided
        if self._verify_until_known(reason) and not self._store.replaced():
            self._notify(entries, True)
        else:
            self._pending[:0] = entries
        self._undecided = None

    def _verify_until_known(self, reason: str) -> bool:
        """Return whether a commit with unknown outcome took effect; wait until that is known.

        Until then neither 200 nor 503 would be true for its entries. Entries submitted later are certainly not counted,
        so those past their deadline are refused.
        """
        self._log_problem(f"the outcome of a commit is unknown ({reason})")
        while True:
            try:
                return self._store.verify()
            except Undecided:
                time.sleep(RETRY_INTERVAL)
            self._receive(0.0)
            self._pending = self._refuse_overdue(self._pending)

    def _tick(self) -> None:
        try:
            self._store.tick(time.time())
        except (NotCommitted, Undecided) as error:
            self._log_problem(str(error))

    def _log_problem(self, problem: str | None) -> None:
        if problem is None:
            if self._failing:
                log.info("statistics: committing again")
            self._failing = False
        elif not self._failing:
            log.warning("statistics: %s; responses wait up to %g s for their commit", problem, COMMIT_TIMEOUT)
            self._failing = True
