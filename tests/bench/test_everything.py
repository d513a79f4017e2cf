"""Every bench, one after the other: one that fails is named and takes no other with it."""

import json
from pathlib import Path

import pytest

from scripts.bench import everything, page
from scripts.bench.__main__ import main
from scripts.bench.modes import BENCHES, Bench

pytestmark = pytest.mark.slow

QUICK = (
    Bench("hung", "", "Hung", "worker_stats", ("--rounds", "100", "--seconds", "1"), limit=0.4, mode="stats"),
    Bench("wrong", "", "Wrong", "load", ("--seconds", "0"), mode="load"),
    Bench("stats", "", "What exact statistics cost", "worker_stats", ("--rounds", "1", "--seconds", "0.1", "--kills", "1")),
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
    assert "## What exact statistics cost" in written
    assert "| date |" in written
    assert "`scripts/bench.sh stats --rounds 1" in written
    assert "![What exact statistics cost](benchmarks-stats.svg)" in written
    assert (target.parent / "benchmarks-stats.svg").exists()
    assert json.loads((results / "stats.json").read_text())["samples"]
    assert "2 of 3 failed" in capfd.readouterr().out


def test_an_old_result_is_not_taken_for_one_of_this_run(tmp_path: Path) -> None:
    (tmp_path / "wrong.json").write_text("{}")
    ended = everything.one(QUICK[1], tmp_path)
    assert (ended.result, ended.wrong[:6]) == (None, "failed")


def test_what_would_begin_too_late_is_left_out_and_said_so(tmp_path: Path) -> None:
    ended = everything.one(QUICK[2], tmp_path, deadline=0.0)
    assert (ended.result, ended.wrong) == (None, "left out: 20 minutes were over")


def test_names_of_benches_cannot_be_taken_for_each_others_files() -> None:
    names = [bench.name for bench in BENCHES]
    assert len(set(names)) == len(names)
    assert not any(a.startswith(f"{b}-") for a in names for b in names)
