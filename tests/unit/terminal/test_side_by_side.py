"""How `inspect` looks on a terminal of any width, and in a pipe."""

from typing import Any

import pytest

from comet.inspection import rows
from comet.terminal import side_by_side
from tests.unit.inspection.samples import MACHINE, balancer, worker


@pytest.fixture
def report() -> dict[str, Any]:
    return rows.report([balancer(), worker()], MACHINE)


def lines(report: dict[str, Any], width: int | None) -> list[str]:
    return [line.plain for line in side_by_side.lines(report, width)]


@pytest.mark.parametrize("width", [50, 80, 120, 200])
def test_nothing_is_wider_than_the_terminal_and_nothing_is_lost(report: dict[str, Any], width: int) -> None:
    shown = lines(report, width)
    assert max(map(len, shown)) <= width
    assert "…" not in "".join(shown)
    words = " ".join(shown).split()
    for row in report["rows"]:
        assert any(row["heading"] in line for line in shown), row["heading"]
        assert set(row["meaning"].split()) <= set(words), row["meaning"]


def test_a_pipe_gets_one_line_for_each_row(report: dict[str, Any]) -> None:
    shown = lines(report, None)
    seccomp = next(line for line in shown if "Seccomp" in line)
    assert seccomp.split("  ")[0] == "≠"
    assert "off" in seccomp
    assert "filter (1 installed)" in seccomp
    assert sum(bool(line) for line in shown) == 1 + len(report["rows"]) + len(rows.GROUPS)


def test_rows_that_differ_are_marked(report: dict[str, Any]) -> None:
    marked = {line.split("  ")[1] for line in lines(report, None) if line.startswith("≠")}
    assert "Seccomp" in marked
    assert "User map" not in marked


def test_a_command_line_cannot_control_the_terminal(report: dict[str, Any]) -> None:
    command = next(row for row in report["rows"] if row["key"] == "command")
    command["values"][0]["text"] = "serve \x1b[2J\x07"
    assert all(line.isprintable() for line in lines(report, 100))
