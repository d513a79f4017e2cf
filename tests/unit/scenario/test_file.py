"""Scenario files: what they say, what is refused with its line, and the orders made of them."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from comet.common.errors import UserError
from comet.common.yaml_lines import ConfigError
from comet.scenario.file import parse, unknown_names
from comet.scenario.player import ScenarioPlayer, targets
from comet.state.directory import Cluster
from tests.support.cluster import ROOT
from tests.support.waiting import wait_until

GOOD = """
description: two steps
clients: 4
pause: 5ms
timeout: 2s
steps:
  - for: 300ms
  - name: bad
    for: 1.5
    clients: 8
    pause: 0
    faults:
      all: {failure: 50}
      worker-1: {avg-delay: 20, failure: 100}
    kill: [worker-0, lb-1]
"""


def test_a_scenario_is_read() -> None:
    made = parse(GOOD, "good.yaml")
    assert (made.description, made.timeout, made.path, made.seconds) == ("two steps", 2.0, "", 1.8)
    first, second = made.steps
    assert (first.name, first.seconds, first.clients, first.pause, first.faults, first.kill) == (
        "step 1",
        0.3,
        4,
        0.005,
        {},
        (),
    )
    assert (second.name, second.seconds, second.clients, second.pause, second.kill) == (
        "bad",
        1.5,
        8,
        0.0,
        ("worker-0", "lb-1"),
    )
    assert second.settings("worker-0") == {"failure": 50.0}
    assert second.settings("worker-1") == {"failure": 100.0, "avg-delay": 20.0}
    assert targets(second, ["worker-0"], second.faults) == {"all": {"failure": 50.0}}
    assert targets(second, ["worker-0", "worker-1"], second.faults) == {
        "worker-0": {"failure": 50.0},
        "worker-1": {"failure": 100.0, "avg-delay": 20.0},
    }


def test_a_step_may_have_faults_of_the_front() -> None:
    made = parse("steps: [{for: 1s, faults: {front: {reset: 10%, path: /a}}}, {for: 1s}]", "s.yaml")
    with_front, without = made.steps
    assert list(unknown_names(made, ["worker-0"], ["lb-0"])) == []
    assert targets(with_front, ["worker-0"], {"front"}) == {"front": {"reset": 10.0, "path": "/a"}}
    assert targets(without, ["worker-0"], {"front"}) == {"front": {}}
    assert list(targets(with_front, ["worker-0"], {"front", "all"}).items())[-1][0] == "front"
    with pytest.raises(ConfigError, match=r"faults.front.cpu: unknown key"):
        parse("steps: [{for: 1s, faults: {front: {cpu: 1}}}]", "s.yaml")


@pytest.mark.parametrize("path", sorted((ROOT / "scenarios").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_included_scenarios_fit_the_default_cluster(path: Path) -> None:
    made = parse(path.read_text(), path.name)
    assert made.description
    assert made.seconds <= 60
    assert list(unknown_names(made, ["worker-0", "worker-1", "worker-2"], ["lb-0", "lb-1"])) == []


def test_there_are_five_scenarios() -> None:
    names = {path.stem for path in (ROOT / "scenarios").glob("*.yaml")}
    assert names == {"slow-worker", "flapping-worker", "rolling-crash", "brown-out", "thundering-herd"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "s.yaml:1: the file is empty (`steps:` and a list of steps is a beginning)"),
        ("clients: 3", "s.yaml:1: steps: is missing"),
        (
            "steps: soon",
            "s.yaml:1: steps: 'soon' is not usable (allowed: a list of steps, each of the form `- for: 5s`)",
        ),
        ("steps: []", "s.yaml:1: steps: [] is not usable"),
        ("steps:\n  - 5s", "s.yaml:1: step 1: '5s' is not usable (allowed: lines of the form `for: 5s`)"),
        ("steps:\n  - name: x", "s.yaml:2: step 1: for: is missing (allowed: a time from 100ms to 1h)"),
        (
            "headers: {Content-Length: 5}\nsteps: [{for: 1s}]",
            "s.yaml:1: headers: Content-Length: it follows from the body",
        ),
        (
            "headers: {transfer-encoding: chunked}\nsteps: [{for: 1s}]",
            "s.yaml:1: headers: transfer-encoding: it follows",
        ),
        ("steps:\n  - {for: 1s, every: 1s}", "s.yaml:2: step 1: every: has no kill to repeat (add kill)"),
        (
            "seed: 99999999999\nsteps:\n  - for: 1s",
            "s.yaml:1: seed: 99999999999 is out of range (allowed: a whole number from 0 to 2147483648)",
        ),
        ("steps:\n  - {for: 1s, rate: 5, clients: 2}", "s.yaml:2: step 1: clients: has no effect with rate"),
        ("steps:\n  - {for: 1s, rate: 5, pause: 2s}", "s.yaml:2: step 1: pause: has no effect with rate"),
        ("rate: 5\nclients: 2\nsteps:\n  - for: 1s", "s.yaml:1: clients: has no effect with rate"),
        ('steps:\n  - {for: 1s, name: "a\\e[31m"}', "s.yaml:2: step 1: name: "),
        ('steps:\n  - {for: 1s, name: "a\\nb"}', "s.yaml:2: step 1: name: 'a\\nb' is not usable (allowed: text of"),
        ("steps:\n  - for: 2h", "s.yaml:2: step 1: for: 2h is out of range"),
        ("steps:\n  - for: soon", "s.yaml:2: step 1: for: soon is not usable"),
        (
            "steps:\n  - for: 1s\n    fault: {}",
            "s.yaml:3: step 1: fault: unknown key (allowed: name, for, clients, pause, rate, every, faults, kill, do, "
            "expect)",
        ),
        ("steps:\n  - for: 1s\n    faults: [a]", "s.yaml:3: step 1: faults: ['a'] is not usable"),
        (
            "steps:\n  - for: 1s\n    faults: {all: {hang: 101}}",
            "s.yaml:3: faults.all.hang: 101 is out of range (allowed: percent, ",
        ),
        (
            "steps:\n  - for: 1s\n    faults:\n      all:\n        hnag: 1",
            "s.yaml:5: faults.all.hnag: unknown key (did you mean hang?)",
        ),
        ("steps:\n  - for: 1s\n    kill: {a: b}", "s.yaml:3: step 1: kill: {'a': 'b'} is not usable"),
        ("steps:\n  - for: 1s\n    kill:", "s.yaml:3: step 1: kill: nothing is not usable"),
        (
            "clients: 501\nsteps:\n  - for: 1s",
            "s.yaml:1: clients: 501 is out of range (allowed: a whole number from 0 to 500, or a ramp such as 5..50)",
        ),
        ("clients: 5\nclients: 6\nsteps:\n  - for: 1s", "s.yaml:2: clients: appears twice (keep one)"),
        (
            "speed: 5\nsteps:\n  - for: 1s",
            "s.yaml:1: speed: unknown key (allowed: description, clients, pause, timeout, path, method, headers, body, "
            "rate, seed, expect, steps)",
        ),
        ("steps:\n - for: 1s\n  x", "s.yaml:3: not valid YAML"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "s.yaml")
    (problem,) = caught.value.problems
    assert problem.startswith(said)
    assert caught.value.exit_code == 2


def test_names_that_the_cluster_does_not_have_are_refused() -> None:
    made = parse(GOOD, "good.yaml")
    assert list(unknown_names(made, ["worker-0"], ["lb-0"])) == [
        "good.yaml:8: bad: faults: worker-1: no such worker (there are worker-0)",
        "good.yaml:8: bad: kill: lb-1: no such replica (there are lb-0, worker-0)",
    ]


def test_names_of_actions_are_checked_by_what_the_action_takes() -> None:
    made = parse(
        "steps:\n  - {name: a, for: 1s, do: [{drain: lb-0}, {restart: worker-7}, {restart: all}, {kill: random},"
        " {signal: {worker-8: STOP}}]}\n",
        "s.yaml",
    )
    assert list(unknown_names(made, ["worker-0"], ["lb-0"])) == [
        "s.yaml:2: a: drain: lb-0: no such worker (there are worker-0)",
        "s.yaml:2: a: restart: worker-7: no such replica (there are lb-0, worker-0)",
        "s.yaml:2: a: kill: worker-8: no such replica (there are lb-0, worker-0)",
    ]


def test_names_are_those_that_earlier_scaling_leaves() -> None:
    made = parse(
        "steps:\n"
        "  - {name: a, for: 1s, faults: {worker-1: {hang: 1}}, kill: [lb-1, worker-3],"
        " do: [{drain: worker-1}, {scale: {worker: 4}}, {drain: worker-3}, {scale: {worker: 1, lb: 1}},"
        " {undrain: [worker-1, worker-2]}, {restart: lb-1}]}\n"
        "  - {name: b, for: 1s, faults: {worker-1: {hang: 1}}, kill: [worker-0, lb-1]}\n"
        "  - {name: c, for: 1s, kill: lb-1, every: 100ms, do: [{scale: {lb: 2}}]}\n"
        "  - {name: d, for: 1s, kill: lb-1, do: [reload, {pause: 1s}, resume, {kill: lb-1}]}\n",
        "s.yaml",
    )
    assert list(unknown_names(made, ["worker-0", "worker-1"], ["lb-0", "lb-1"])) == [
        "s.yaml:2: a: kill: worker-3: no such replica (there are lb-0, lb-1, worker-0, worker-1)",
        "s.yaml:2: a: undrain: worker-1: no such worker (there are worker-0)",
        "s.yaml:2: a: undrain: worker-2: no such worker (there are worker-0)",
        "s.yaml:2: a: restart: lb-1: no such replica (there are lb-0, worker-0)",
        "s.yaml:3: b: faults: worker-1: no such worker (there are worker-0)",
        "s.yaml:3: b: kill: lb-1: no such replica (there are lb-0, worker-0)",
    ]


def test_a_replica_is_expected_only_where_the_cluster_has_it() -> None:
    made = parse(
        "expect: {replicas: {lb-3: ready}}\nsteps:\n"
        "  - {name: a, for: 1s, expect: {replicas: {wroker: ready}}}\n".replace("wroker", "worker-9")
        + "  - {name: b, for: 1s, do: [{scale: {worker: 4}}], expect: {replicas: {worker-3: ready, all: ready}}}\n",
        "s.yaml",
    )
    assert list(unknown_names(made, ["worker-0"], ["lb-0"])) == [
        "s.yaml:3: a: expect: worker-9: no such replica (there are lb-0, worker-0, worker-1, worker-2, worker-3)",
        "s.yaml: expect: lb-3: no such replica (there are lb-0, worker-0, worker-1, worker-2, worker-3)",
    ]


@pytest.mark.slow
def test_faults_a_step_could_not_clear_are_cleared_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def call(self: ScenarioPlayer, command: str, **fields: Any) -> dict[str, Any]:
        if command == "faults":
            asked.append(fields)
            if len(asked) == 2:
                raise UserError("the supervisor does not answer")
        return {"replicas": []}

    monkeypatch.setattr(ScenarioPlayer, "_call", call)
    scenario = parse("clients: 0\nsteps:\n- for: 100ms\n  faults: {all: {hang: 100}}\n- for: 100ms\n", "s.yaml")
    player = ScenarioPlayer(scenario, Cluster(Path("/nowhere")), [("127.0.0.1", 1)], ["worker-0"], lambda _: None)
    with pytest.raises(UserError):
        player.run()
    assert [each.get("clear", False) for each in asked] == [False, True, True]


def test_a_step_is_judged_while_its_faults_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the order that renews them takes until the first one is over."""
    orders = 0
    state = "unhealthy"

    def call(self: ScenarioPlayer, command: str, **fields: Any) -> dict[str, Any]:
        nonlocal orders, state
        if command == "faults":
            orders += 1
            if orders == 2:
                with contextlib.suppress(AssertionError):
                    wait_until(lambda: player._played[0].outcome.states, 0.5)
                state = "ready"
        return {"replicas": [{"name": "worker-0", "role": "worker", "state": state}]}

    monkeypatch.setattr(ScenarioPlayer, "_call", call)
    monkeypatch.setattr("comet.scenario.player.OVERLAP", 0.2)
    text = "clients: 0\nsteps: [{for: 100ms, faults: {all: {hang: 100}}, expect: {replicas: {worker-0: unhealthy}}}]\n"
    place = Cluster(Path("/nowhere")), [("127.0.0.1", 1)], ["worker-0"]
    player = ScenarioPlayer(parse(text, "s.yaml"), *place, lambda _: None)
    player.run()
    assert orders > 1
    assert [(each["found"], each["holds"]) for each in player.report()["expectations"]] == [("1 unhealthy", True)]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("steps: [{for: 1s, do: [{scale: {}}]}]", "s.yaml:1: step 1: do: {'scale': {}}: scale: {} is not usable"),
        (
            "steps: [{for: 1s, do: [{scale: {lb: 2, pool: 1}}]}]",
            "s.yaml:1: step 1: do: {'scale': {'lb': 2, 'pool': 1}}: scale: pool appears twice in it",
        ),
        ("steps: [{for: 1s, do: [{signal: {}}]}]", "s.yaml:1: step 1: do: {'signal': {}}: signal: {} is not usable"),
        ("steps: [{for: 1s, expect: {replicas: {}}}]", "s.yaml:1: expect.replicas: {} is not usable"),
        ("headers: {Host: a, host: b}\nsteps: [{for: 1s}]", "s.yaml:1: headers: host appears twice in it"),
    ],
)
def test_what_says_nothing_or_one_thing_twice_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "s.yaml")
    (found,) = caught.value.problems
    assert found.startswith(problem)
