"""Every bench, one after the other: one that fails is named and takes no other with it."""

import json
from pathlib import Path

import pytest

from scripts.bench import everything, page
from scripts.bench.__main__ import main
from scripts.bench.modes import BENCHES, Bench

SHORT = ("--rounds", "1", "--seconds", "0.1", "--only", "c1", "--rival", "nginx")
QUICK = (
    Bench("hung", "", "Hung", "chaos", ("--runtime", "process", "60"), planned=0.1, mode="chaos"),
    Bench("wrong", "", "Wrong", "load", ("--seconds", "0"), 300, "load"),
    Bench("lb", "", "What a request costs", "lb", SHORT, 300),
)


def test_what_fails_is_named_in_the_page_and_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for module in (everything, page):
        monkeypatch.setattr(module, "BENCHES", QUICK)
    target, results = tmp_path / "docs" / "benchmarks.md", tmp_path / "results"
    assert main(["all", "--page", str(target), "--results", str(results)]) == 1
    written = target.read_text()
    assert "- `hung`: ended after 0 s, for it did not end by itself" in written
    assert "- `wrong`: failed with exit code 2" in written
    assert "## What a request costs" in written
    assert "`scripts/bench.sh lb --rounds 1" in written
    assert "![What a request costs](benchmarks-lb.svg)" in written
    assert (target.parent / "benchmarks-lb.svg").exists()
    assert json.loads((results / "lb.json").read_text())["samples"]
    assert "2 of 3 failed" in capfd.readouterr().out


def test_an_old_result_is_not_taken_for_one_of_this_run(tmp_path: Path) -> None:
    (tmp_path / "wrong.json").write_text("{}")
    outcomes = everything.run_bench(QUICK[1], tmp_path)
    assert (outcomes.result, outcomes.error[:6]) == (None, "failed")


def test_what_would_begin_too_late_is_left_out_and_said_so(tmp_path: Path) -> None:
    outcomes = everything.run_bench(QUICK[2], tmp_path, deadline=0.0)
    assert (outcomes.result, outcomes.error) == (None, "left out: 20 minutes have passed")


def test_names_of_benches_cannot_be_taken_for_each_others_files() -> None:
    names = [bench.name for bench in BENCHES]
    assert len(set(names)) == len(names)
    assert not any(a.startswith(f"{b}-") for a in names for b in names)


def test_all_of_them_fit_into_the_time() -> None:
    assert sum(bench.planned for bench in BENCHES) < 0.9 * everything.TOTAL_TIME
