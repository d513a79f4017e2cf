"""What is expected of a step, and whether it holds."""

import json
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from comet.common.yaml_lines import ConfigError
from comet.load.closed_model import ResultCounts
from comet.scenario.expectations import Outcome, judged, parse, parse_states
from comet.scenario.file import parse as parse_file
from comet.scenario.junit import junit


def counts() -> ResultCounts:
    made = ResultCounts(ok=96, injected=2, repeated=1, times=[0.001 * number for number in range(1, 100)])
    made.errors.update({"503": 1, "reset": 1})
    made.statuses.update({200: 96, 500: 2, 503: 1})
    return made


@pytest.mark.parametrize(
    ("name", "value", "holds", "found"),
    [
        ("errors", 2, True, "2"),
        ("errors", 1, False, "2"),
        ("errors", "1%", False, "2 %"),
        ("lost", 0, False, "1"),
        ("injected", "< 2", False, "2"),
        ("ok", "96%", True, "96 %"),
        ("ok", 97, False, "96"),
        ("requests", ">= 100", True, "100"),
        ("5xx", "3%", True, "3 %"),
        ("503", "= 1", True, "1"),
        ("404", 0, True, "0"),
        ("p50", "50ms", True, "50.0 ms"),
        ("p99.9", 0.098, False, "99.0 ms"),
        ("max", "1s", True, "99.0 ms"),
    ],
)
def test_counts_shares_and_times_are_compared(name: str, value: Any, holds: bool, found: str) -> None:
    finding = judged("calm", parse(name, value), counts(), Outcome())
    assert (finding.holds, finding.found) == (holds, found)


def test_nothing_measured_is_a_miss() -> None:
    for name, value in (("p99", "1s"), ("ok", "99%")):
        assert not judged(None, parse(name, value), ResultCounts(), Outcome()).holds


def test_recoveries_and_states_are_compared() -> None:
    wanted = parse("recovery", "1s")
    assert judged(None, wanted, counts(), Outcome([("lb-0", 20.0), ("worker-0", 900.0)])).holds
    assert judged(None, wanted, counts(), Outcome([("lb-0", 1200.0)])).found == "1.20 s (lb-0)"
    assert (
        judged(None, wanted, counts(), Outcome([("lb-0", 20.0), ("worker-0", None)])).found
        == "worker-0 not ready again"
    )
    assert not judged(None, wanted, counts(), Outcome()).holds
    stopped = judged(None, wanted, counts(), Outcome(stopped=["lb-1"]))
    assert (stopped.found, stopped.holds) == ("lb-1 stopped by a command", True)
    assert not judged(None, wanted, counts(), Outcome([("lb-0", None)], stopped=["lb-1"])).holds
    assert not judged(None, wanted, counts(), Outcome([("lb-0", 1200.0)], stopped=["lb-1"])).holds
    states = Outcome(states={"lb-0": "ready", "worker-0": "ready", "worker-1": "backoff"})
    assert judged(None, parse_states("lb", "ready"), counts(), states).holds
    assert judged(None, parse_states("all", "ready"), counts(), states).found == "worker-1 backoff"
    assert judged(None, parse_states("worker", ["ready", "backoff"]), counts(), states).holds
    assert not judged(None, parse_states("worker-9", "ready"), counts(), states).holds


FILE = """
method: POST
headers: {X-Test: 1}
body: hello
seed: 7
expect: {errors: 0}
steps:
  - for: 1s
    clients: 2..10
    kill: random worker
    every: 500ms
    expect: {p99: 800ms, replicas: {all: ready}}
  - for: 2s
    rate: 10..100
    do:
      - scale: {worker: 4, lb: 1}
      - signal: {worker-3: STOP}
      - pause: 200ms
      - drain: [worker-0]
      - restart: lb
      - reload
"""


def test_a_file_says_what_is_done_and_expected() -> None:
    plan = parse_file(FILE, "s.yaml")
    assert (plan.method, plan.headers, plan.body, plan.seed, plan.has_load) == (
        "POST",
        (("X-Test", "1"),),
        "hello",
        7,
        True,
    )
    first, second = plan.steps
    assert (first.clients, first.clients_to, first.every, first.kill) == (2, 10, 0.5, ("random worker",))
    assert [expectation.name for expectation in first.expected] == ["p99", "all"]
    assert (second.clients, second.rate, second.rate_to) == (0, 10.0, 100.0)
    assert [(action.command, action.names, action.fields) for action in second.actions] == [
        ("scale", (), {"worker": 4, "pool": 1}),
        ("kill", ("worker-3",), {"signal": "STOP"}),
        ("pause", (), {"for": 0.2}),
        ("drain", ("worker-0",), {}),
        ("restart", ("lb",), {}),
        ("reload", (), {}),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("expect: {erors: 0}", "expect.erors: unknown (allowed: errors, lost"),
        ("expect: {p99: soon}", "expect.p99: soon is not usable"),
        ("expect: {errors: many}", "expect.errors: many is not usable"),
        ("expect: {replicas: {all: fine}}", "expect.replicas: 'fine' is not usable"),
        (
            "expect: {replicas: ready}",
            "expect.replicas: 'ready' is not usable (allowed: lines of the form",
        ),
        ("expect: {replicas: {lb: []}}", "expect.replicas: [] is not usable"),
        ("expect: {replicas: {wroker-0: ready}}", "expect.replicas: 'wroker-0' is neither a replica's name nor"),
        ("expect: {ok: 101%}", "expect.ok: 101% is out of range"),
        ("expect: {errors: -1}", "expect.errors: -1 is not usable"),
        ("do: [{kill: 5}]", "step 1: do: {'kill': 5}: 5 is not usable"),
        ("do: [dance]", "step 1: do: 'dance' is not usable"),
        ("do: [{scale: {worker: many}}]", "step 1: do: {'scale': {'worker': 'many'}}: scale: "),
        ("do: [resume, {scale: {worker: -1}}]", "{'scale': {'worker': -1}}: scale: worker: -1 is out of range"),
        ("do: [{scale: {lb: 0}}]", "{'scale': {'lb': 0}}: scale: lb: 0 is out of range"),
        ("do: [{signal: {worker-0: FOO}}]", "{'signal': {'worker-0': 'FOO'}}: 'FOO' is no signal"),
        ("do: [{pause: 0}]", "{'pause': 0}: 0 is not usable"),
        ("kill: somebody", "step 1: kill: 'somebody' is not usable"),
        ("rate: fast", "step 1: rate: 'fast' is not usable"),
        ("clients: 5..x", "step 1: clients: '5..x' is not a whole number"),
    ],
)
def test_a_mistake_is_named_with_its_line(line: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_file(f"steps:\n  - for: 1s\n    {line}\n", "s.yaml")
    (problem,) = caught.value.problems
    assert said in problem
    assert problem.startswith("s.yaml:3: ")


def test_a_junit_report_has_a_case_per_expectation() -> None:
    finding = judged("calm & <x>", parse("errors", 0), counts(), Outcome()).as_dict()
    report = {
        "scenario": 's"1.yaml',
        "complete": True,
        "expectations": [finding, judged(None, parse("ok", 1), counts(), Outcome()).as_dict()],
        "client": {"command": "pytest -q", "exit_code": 1},
        "total": {"seconds": 3.0},
    }
    suite = ElementTree.fromstring(junit(json.loads(json.dumps(report))))
    assert (suite.get("name"), suite.get("tests"), suite.get("failures")) == ('s"1.yaml', "4", "2")
    assert [case.get("classname") for case in suite] == ["calm & <x>", "total", "client", "scenario"]
    assert [failure.get("message") for failure in suite.iter("failure")] == [
        "errors is 2, expected at most 0",
        "exit code 1",
    ]


@pytest.mark.parametrize("odd", ["\x00\x1b[31m", "\ufffe\uffff", "\udcff", "\u2028 \x85", "]]>&\"'", "\U0001f600"])
def test_a_junit_report_is_valid_whatever_the_names_are(odd: str) -> None:
    finding = judged(f"step {odd}", parse("errors", 0), counts(), Outcome()).as_dict()
    report = {
        "scenario": f"{odd}.yaml",
        "complete": True,
        "expectations": [finding],
        "client": {"command": odd, "exit_code": 0},
        "total": {"seconds": 3.0},
    }
    suite = ElementTree.fromstring(junit(report).encode())
    assert (suite.get("tests"), suite.get("failures")) == ("3", "1")


def test_digits_of_a_time_are_those_of_every_time() -> None:
    finding = judged("calm", parse("p50", "1.5s"), ResultCounts(times=[0.0076]), Outcome())
    assert (finding.found, finding.expectation.wanted) == ("7.60 ms", "at most 1.5 s")


@pytest.mark.parametrize("name", ["errors", "lost", "injected", "5xx", "ok"])
def test_what_nothing_was_measured_of_does_not_hold(name: str) -> None:
    assert not judged(None, parse(name, 0), ResultCounts(), Outcome()).holds
    assert judged(None, parse("requests", 0), ResultCounts(), Outcome()).holds
