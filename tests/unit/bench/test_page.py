"""A result as a section of the page of benchmarks."""

from pathlib import Path

from comet.report.model import Table
from scripts.bench.page import markdown, section, write

RESULT = {
    "at": "2026-01-02T03:04:05+00:00",
    "machine": {"cpu": "X", "cores": 2},
    "versions": {"wrk": "4.1"},
    "settings": {"load": "light"},
    "tables": [{"title": "T", "columns": ["case", "us"], "rows": [["a", 1.5]]}],
    "notes": ["no failed request"],
}


def test_a_section_says_how_when_and_where_and_what() -> None:
    text = section("lb", "Costs", RESULT, ["benchmarks-lb.svg"])
    for part in (
        "## Costs",
        "`scripts/bench.sh lb`, 2026-01-02",
        "- versions: wrk 4.1",
        "| a | 1.50 |",
        "- no failed request",
        "benchmarks-lb.svg",
    ):
        assert part in text
    assert "svg" not in section("lb", "Costs", RESULT, [])


def test_a_result_that_did_not_pass_says_so() -> None:
    assert "**It did not pass" in section("lb", "Costs", RESULT | {"passed": False}, [])


def test_a_result_takes_the_place_of_its_last_one_alone(tmp_path: Path) -> None:
    folder, docs = tmp_path / "results", tmp_path / "docs"
    for path in (folder, docs):
        path.mkdir()
    for name in ("load.svg", "load-2.svg"):
        (folder / name).write_text("<svg/>")
    (docs / "benchmarks-load-3.svg").write_text("<svg/>")
    page = docs / "benchmarks.md"
    page.write_text("# Old\n\n## Gone since\n\nits last result\n\n## A cluster under load, closed model\n\nold\n")
    write(page, folder, {"load": RESULT}, ["`lb`: failed"])
    text = page.read_text()
    assert text.index("(benchmarks-load.svg)") < text.index("(benchmarks-load-2.svg)")
    assert "- `lb`: failed" in text
    assert "## Gone since\n\nits last result" in text
    assert "old" not in text
    assert {path.name for path in docs.iterdir()} == {"benchmarks.md", "benchmarks-load.svg", "benchmarks-load-2.svg"}


def test_figures_stand_on_the_right() -> None:
    table = Table("T", ["case", "us", "met"], [["plain", 3.14159, "yes"], ["other", None, "no"]])
    assert markdown(table).splitlines()[2:4] == ["| case | us | met |", "| --- | ---: | --- |"]
