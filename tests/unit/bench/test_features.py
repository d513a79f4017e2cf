"""Whether two proxies did the same, and what of a difference is accepted."""

import pytest

from scripts.bench.features.bench import row, verdict
from scripts.bench.features.cases import Outcome, in_turn
from scripts.bench.features.declared import Feature
from scripts.bench.features.fronts import Settings

FEATURE = Feature("name", "traffic", in_turn, Settings({}), tolerance={"shares": 2}, differs={"gone": "a reason"})


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        (Outcome({"shares": [10, 20]}), Outcome({"shares": [12, 18]}), "same"),
        (Outcome({"shares": [10, 20]}), Outcome({"shares": [13, 20]}), "NOT the same"),
        (Outcome({"shares": [10, 20]}), Outcome({"shares": [10]}), "NOT the same"),
        (Outcome({"text": "a"}), Outcome({"text": "b"}), "NOT the same"),
        (Outcome({"gone": 0, "shares": [1]}), Outcome({"gone": 4, "shares": [1]}), "differs: a reason"),
        (Outcome({"gone": 0, "shares": [1]}), Outcome({"gone": 4, "shares": [9]}), "NOT the same"),
        (Outcome({"gone": 0}, errors=1), Outcome({"gone": 0}), "NOT the same"),
        (Outcome({"gone": 0}, after=0), Outcome({"gone": 0}, after=1), "NOT the same"),
    ],
)
def test_the_verdict(own: Outcome, other: Outcome, expected: str) -> None:
    assert verdict(FEATURE, own, other) == expected


def test_a_row_shows_both() -> None:
    own, other = Outcome({"shares": [10, 20], "gone": 0}, 1, 0), Outcome({"shares": [11, 19], "gone": 0}, 1, 0)
    assert row(FEATURE, own, other) == [
        *("name", "traffic", "shares; gone", "10 / 20; 0", "11 / 19; 0", "haproxy", "1, 1", "0, 0", "same"),
    ]
