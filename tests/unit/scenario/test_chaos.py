"""The choices of a chaos run, and how its requests are accounted for."""

import random
from pathlib import Path
from typing import Any

import pytest

from comet.load.closed_model import INJECTED, Answer
from comet.load.open_model import CompletedRequest
from comet.scenario.chaos import KINDS, ChaosAction, ChaosRun
from comet.scenario.victims import Chooser
from comet.state.directory import Cluster

LB, OTHER = ("127.0.0.1", 5050), ("127.0.0.1", 5051)


def rows(*states: str) -> list[dict[str, Any]]:
    workers = [
        {"name": f"worker-{number}", "role": "worker", "state": state, "pid": number + 10}
        for number, state in enumerate(states)
    ]
    return [{"name": "lb-0", "role": "lb", "state": "ready", "pid": 9}, *workers]


def test_the_last_ready_worker_is_left_alone() -> None:
    chooser = Chooser(random.Random(1), KINDS)
    assert chooser.victim("worker", rows("ready", "backoff")) is None
    assert (chooser.victim("worker", rows("ready", "ready")) or {})["role"] == "worker"
    assert (chooser.victim("lb", rows("ready")) or {})["name"] == "lb-0"
    assert (chooser.victim("freeze", rows("ready", "backoff")) or {})["name"] == "lb-0"


def test_a_seed_repeats_its_choices() -> None:
    def choices() -> list[Any]:
        chooser = Chooser(random.Random(5), KINDS)
        return [
            (chooser.pause(), kind := chooser.kind(), chooser.victim(kind, rows("ready", "ready"))) for _ in range(20)
        ]

    assert choices() == choices()


def request(address: tuple[str, int], sent: float, ended: float, answer: Answer | None) -> CompletedRequest:
    return CompletedRequest(0, address, sent, sent, ended, False, answer, "" if answer else "reset")


@pytest.mark.parametrize(
    ("found", "passed", "broken"),
    [
        ([request(LB, 1, 2, Answer(200, "worker-0", b"", False))], True, 0),
        ([request(LB, 1, 2, Answer(500, "worker-0", INJECTED, False))], True, 0),
        ([request(LB, 10.2, 10.3, None)], True, 1),
        ([request(LB, 9.9, 10.5, None)], True, 1),
        ([request(LB, 12, 13, None)], False, 0),
        ([request(OTHER, 10.2, 10.3, None)], False, 0),
        ([request(LB, 1, 2, Answer(503, None, b"", False))], False, 0),
        ([], False, 0),
    ],
)
def test_only_its_own_balancers_death_explains_an_error(
    tmp_path: Path, found: list[CompletedRequest], passed: bool, broken: int
) -> None:
    run = ChaosRun(Cluster(tmp_path), {"lb-0": LB, "lb-1": OTHER}, "/", 5, 1, ["lb"], 10, 1, lambda line: None)
    run.actions.append(ChaosAction("lb", "lb-0", 10.0))
    run.requests, run.complete = found, True
    report = run.report()
    assert (report["passed"], report["broken_with_lb"]) == (passed, broken)


def test_a_balancers_stop_explains_errors_and_ends_its_traffic(tmp_path: Path) -> None:
    run = ChaosRun(Cluster(tmp_path), {"lb-0": LB, "lb-1": OTHER}, "/", 5, 1, ["lb"], 10, 1, lambda line: None)

    def balancers(*states: str) -> list[dict[str, Any]]:
        return [
            {"name": f"lb-{number}", "role": "lb", "state": state, "port": 5050 + number}
            for number, state in enumerate(states)
        ]

    run._note_balancers(balancers("ready", "backoff", "starting"), 10.0)
    assert (list(run._seen), run.absences) == (["lb-0", "lb-1"], [])
    run._note_balancers(balancers("ready", "stopping", "ready"), 11.0)
    ((name, seen, missed),) = run.absences
    assert (name, seen, list(run._seen)) == ("lb-1", 10.0, ["lb-0", "lb-2"])
    assert run._outcome(request(OTHER, 9.9, 10.2, None)) == "explained"
    assert run._outcome(request(OTHER, 9.0, 9.9, None)) == "reset"
    assert run._outcome(request(OTHER, missed + 1, missed + 2, None)) == "reset"
    assert run._outcome(request(LB, 9.9, 10.2, None)) == "reset"
    run._note_balancers(balancers("ready", "ready"), 12.0)
    assert run._seen == {"lb-0": 12.0, "lb-1": 12.0}
