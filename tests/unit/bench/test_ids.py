"""The ledger by request id: what it must find, and what it must not hold against anybody."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.bench.accesslog import AccessLogs
from scripts.bench.ids import Account, Entry, Line, Seen, account
from scripts.bench.ledger import Death

OK = Seen("lb-0", 200, "aaa", "worker-0", 10.0, 10.1)
LINE = Line("lb-0", 200, "worker-0", 0)
ENTRY = Entry("aaa", False)
LB_DEATH = Death("lb-0", "kill -9", 10.2, 10.3)
WORKER_DEATH = Death("worker-1", "docker kill", 9.9, 11.0)


def judged(
    seen: Seen = OK, lines: list[Line] | None = None, entries: list[Entry] | None = None, *deaths: Death
) -> Account:
    lines, entries = [LINE] if lines is None else lines, [ENTRY] if entries is None else entries
    counts: dict[str, tuple[int, int]] = {}
    for entry in entries:
        good, bad = counts.get(entry.row, (0, 0))
        counts[entry.row] = (good + (not entry.failed), bad + entry.failed)
    return account({"1": seen}, [("1", line) for line in lines], [("1", entry) for entry in entries], counts, deaths)


def test_an_id_that_three_books_agree_on_is_clean() -> None:
    found = judged()
    assert found.clean
    assert (found.requests, found.lines, found.entries, found.repeated) == (1, 1, 1, 0)


@pytest.mark.parametrize("entries", [[], [Entry("bbb", False)], [Entry("aaa", True)]])
def test_an_answer_that_its_worker_did_not_count_is_lost(entries: list[Entry]) -> None:
    assert judged(OK, None, entries).lost == ["1"]


def test_an_injected_failure_does_not_tell_its_row() -> None:
    seen = replace(OK, status=500, row=None)
    assert judged(seen, [replace(LINE, status=500)], [Entry("aaa", True)]).clean
    assert judged(seen, [replace(LINE, status=500)], [Entry("aaa", False)]).lost == ["1"]


def test_two_counts_need_a_repeat_and_a_death() -> None:
    twice = [ENTRY, Entry("bbb", False)]
    assert judged(OK, None, twice).doubled == ["1"]
    assert judged(OK, None, twice, WORKER_DEATH).doubled == ["1"]
    repeated = judged(OK, [replace(LINE, retries=1)], twice, WORKER_DEATH)
    assert repeated.clean
    assert (repeated.repeated, repeated.counted_again) == (1, 1)
    assert judged(OK, [replace(LINE, retries=1)], [*twice, ENTRY], WORKER_DEATH).doubled == ["1"]


def test_a_repeat_without_a_death_is_unexplained() -> None:
    assert "repeated while no worker was dead" in judged(OK, [replace(LINE, retries=1)]).unexplained[0]
    late = replace(WORKER_DEATH, at=12.0, back=13.0)
    assert judged(OK, [replace(LINE, retries=1)], None, late).unexplained
    assert judged(OK, [replace(LINE, retries=1)], None, LB_DEATH).unexplained


def test_a_line_may_go_with_its_own_lb_only() -> None:
    assert judged(OK, [], None, LB_DEATH).unwritten == 1
    assert judged(OK, [], None, LB_DEATH).clean
    assert judged(OK, [], None, replace(LB_DEATH, replica="lb-1")).unexplained
    assert judged(OK, [], None, replace(LB_DEATH, at=11.0)).unexplained
    assert judged(OK, [], None, replace(LB_DEATH, at=9.0)).unexplained
    assert judged(OK, [], None).unexplained


def test_counted_twice_and_the_line_gone_needs_a_dead_worker() -> None:
    twice = [ENTRY, Entry("bbb", False)]
    assert judged(OK, [], twice, LB_DEATH).doubled == ["1"]
    assert judged(OK, [], twice, LB_DEATH, WORKER_DEATH).clean


def test_a_log_must_say_what_the_client_saw() -> None:
    assert judged(OK, [replace(LINE, status=500)]).unexplained
    assert judged(OK, [replace(LINE, worker="worker-2")]).unexplained
    assert judged(OK, [replace(LINE, lb="lb-1")]).unexplained
    assert judged(OK, [LINE, LINE]).unexplained


def test_a_broken_exchange_may_be_in_any_book_or_none() -> None:
    broken = replace(OK, status=None, row=None, worker=None)
    assert judged(broken, [], [], LB_DEATH).clean
    assert judged(broken, [], None, LB_DEATH).clean


def test_what_nobody_sent_is_unexplained() -> None:
    found = account({"1": OK}, [("1", LINE), ("2", LINE)], [("1", ENTRY), ("3", ENTRY)], {"aaa": (2, 0)}, [])
    assert len(found.unexplained) == 2


def test_ids_must_add_up_to_the_counts() -> None:
    found = account({"1": OK}, [("1", LINE)], [("1", ENTRY)], {"aaa": (2, 0)}, [])
    assert found.unexplained == ["row aaa counts 2 and 0, kept one by one are 1 and 0"]
    unknown = account({"1": OK}, [("1", LINE)], [("1", ENTRY)], {}, [])
    assert unknown.unexplained == ["row aaa counts 0 and 0, kept one by one are 1 and 0"]


def test_logs_are_read_across_their_turning_over(tmp_path: Path) -> None:
    path, logs = tmp_path / "lb-0.access.log", AccessLogs(tmp_path, ["lb-0", "lb-1"])

    def write(number: int) -> None:
        with path.open("a") as file:
            file.write(
                json.dumps({"lb": "lb-0", "request_id": str(number), "status": 200, "worker": "worker-0", "retries": 0})
                + "\n"
            )

    logs.read()
    write(1)
    logs.read()
    write(2)
    os.replace(path, f"{path}.1")
    logs.read()
    write(3)
    logs.read()
    with path.open("a") as file:
        file.write('{"lb": "lb-0", "request_id": "torn by a de{"lb": "lb-1"}\n{"lb": "lb-0", "request')
    logs.read()
    with path.open("a") as file:
        file.write('_id": "4", "status": 500, "worker": "worker-1", "retries": 2}\n')
    logs.read()
    logs.close()
    assert [id for id, _ in logs.lines] == ["1", "2", "3", "4"]
    assert logs.lines[3][1] == Line("lb-0", 500, "worker-1", 2)
