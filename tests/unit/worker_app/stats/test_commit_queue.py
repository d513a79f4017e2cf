"""Group commit and its promises, over a scripted store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.support.waiting import wait_until
from worker_app.common.errors import NotCommitted, Undecided
from worker_app.stats import commit_queue as module
from worker_app.stats.batch import Batch, Record
from worker_app.stats.commit_queue import CommitQueue, Entry


class FakeStore:
    """Commits by script: each step is a callable that may raise or wait; without steps every commit takes."""

    def __init__(self) -> None:
        self.committed: list[Batch] = []
        self.steps: list[Callable[[], None]] = []
        self.verdicts: list[bool | None] = []
        self.moved: list[bool] = []
        self.reopened = 0
        self.closed = False
        self.prompt = True
        self.asked_at_once = 0
        self.upkeep_after = 1000
        self.kept_up = 0

    def commit(self, batch: Batch) -> None:
        if self.steps:
            self.steps.pop(0)()
        self.committed.append(batch)

    def try_commit(self, batch: Batch) -> bool:
        self.asked_at_once += 1
        if not self.prompt:
            return False
        self.commit(batch)
        return True

    def maintenance_due(self) -> bool:
        return len(self.committed) - self.kept_up >= self.upkeep_after

    def verify(self) -> bool:
        verdict = self.verdicts.pop(0)
        if verdict is None:
            raise Undecided("still")
        return verdict

    def replaced(self) -> bool:
        return bool(self.moved) and self.moved.pop(0)

    def reopen(self) -> None:
        self.reopened += 1

    def tick(self, now: float) -> None:
        self.kept_up = len(self.committed)

    def close(self) -> None:
        self.closed = True

    def total(self) -> int:
        return sum(batch.successful + batch.failed for batch in self.committed)


class Waiting:
    def __init__(self, timeout: float = 120.0) -> None:
        self.record = Record(False, 1)
        self.deadline = time.monotonic() + timeout


class Outcomes:
    """Collects which requests the queue committed."""

    def __init__(self) -> None:
        self.answers: dict[Entry, bool] = {}
        self._changed = threading.Condition()

    def notify(self, entries: Sequence[Entry], committed: bool) -> None:
        with self._changed:
            for entry in entries:
                assert entry not in self.answers, "notified twice"
                self.answers[entry] = committed
            self._changed.notify_all()

    def wait(self, number: int) -> list[bool]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.answers) >= number, 120.0)
            return list(self.answers.values())


def raising(error: Exception) -> Callable[[], None]:
    def step() -> None:
        raise error

    return step


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def outcomes() -> Outcomes:
    return Outcomes()


@pytest.fixture
def queue(store: FakeStore, outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch) -> Iterator[CommitQueue]:
    monkeypatch.setattr(module, "RETRY_INTERVAL", 0.001)
    # On a busy machine the writer thread would look after the database at any moment, and so come first.
    monkeypatch.setattr(module, "TICK_INTERVAL", 600.0)
    made = CommitQueue(store, outcomes.notify)
    made.start()
    yield made
    made.close(0.1)


def test_responses_are_sent_after_their_commit(store: FakeStore, outcomes: Outcomes, queue: CommitQueue) -> None:
    gate = threading.Event()
    store.steps = [lambda: assert_true(gate.wait(120))]
    queue.submit([Waiting()])
    assert outcomes.answers == {}
    gate.set()
    assert outcomes.wait(1) == [True]
    assert store.total() == 1


def assert_true(value: bool) -> None:
    assert value


def test_requests_during_a_commit_share_the_next_one(store: FakeStore, outcomes: Outcomes, queue: CommitQueue) -> None:
    gate, inside = threading.Event(), threading.Event()

    def step() -> None:
        inside.set()
        gate.wait(120)

    store.steps = [step]
    queue.submit([Waiting()])
    assert inside.wait(120)
    for _ in range(100):
        queue.submit([Waiting()])
    gate.set()
    outcomes.wait(101)
    assert [batch.successful for batch in store.committed] == [1, 100]


def test_f21_a_locked_database_loses_nothing(store: FakeStore, outcomes: Outcomes, queue: CommitQueue) -> None:
    store.steps = [raising(NotCommitted("database is locked"))] * 5
    queue.submit([Waiting(), Waiting()])
    assert outcomes.wait(2) == [True, True]
    assert store.total() == 2


def test_a_request_not_committed_in_time_is_refused_uncounted(
    store: FakeStore, outcomes: Outcomes, queue: CommitQueue
) -> None:
    late = Waiting(timeout=0.0)
    store.steps = [raising(NotCommitted("disk full"))]
    in_time = Waiting()
    queue.submit([late, in_time])
    outcomes.wait(2)
    assert outcomes.answers == {late: False, in_time: True}
    assert store.total() == 1


@pytest.mark.parametrize("took", [True, False])
def test_an_interrupted_commit_is_verified(
    store: FakeStore, outcomes: Outcomes, queue: CommitQueue, took: bool
) -> None:
    store.steps = [raising(Undecided("connection lost"))]
    store.verdicts = [None, None, took]
    queue.submit([Waiting()])
    assert outcomes.wait(1) == [True]
    assert store.total() == (0 if took else 1)  # what took is not done twice


def test_a_replaced_database_gets_the_lost_batch(store: FakeStore, outcomes: Outcomes, queue: CommitQueue) -> None:
    store.moved = [True, False]
    queue.submit([Waiting()])
    assert outcomes.wait(1) == [True]
    assert store.reopened == 1
    assert len(store.committed) == 2


def test_notes_are_written_without_a_request(store: FakeStore, outcomes: Outcomes, queue: CommitQueue) -> None:
    queue.note(disconnected=1, injected="hang")
    assert queue.close(120.0)
    assert (store.committed[0].disconnected, store.committed[0].injections["hang"]) == (1, 1)


def test_notes_survive_a_refused_batch(store: FakeStore, outcomes: Outcomes, queue: CommitQueue) -> None:
    store.steps = [raising(NotCommitted("disk full"))]
    queue.note(disconnected=3)
    queue.submit([Waiting(timeout=0.0)])
    outcomes.wait(1)
    assert queue.close(120.0)
    assert sum(batch.disconnected for batch in store.committed) == 3


def test_a_fault_that_ends_the_process_begins_once_it_is_counted(
    store: FakeStore, queue: CommitQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TICK_INTERVAL", 0.01)  # Notes without a request are tried again then.
    counted = threading.Event()
    seen: list[bool] = []
    store.steps = [raising(NotCommitted("locked")), lambda: seen.append(counted.is_set())]
    queue.note_now(injected="memory", then=counted.set)
    assert counted.wait(120.0)
    assert (seen, store.committed[0].injections["memory"]) == ([False], 1)


def test_closing_commits_pending_requests(store: FakeStore, outcomes: Outcomes, queue: CommitQueue) -> None:
    queue.submit([Waiting() for _ in range(10)])
    assert queue.close(120.0)
    assert store.closed
    assert outcomes.wait(10) == [True] * 10


@pytest.mark.slow
def test_closing_does_not_wait_for_ever(store: FakeStore, outcomes: Outcomes, queue: CommitQueue) -> None:
    store.steps = [raising(NotCommitted("locked"))] * 1_000_000
    queue.submit([Waiting(timeout=600.0)])
    began = time.monotonic()
    queue.close(0.2)
    assert time.monotonic() - began < 60.0
    assert outcomes.answers == {}


def test_a_single_commit_runs_in_the_callers_thread(store: FakeStore, outcomes: Outcomes, queue: CommitQueue) -> None:
    threads: list[threading.Thread] = []
    store.steps = [lambda: threads.append(threading.current_thread())]
    queue.commit([Waiting(), Waiting()])
    assert list(outcomes.answers.values()) == [True, True]
    assert threads == [threading.current_thread()]
    assert store.total() == 2


def test_an_inline_commit_leaves_waiting_to_the_writer(
    store: FakeStore, outcomes: Outcomes, queue: CommitQueue
) -> None:
    store.prompt = False
    threads: list[threading.Thread] = []
    store.steps = [lambda: threads.append(threading.current_thread())]
    queue.commit([Waiting()])
    assert outcomes.wait(1) == [True]
    assert threads != [threading.current_thread()]
    assert store.total() == 1


def test_an_inline_commit_never_waits_for_the_writer(store: FakeStore, outcomes: Outcomes, queue: CommitQueue) -> None:
    gate, inside = threading.Event(), threading.Event()

    def step() -> None:
        inside.set()
        gate.wait(120)

    store.steps = [step]
    queue.submit([Waiting()])
    assert inside.wait(120)
    queue.commit([Waiting()])
    assert outcomes.answers == {}
    assert store.asked_at_once == 0
    gate.set()
    assert outcomes.wait(2) == [True, True]
    assert store.total() == 2


@pytest.mark.parametrize("took", [True, False])
def test_an_interrupted_inline_commit_is_verified_by_writer(
    store: FakeStore, outcomes: Outcomes, queue: CommitQueue, took: bool
) -> None:
    store.steps = [raising(Undecided("I/O error"))]
    store.verdicts = [None, took]
    queue.commit([Waiting()])
    queue.commit([Waiting()])  # waits until it is known what became of the first
    assert outcomes.wait(2) == [True, True]
    assert store.total() == (1 if took else 2)  # what took is not done twice


def test_a_commit_to_a_lost_database_counts_in_the_new_one(
    store: FakeStore, outcomes: Outcomes, queue: CommitQueue
) -> None:
    store.moved = [True, True, False]
    queue.commit([Waiting()])
    assert outcomes.wait(1) == [True]
    assert store.reopened == 1


def test_maintenance_runs_despite_inline_commits_only(store: FakeStore, outcomes: Outcomes, queue: CommitQueue) -> None:
    store.upkeep_after = 3
    for _ in range(3):
        queue.commit([Waiting()])
    assert wait_until(lambda: store.kept_up, what="upkeep, which waits for no idle moment")


def test_a_commit_waits_only_while_more_requests_are_underway(
    store: FakeStore, outcomes: Outcomes, queue: CommitQueue
) -> None:
    queue.commit([Waiting()], 100)
    assert queue.batching_delay(waiting=1, in_flight=1) == 0.0
    assert queue.batching_delay(waiting=1, in_flight=200) <= module.MAX_SPACING


def test_requests_behind_an_unknown_commit_are_refused_in_time(
    store: FakeStore, outcomes: Outcomes, queue: CommitQueue
) -> None:
    known = threading.Event()

    def verify() -> bool:
        if not known.is_set():
            raise Undecided("no connection")
        return True

    store.verify = verify  # type: ignore[method-assign]
    store.steps = [raising(Undecided("the connection broke"))]
    first, later = Waiting(0.1), Waiting(0.1)
    queue.submit([first])
    wait_until(lambda: not store.steps, what="the first commit")
    queue.submit([later])
    assert outcomes.wait(1) == [False]
    assert list(outcomes.answers) == [later]
    known.set()
    outcomes.wait(2)
    assert outcomes.answers[first]  # however long it took: it is counted
    assert store.total() == 0  # and not done twice
