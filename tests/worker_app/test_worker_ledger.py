"""Group commit and its promises, over a scripted store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from worker_app import ledger as module
from worker_app.errors import NotCommitted, Undecided
from worker_app.ledger import Entry, Ledger
from worker_app.tally import Record, Tally


class FakeStore:
    """Commits by script: each step is a callable that may raise or wait; without steps every commit takes."""

    def __init__(self) -> None:
        self.committed: list[Tally] = []
        self.steps: list[Callable[[], None]] = []
        self.verdicts: list[bool | None] = []
        self.moved: list[bool] = []
        self.reopened = 0
        self.closed = False
        self.prompt = True
        self.asked_at_once = 0
        self.upkeep_after = 1000
        self.kept_up = 0

    def commit(self, tally: Tally) -> None:
        if self.steps:
            self.steps.pop(0)()
        self.committed.append(tally)

    def commit_at_once(self, tally: Tally) -> bool:
        self.asked_at_once += 1
        if not self.prompt:
            return False
        self.commit(tally)
        return True

    def upkeep_due(self) -> bool:
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
        return sum(tally.successful + tally.failed for tally in self.committed)


class Waiting:
    def __init__(self, patience: float = 5.0) -> None:
        self.record = Record(False, 1)
        self.deadline = time.monotonic() + patience


class Desk:
    """Collects what the ledger settles."""

    def __init__(self) -> None:
        self.answers: dict[Entry, bool] = {}
        self._changed = threading.Condition()

    def notify(self, entries: Sequence[Entry], committed: bool) -> None:
        with self._changed:
            for entry in entries:
                assert entry not in self.answers, "settled twice"
                self.answers[entry] = committed
            self._changed.notify_all()

    def wait(self, number: int) -> list[bool]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.answers) >= number, 5.0)
            return list(self.answers.values())


def raising(error: Exception) -> Callable[[], None]:
    def step() -> None:
        raise error

    return step


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def ledger(store: FakeStore, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setattr(module, "RETRY", 0.001)
    made = Ledger(store, desk.notify)
    made.start()
    yield made
    made.close(0.1)


def test_answers_are_released_after_their_commit(store: FakeStore, desk: Desk, ledger: Ledger) -> None:
    gate = threading.Event()
    store.steps = [lambda: assert_true(gate.wait(5))]
    ledger.submit([Waiting()])
    assert desk.answers == {}
    gate.set()
    assert desk.wait(1) == [True]
    assert store.total() == 1


def assert_true(value: bool) -> None:
    assert value


def test_what_comes_during_a_commit_shares_the_next_one(store: FakeStore, desk: Desk, ledger: Ledger) -> None:
    gate, inside = threading.Event(), threading.Event()

    def step() -> None:
        inside.set()
        gate.wait(5)

    store.steps = [step]
    ledger.submit([Waiting()])
    assert inside.wait(5)
    for _ in range(100):
        ledger.submit([Waiting()])
    gate.set()
    desk.wait(101)
    assert [tally.successful for tally in store.committed] == [1, 100]


def test_f21_a_locked_database_loses_nothing(store: FakeStore, desk: Desk, ledger: Ledger) -> None:
    store.steps = [raising(NotCommitted("database is locked"))] * 5
    ledger.submit([Waiting(), Waiting()])
    assert desk.wait(2) == [True, True]
    assert store.total() == 2


def test_f22_what_cannot_be_committed_in_time_is_refused_and_uncounted(store: FakeStore, desk: Desk, ledger: Ledger) -> None:
    late = Waiting(patience=0.0)
    store.steps = [raising(NotCommitted("disk full"))]
    in_time = Waiting(patience=5.0)
    ledger.submit([late, in_time])
    desk.wait(2)
    assert desk.answers == {late: False, in_time: True}
    assert store.total() == 1


@pytest.mark.parametrize("took", [True, False])
def test_a_commit_that_broke_off_is_decided_by_looking(store: FakeStore, desk: Desk, ledger: Ledger, took: bool) -> None:
    store.steps = [raising(Undecided("connection lost"))]
    store.verdicts = [None, None, took]
    ledger.submit([Waiting()])
    assert desk.wait(1) == [True]
    assert store.total() == (0 if took else 1)  # what took is not done twice


def test_a_replaced_database_gets_the_batch_that_went_away(store: FakeStore, desk: Desk, ledger: Ledger) -> None:
    store.moved = [True, False]
    ledger.submit([Waiting()])
    assert desk.wait(1) == [True]
    assert store.reopened == 1
    assert len(store.committed) == 2


def test_notes_are_written_without_a_request(store: FakeStore, desk: Desk, ledger: Ledger) -> None:
    ledger.note(disconnected=1, injected="hang")
    assert ledger.close(5.0)
    assert (store.committed[0].disconnected, store.committed[0].injections["hang"]) == (1, 1)


def test_notes_survive_a_refused_batch(store: FakeStore, desk: Desk, ledger: Ledger) -> None:
    store.steps = [raising(NotCommitted("disk full"))]
    ledger.note(disconnected=3)
    ledger.submit([Waiting(patience=0.0)])
    desk.wait(1)
    assert ledger.close(5.0)
    assert sum(tally.disconnected for tally in store.committed) == 3


def test_closing_commits_what_waits(store: FakeStore, desk: Desk, ledger: Ledger) -> None:
    ledger.submit([Waiting() for _ in range(10)])
    assert ledger.close(5.0)
    assert store.closed
    assert desk.wait(10) == [True] * 10


def test_closing_does_not_wait_for_ever(store: FakeStore, desk: Desk, ledger: Ledger) -> None:
    store.steps = [raising(NotCommitted("locked"))] * 10_000
    ledger.submit([Waiting()])
    began = time.monotonic()
    ledger.close(0.2)
    assert time.monotonic() - began < 3.0
    assert desk.answers == {}


def test_settling_commits_in_the_callers_thread_when_nobody_has_to_be_waited_for(store: FakeStore, desk: Desk, ledger: Ledger) -> None:
    threads: list[threading.Thread] = []
    store.steps = [lambda: threads.append(threading.current_thread())]
    ledger.settle([Waiting(), Waiting()])
    assert list(desk.answers.values()) == [True, True]
    assert threads == [threading.current_thread()]
    assert store.total() == 2


def test_settling_leaves_to_the_writer_what_takes_waiting(store: FakeStore, desk: Desk, ledger: Ledger) -> None:
    store.prompt = False
    threads: list[threading.Thread] = []
    store.steps = [lambda: threads.append(threading.current_thread())]
    ledger.settle([Waiting()])
    assert desk.wait(1) == [True]
    assert threads != [threading.current_thread()]
    assert store.total() == 1


def test_settling_never_waits_for_a_writer_at_work(store: FakeStore, desk: Desk, ledger: Ledger) -> None:
    gate, inside = threading.Event(), threading.Event()

    def step() -> None:
        inside.set()
        gate.wait(5)

    store.steps = [step]
    ledger.submit([Waiting()])
    assert inside.wait(5)
    ledger.settle([Waiting()])
    assert desk.answers == {}
    assert store.asked_at_once == 0
    gate.set()
    assert desk.wait(2) == [True, True]
    assert store.total() == 2


@pytest.mark.parametrize("took", [True, False])
def test_a_settling_that_broke_off_is_decided_by_the_writer(store: FakeStore, desk: Desk, ledger: Ledger, took: bool) -> None:
    store.steps = [raising(Undecided("I/O error"))]
    store.verdicts = [None, took]
    ledger.settle([Waiting()])
    ledger.settle([Waiting()])  # waits until it is known what became of the first
    assert desk.wait(2) == [True, True]
    assert store.total() == (1 if took else 2)  # what took is not done twice


def test_a_settling_into_a_database_that_went_away_is_counted_in_the_new_one(store: FakeStore, desk: Desk, ledger: Ledger) -> None:
    store.moved = [True, True, False]
    ledger.settle([Waiting()])
    assert desk.wait(1) == [True]
    assert store.reopened == 1


def test_upkeep_comes_soon_also_when_every_commit_is_made_by_settling(store: FakeStore, desk: Desk, ledger: Ledger) -> None:
    store.upkeep_after = 3
    deadline = time.monotonic() + module.TICK * 0.9
    for _ in range(3):
        ledger.settle([Waiting()])
    while not store.kept_up:
        assert time.monotonic() < deadline, "upkeep waited for an idle moment"
        time.sleep(0.005)


def test_a_commit_waits_for_company_only_while_more_are_on_their_way(store: FakeStore, desk: Desk, ledger: Ledger) -> None:
    ledger.settle([Waiting()], 100)
    assert ledger.distance(waiting=1, in_flight=1) == 0.0
    assert ledger.distance(waiting=1, in_flight=200) <= module.LONGEST_SPACING


def test_while_nobody_knows_of_a_commit_what_came_later_is_refused_in_time(store: FakeStore, desk: Desk, ledger: Ledger) -> None:
    known = threading.Event()

    def verify() -> bool:
        if not known.is_set():
            raise Undecided("no connection")
        return True

    store.verify = verify  # type: ignore[method-assign]
    store.steps = [raising(Undecided("the connection broke"))]
    first, later = Waiting(0.1), Waiting(0.1)
    ledger.submit([first])
    deadline = time.monotonic() + 2
    while store.steps:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    ledger.submit([later])
    assert desk.wait(1) == [False]
    assert list(desk.answers) == [later]
    known.set()
    desk.wait(2)
    assert desk.answers[first]  # however long it took: it is counted
    assert store.total() == 0  # and not done twice
