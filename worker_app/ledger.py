"""Exact statistics: group commit, answers released after their commit.

All that is made by the time of a commit goes into it, so its cost is shared. Where the store can commit without waiting for
anybody, the event loop's thread does it by itself (`settle`): waking a second thread and being woken by it costs more than the
transaction. Everything else (another writer, a full disk, a network, upkeep) is the writer thread's, and as long as that one is
at work, all goes through it. Who holds the lock `_owning` has the store.

An entry is settled exactly once: committed, or refused because 5 s passed without a commit that could contain it; refused means
surely uncounted.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import NoReturn, Protocol

from worker_app.errors import NotCommitted, Undecided
from worker_app.store import Store
from worker_app.tally import Record, Tally, tally

log = logging.getLogger("worker_app")

VERDICT = 5.0  # seconds an answer may wait for its commit
RETRY = 0.05  # seconds between two attempts against a database that refuses at once (disk full)
SPACING_PER_REQUEST = 20e-6  # seconds between two commits per request in flight: about a tenth of the time it takes to serve them all
LONGEST_SPACING = 0.004  # seconds; what an answer may wait for company
TICK = 1.0  # seconds between two looks of an idle writer at its database


class Entry(Protocol):
    """One answer that waits for its commit."""

    record: Record
    deadline: float  # time.monotonic() at which waiting ends


Notify = Callable[[Sequence[Entry], bool], None]


class Ledger:
    """Owner of the writer thread. `notify(entries, committed)` is called in that thread, or by `settle` in its caller's."""

    def __init__(self, store: Store, notify: Notify) -> None:
        self._store = store
        self._notify = notify
        self._handed: SimpleQueue[Sequence[Entry]] = SimpleQueue()  # the cheapest way to wake a thread; an empty one only wakes
        self._pending: list[Entry] = []  # the writer's own
        self._noting = threading.Lock()
        self._notes = Tally()
        self._owning = threading.Lock()
        self._broken: tuple[Sequence[Entry], str] | None = None  # a commit by `settle` of which nobody knows whether it took
        self._closing: float | None = None
        self._in_flight = 1
        self._began = 0.0
        self._troubled = False
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, entries: Sequence[Entry], in_flight: int = 1) -> None:
        """Hand in finished requests; each is settled by `notify` within a little over `VERDICT` seconds.

        `in_flight`: requests that the worker has accepted and not answered; the more there are, the longer a commit waits for company.
        """
        self._in_flight = in_flight
        self._handed.put(entries)

    def settle(self, entries: Sequence[Entry], in_flight: int = 1) -> None:
        """Commit in the calling thread, always the same one, if nobody has to be waited for; else `submit`."""
        if self._owning.acquire(blocking=False):
            try:
                settled = self._settle_at_once(entries)
            except BaseException:
                self._die()
            finally:
                self._owning.release()
            if settled:
                return
        self.submit(entries, in_flight)

    def distance(self, waiting: int, in_flight: int) -> float:
        """Seconds that a commit should yet wait for company: none when all that are in flight wait for it already."""
        if waiting >= in_flight or self._closing is not None:
            return 0.0
        return self._began + min(in_flight * SPACING_PER_REQUEST, LONGEST_SPACING) - time.monotonic()

    def note(self, *, disconnected: int = 0, injected: str | None = None) -> None:
        """Add to the side counters; they travel with a later transaction and delay nobody."""
        with self._noting:
            self._notes.disconnected += disconnected
            if injected is not None:
                self._notes.injections[injected] += 1

    def note_now(self, *, injected: str) -> None:
        """As `note`, for what may end this process soon: a transaction follows at once."""
        self.note(injected=injected)
        self._handed.put(())

    def close(self, grace: float) -> bool:
        """Commit what is pending for at most `grace` seconds and end the thread; False when entries were given up."""
        self._closing = time.monotonic() + grace
        self._handed.put(())
        self._thread.join(grace + 1.0)
        return not self._thread.is_alive() and not self._pending and self._handed.empty()

    def _run(self) -> None:
        try:
            self._write()
        except BaseException:
            self._die()

    @staticmethod
    def _die() -> NoReturn:
        """Without its statistics a worker can answer nothing truthfully: it must be started anew."""
        log.exception("writing the statistics failed; ending at once")
        os._exit(70)  # EX_SOFTWARE

    def _settle_at_once(self, entries: Sequence[Entry]) -> bool:
        """False: nothing was done."""
        # What was handed in earlier goes first, and trouble is the writer's.
        if self._pending or not self._handed.empty() or self._troubled or self._broken or self._closing is not None:
            return False
        self._began = time.monotonic()
        sums = tally([entry.record for entry in entries])
        try:
            if not self._store.commit_at_once(sums) or self._store.replaced():
                return False
        except Undecided as error:
            self._broken = (entries, str(error))
            self._handed.put(())
            return True
        self._notify(entries, True)
        if self._store.upkeep_due():
            self._handed.put(())
        return True

    def _write(self) -> None:
        while True:
            if not self._pending:
                self._receive(0.0 if self._closing is not None else TICK)
            with self._noting:
                noted = not self._notes.empty()
            with self._owning:
                self._decide_broken()
                idle = not self._pending and not noted
                if idle and self._closing is not None:
                    break
                if not idle:
                    self._settle_pending()
                if idle or self._store.upkeep_due():
                    self._tick()
            if self._closing is not None and time.monotonic() >= self._closing:
                break
        self._store.close()

    def _keep_distance(self) -> None:
        """Wait for company if a commit began just now and more requests are on their way than wait already."""
        left = self.distance(len(self._pending), self._in_flight)
        if left > 0.0:
            time.sleep(left)
        self._began = time.monotonic()

    def _receive(self, patience: float) -> None:
        """Take over all that was handed in; wait for the first of it."""
        try:
            self._pending.extend(self._handed.get(timeout=patience))
            while True:
                self._pending.extend(self._handed.get_nowait())
        except Empty:
            return

    def _take(self) -> tuple[list[Entry], Tally]:
        self._receive(0.0)
        entries, self._pending = self._pending, []
        with self._noting:
            notes, self._notes = self._notes, Tally()
        return entries, notes

    def _settle_pending(self) -> None:
        """Commit until nothing waits; refuse what waited too long."""
        self._keep_distance()
        entries, notes = self._take()
        while entries or not notes.empty():
            trouble = self._commit(tally([entry.record for entry in entries], notes))
            if trouble is None:
                self._notify(entries, True)
                self._say(None)
                return
            self._say(trouble)
            entries = self._refuse_overdue(entries)
            if self._closing is not None and time.monotonic() >= self._closing:
                return
            time.sleep(RETRY)
            fresh, more = self._take()
            entries += fresh
            notes.disconnected += more.disconnected
            notes.injections.update(more.injections)
            if not entries:
                with self._noting:
                    self._notes.disconnected += notes.disconnected
                    self._notes.injections.update(notes.injections)
                return

    def _refuse_overdue(self, entries: list[Entry]) -> list[Entry]:
        """Settle what has waited too long; the rest."""
        now = time.monotonic()
        overdue = [entry for entry in entries if entry.deadline <= now]
        if not overdue:
            return entries
        self._notify(overdue, False)
        return [entry for entry in entries if entry.deadline > now]

    def _commit(self, sums: Tally) -> str | None:
        """One transaction in the database that is at the address now; None when it is done, else why it surely is not."""
        try:
            while True:
                try:
                    self._store.commit(sums)
                except Undecided as error:
                    if not self._find_out(str(error)):
                        return str(error)
                if not self._store.replaced():
                    return None
                # What was committed went away with the old file: it is counted in the new one.
                if not self._troubled:
                    log.warning("the database was deleted or replaced while running; beginning anew")
                self._store.reopen()
        except NotCommitted as error:
            return str(error)

    def _decide_broken(self) -> None:
        """Find out about a commit by `settle` that broke off: release its answers, or let them wait for the next one."""
        if self._broken is None:
            return
        entries, reason = self._broken
        if self._find_out(reason) and not self._store.replaced():
            self._notify(entries, True)
        else:
            self._pending[:0] = entries
        self._broken = None

    def _find_out(self, reason: str) -> bool:
        """Hold the answers until it is known whether a broken commit took: until then neither 200 nor 503 would be true. What was
        handed in later is surely uncounted, and is refused when it is overdue."""
        self._say(f"a commit broke off ({reason})")
        while True:
            try:
                return self._store.verify()
            except Undecided:
                time.sleep(RETRY)
            self._receive(0.0)
            self._pending = self._refuse_overdue(self._pending)

    def _tick(self) -> None:
        try:
            self._store.tick(time.time())
        except (NotCommitted, Undecided) as error:
            self._say(str(error))

    def _say(self, trouble: str | None) -> None:
        if trouble is None:
            if self._troubled:
                log.info("statistics: committing again")
            self._troubled = False
        elif not self._troubled:
            log.warning("statistics: %s; answers wait up to %g s for their commit", trouble, VERDICT)
            self._troubled = True
