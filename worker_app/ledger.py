"""Exact statistics: one writer thread, group commit, answers released after their commit.

Whatever is handed in while a transaction runs goes into the next one, so the cost of a transaction is shared by all requests
that wait for it and the wait is at most two transactions long. An entry is settled exactly once: committed, or refused because
5 s passed without a commit that could contain it; refused means surely uncounted. Threads other than the writer only hand in.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Protocol

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
    """Owner of the writer thread. `notify(entries, committed)` is called in that thread."""

    def __init__(self, store: Store, notify: Notify) -> None:
        self._store = store
        self._notify = notify
        self._handed: SimpleQueue[Sequence[Entry]] = SimpleQueue()  # the cheapest way to wake a thread; an empty one only wakes
        self._pending: list[Entry] = []  # the writer's own
        self._noting = threading.Lock()
        self._notes = Tally()
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

    def note(self, *, disconnected: int = 0, injected: str | None = None) -> None:
        """Add to the side counters; they travel with a later transaction and delay nobody."""
        with self._noting:
            self._notes.disconnected += disconnected
            if injected is not None:
                self._notes.injections[injected] += 1

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
            # Without its writer a worker can answer nothing truthfully: it must be started anew.
            log.exception("the statistics writer failed; ending at once")
            os._exit(70)  # EX_SOFTWARE

    def _write(self) -> None:
        while True:
            if not self._pending:
                self._receive(0.0 if self._closing is not None else TICK)
            with self._noting:
                noted = not self._notes.empty()
            if self._pending or noted:
                self._settle_pending()
            elif self._closing is not None:
                break
            else:
                self._tick()
            if self._closing is not None and time.monotonic() >= self._closing:
                break
        self._store.close()

    def _keep_distance(self) -> None:
        """Wait for company if a commit began just now and more requests are on their way than wait already."""
        if len(self._pending) < self._in_flight and self._closing is None:
            spacing = min(self._in_flight * SPACING_PER_REQUEST, LONGEST_SPACING)
            left = self._began + spacing - time.monotonic()
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
            now = time.monotonic()
            overdue = [entry for entry in entries if entry.deadline <= now]
            if overdue:
                self._notify(overdue, False)
            if self._closing is not None and now >= self._closing:
                return
            time.sleep(RETRY)
            fresh, more = self._take()
            entries = [entry for entry in entries if entry.deadline > now] + fresh
            notes.disconnected += more.disconnected
            notes.injections.update(more.injections)
            if not entries:
                with self._noting:
                    self._notes.disconnected += notes.disconnected
                    self._notes.injections.update(notes.injections)
                return

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
                log.warning("the database was deleted or replaced while running; beginning anew")
                self._store.reopen()
        except NotCommitted as error:
            return str(error)

    def _find_out(self, reason: str) -> bool:
        """Hold the answers until it is known whether a broken commit took: until then neither 200 nor 503 would be true."""
        self._say(f"a commit broke off ({reason})")
        while True:
            try:
                return self._store.verify()
            except Undecided:
                time.sleep(RETRY)

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
