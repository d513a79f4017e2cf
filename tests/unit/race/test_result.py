"""The statistics of a race, and its drawing: both forms on one axis."""

from math import comb
from statistics import median

import pytest

from comet.race.drawing import INDENT, lines
from comet.race.result import FORMS, Race, Spread


def made(process: list[float], container: list[float]) -> Race:
    def steps(ready: float) -> dict[str, float]:
        return {"died": 0.0, "noticed": 2.0, "decided": 3.0, "started": 9.0, "listening": ready - 5, "ready": ready}

    times = {"process": process, "container": container}
    return Race({form: f"worker-{1 - FORMS.index(form)}" for form in FORMS},
                {form: [steps(each) for each in times[form]] for form in FORMS})  # fmt: skip


@pytest.mark.parametrize("number", range(1, 41))
def test_an_interval_holds_the_median_as_often_as_it_says(number: int) -> None:
    values = [float(value * value) for value in range(number)]
    spread = Spread.of(values)
    rank = values.index(spread.low) + 1
    assert values[number - rank] == spread.high
    assert spread.median == median(values)
    outside = 2 * sum(comb(number, below) for below in range(rank)) / 2**number
    assert spread.coverage == pytest.approx(max(0.0, 1 - outside))
    narrower = 1 - 2 * sum(comb(number, below) for below in range(rank + 1)) / 2**number
    if number >= 6:
        assert narrower < 0.95 <= spread.coverage
    else:
        assert rank == 1


def test_the_difference_is_that_within_a_round() -> None:
    race = made([190, 180, 250, 185, 188, 191], [600, 590, 670, 610, 620, 605])
    more = race.difference
    assert (more.median, more.low, more.high) == (417.0, 410.0, 432.0)
    told = race.as_dict()
    assert told["forms"]["container"]["group"] == "Worker as container"
    assert told["forms"]["process"]["times_ms"] == [190, 180, 250, 185, 188, 191]
    assert len(told["raw_steps_ms"]) == told["rounds"] == 6


def test_backoff_is_left_out_of_times_and_steps() -> None:
    waited = {"died": 0.0, "noticed": 2.0, "backoff": 102.0, "decided": 103.0, "started": 109.0, "ready": 290.0}
    race = Race({"process": "worker-1", "container": "worker-0"}, {form: [waited] for form in FORMS})
    assert race.times("process") == [190.0]
    assert race.middle_steps("process") == {"died": 0.0, "noticed": 2.0, "decided": 3.0, "started": 9.0, "ready": 190.0}


@pytest.mark.parametrize("width", [40, 80, 120])
def test_both_forms_are_drawn_on_one_axis(width: int) -> None:
    drawn = list(lines(made([200.0] * 6, [400.0, 380.0, 420.0, 400.0, 390.0, 410.0]), width))
    bars = [line for line in drawn if line.startswith("Worker as") and "█" in line]
    process, container = (len(line) - INDENT for line in bars)
    assert process == pytest.approx(container / 2, abs=2)
    assert max(map(len, drawn[2:10])) <= max(width, 52) + 8
    middles = [line.index("●") for line in drawn if "●" in line][:2]
    assert middles == pytest.approx([len(bar) - 1 for bar in bars], abs=1)
    assert "As container it took 200 ms (97% interval 180 to 220 ms) longer, 2.0 times as long." in drawn


def test_an_outlier_does_not_flatten_the_rest() -> None:
    drawn = list(lines(made([200.0] * 6, [400.0, 400.0, 400.0, 400.0, 400.0, 20_000.0]), 100))
    bars = [line for line in drawn if line.startswith("Worker as") and "█" in line]
    assert min(len(line) - INDENT for line in bars) > 15
    assert any(line.endswith("»") for line in drawn)
    assert "1 beyond the axis, up to 20000 ms, at its end (»)" in drawn


def test_few_rounds_and_no_difference_are_said() -> None:
    text = "\n".join(lines(made([200.0], [150.0]), 80))
    assert "within the noise" in text
    assert "Fewer than 6 rounds give no interval of 95 %." in text


@pytest.mark.parametrize(
    ("container", "said"),
    [
        ([400.0] * 6, "As container it took 200 ms (97% interval 200 to 200 ms) longer, 2.0 times as long."),
        ([100.0] * 6, "As process it took 100 ms (97% interval 100 to 100 ms) longer, 2.0 times as long."),
        (
            [100.0, 300.0] * 3,
            "The difference, 0 ms (97% interval -100 to 100 ms), is within the noise: race more rounds.",
        ),
    ],
)
def test_the_slower_form_is_named_whichever_it_is(container: list[float], said: str) -> None:
    assert said in list(lines(made([200.0] * 6, container), 100))
