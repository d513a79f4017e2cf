"""The statistics as a user reads and resets them while a real cluster runs."""

from comet.statistics import database
from comet.terminal import tables


def test_a_report_counts_injected_and_unplanned_failures() -> None:
    entry = {
        "successful": 7,
        "failed": 3,
        "unplanned": 1,
        "disconnected": 2,
        "mean_ms": 12.34,
        "p50_ms": 10.0,
        "p99_ms": 40.0,
    }
    table = tables.statistics(
        {
            "total": {**entry, "injections": {"failure": 2, "hang": 4}},
            "workers": [{"name": "abc", **entry, "injections": {}}],
        }
    )
    columns = {column.heading: [row[index] for row in table.rows] for index, column in enumerate(table.columns)}
    assert columns["WORKER"] == ["total", "abc"]
    assert columns["REQUESTS"] == ["10", "10"]
    assert columns["INJECTED"] == ["failure 2, hang 4", "-"]
    assert (columns["UNPLANNED"], columns["BROKEN OFF"]) == (["1", "1"], ["2", "2"])
    calm = tables.statistics({"total": {**entry, "unplanned": 0, "disconnected": 0, "injections": {}}, "workers": []})
    assert [column.heading for column in calm.columns][-2:] == ["P99 ms", "INJECTED"]


def test_the_row_of_a_reused_pid_is_the_latest() -> None:
    names = ["17", "fdbaa57c12d3", "17.2", "17.3", "170"]
    assert database.rows_of(["17", "fdbaa57c12d3", "99"], names) == ["17.3", "fdbaa57c12d3"]
