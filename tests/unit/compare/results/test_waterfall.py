"""What each layer of a start adds."""

from comet.compare import words
from comet.compare.results.findings import Findings
from comet.compare.results.waterfall import (
    BRIDGE,
    EMPTY,
    ENGINE,
    IMPORTS,
    INTERPRETER,
    NAMESPACES,
    RUNC,
    SECTION,
    added,
    waterfall,
)

TIMES = {EMPTY: 2.0, NAMESPACES: 5.0, RUNC: 40.0, ENGINE: 230.0, BRIDGE: 490.0}


def findings() -> Findings:
    made = Findings(rounds=3)
    for number in range(3):
        for name, value in TIMES.items():
            way = "process" if name in (EMPTY, NAMESPACES) else "container"
            made.measure(SECTION, name, "ms").note(way, number, value + number - 1)
        for name, process, container in ((INTERPRETER, 20.0, 510.0), (IMPORTS, 150.0, 640.0)):
            made.measure(SECTION, name, "ms").note("process", number, process)
            made.measure(SECTION, name, "ms").note("container", number, container)
        made.measure("life", "cold start to ready", "ms").note("process", number, 190.0)
        made.measure("life", "cold start to ready", "ms").note("container", number, 630.0)
    return made


def test_a_layer_is_what_comes_on_top_of_the_one_below() -> None:
    found = findings()
    assert waterfall(found, "process") == {
        "program": 2.0, "interpreter": 20.0, "imports": 150.0, "ready": 190.0,
    }  # fmt: skip
    assert added(waterfall(found, "container")) == {
        "program": 2.0, "namespaces": 3.0, "runc": 35.0, "engine": 190.0, "network": 260.0,
        "interpreter": 20.0, "imports": 130.0, "ready": 0.0,
    }  # fmt: skip


def test_what_was_not_measured_is_missing_in_the_sentence() -> None:
    found = findings()
    found.measures = [each for each in found.measures if each.name != RUNC]
    assert "runc" not in waterfall(found, "container")
    told = [sentence for sentence in words.summary(found) if sentence.startswith("The start of a container")]
    assert told == [
        "The start of a container, layer by layer (medians): program 2.00 ms, namespaces 3.00 ms, "
        "engine 225 ms, network 260 ms, interpreter 20.0 ms, imports 130 ms, ready 0 ms."
    ]
    assert waterfall(Findings(), "process") == {}
