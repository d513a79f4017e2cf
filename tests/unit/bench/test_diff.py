"""Two results compared: the interval against known data, the verdicts, the command."""

import json
from pathlib import Path
from typing import Any

import pytest

from scripts.bench.__main__ import main
from scripts.bench.diff import Difference, compare, verdict, welch
from scripts.bench.proc import BenchError


def test_welchs_interval_of_known_data() -> None:
    # scipy.stats.ttest_ind(b, a, equal_var=False).confidence_interval(): 3.9 +- 2.85 at 9.4 degrees of freedom; the
    # table goes by 9.
    a, b = [20.1, 22.3, 19.8, 21.0, 20.6, 22.0], [25.9, 22.1, 27.0, 24.4, 25.0, 24.8]
    found = welch(a, b)
    assert found.a == pytest.approx(20.9667, abs=1e-3)
    assert found.b - found.a == pytest.approx(3.9, abs=1e-3)
    assert (found.low, found.high) == (pytest.approx(2.1, abs=0.1), pytest.approx(5.7, abs=0.1))
    assert found.certain


def test_noise_larger_than_the_effect_is_no_difference() -> None:
    assert verdict(welch([1.0, 9.0, 5.0], [2.0, 10.0, 6.0]), "less") == "within the noise"


def test_one_value_tells_nothing_of_the_noise() -> None:
    assert welch([1.0], [2.0]) == Difference(1.0, 2.0, None, None)
    assert verdict(welch([1.0], [2.0]), "less") == "noise unknown (one value)"
    assert verdict(welch([0.0, 0.0, 0.0], [0.0, 0.0]), "less") == "the same"
    with pytest.raises(ValueError, match="nothing"):
        welch([], [1.0])


@pytest.mark.parametrize(("better", "said"), [("less", "WORSE"), ("more", "better")])
def test_which_way_is_better_depends_on_what_is_measured(better: str, said: str) -> None:
    assert verdict(welch([1.0, 1.1, 0.9], [5.0, 5.1, 4.9]), better) == said


def result(values: list[float], bench: str = "load") -> dict[str, Any]:
    samples = {"latency p99": {"unit": "ms", "better": "less", "values": values}}
    return {"bench": bench, "at": "2026-01-02T03:04:05+00:00", "samples": samples, "settings": {"seconds": len(values)}}


def test_results_of_two_benches_are_not_compared() -> None:
    with pytest.raises(BenchError, match="same bench"):
        compare(result([1.0]), result([1.0], "lb"))


def test_bench_diff_shows_changes_beyond_noise_and_exits_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    a.write_text(json.dumps(result([10.0, 11.0, 10.5])))
    b.write_text(json.dumps(result([20.0, 21.0, 20.5, 20.2])))
    assert main(["diff", str(a), str(b)]) == 0
    told = capsys.readouterr().out
    assert "WORSE" in told
    assert "not the same: seconds: A 3, B 4" in told
    assert main(["diff", str(a), str(b), "--fail-on-worse"]) == 1
    assert main(["diff", str(b), str(a), "--fail-on-worse"]) == 0
    assert main(["diff", str(a), str(a), "--fail-on-worse"]) == 0


@pytest.mark.parametrize("content", ["no JSON", "[]", "{}"])
def test_a_file_that_is_no_result_is_one_line(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    assert main(["diff", str(path), str(path)]) == 1
    assert main(["diff", str(path), str(tmp_path / "missing")]) == 1
    assert "not a result" in capsys.readouterr().err


SAMPLE = {"unit": "ms", "better": "less", "values": [1.0, 2.0]}
DAMAGES: list[dict[str, Any]] = [
    *({"at": value} for value in (None, 5, [])),
    *({"bench": value} for value in (None, 5)),
    *({part: value} for part in ("settings", "versions", "machine") for value in (None, [], "x", 5)),
    *({"samples": value} for value in (None, [], {"a": None}, {"a": []}, {"a": {}})),
    *(
        {"samples": {"a": {**SAMPLE, "values": value}}}
        for value in (None, 5, {}, "12", [None, 1], ["1"], [True, False])
    ),
    *({"samples": {"a": {**SAMPLE, "values": [value, 1]}}} for value in (1e200, 10**400, float("nan"), float("inf"))),
    *({"samples": {"a": {**SAMPLE, key: value}}} for key in ("unit", "better") for value in (None, 5, [], "\ud800")),
]


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES, ids=str)
def test_a_damaged_result_is_one_line(
    tmp_path: Path, damage: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    sound, path = tmp_path / "a.json", tmp_path / "b.json"
    sound.write_text(json.dumps({**result([1.0, 2.0]), "samples": {"a": SAMPLE}}))
    path.write_text(json.dumps({**result([1.0, 2.0]), "samples": {"a": SAMPLE}, **damage}))
    assert main(["diff", str(sound), str(sound)]) == 0
    for pair in ((path, path), (sound, path), (path, sound)):
        capsys.readouterr()
        assert main(["diff", *map(str, pair)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "b.json: not a result of scripts/bench.sh" in line


@pytest.mark.parametrize("missing", ["at", "bench", "samples"])
def test_a_result_without_a_part_is_one_line(tmp_path: Path, missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({key: value for key, value in result([1.0]).items() if key != missing}))
    assert main(["diff", str(path), str(path)]) == 1
    path.write_text("[" * 100_000)
    assert main(["diff", str(path), str(path)]) == 1
    assert capsys.readouterr().err.count("not a result of scripts/bench.sh") == 2
