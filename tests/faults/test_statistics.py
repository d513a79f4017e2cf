"""The statistics as a user reads and resets them while a real cluster runs."""

import json
from collections.abc import Callable

import pytest
import requests

from comet import database, tables
from tests.integration.clusters import House


def shown(house: House) -> dict[str, list[str]]:
    """The lines of the table by their first word."""
    done = house.comet("stats")
    assert done.returncode == 0, done.stderr
    return {line.split()[0]: line.split() for line in done.stdout.splitlines()}


@pytest.mark.docker
@pytest.mark.slow
def test_a_reset_zeroes_the_living_workers_and_drops_the_former(make_house: Callable[..., House], runtime: str) -> None:
    house = make_house(worker=2, runtime=runtime)
    house.start()
    former = house.replicas()["worker-1"]["id"]
    for number in range(8):
        assert house.hello(number % 2).status_code == 200
    assert house.comet("restart", "worker-1").returncode == 0
    living = {row["id"] for name, row in house.replicas().items() if name.startswith("worker")}
    assert former in house.counts()
    done = house.comet("stats", "--reset")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    # At once, not when a worker next looks for its row: whoever asks now must find every worker, with zeros.
    listed = json.loads(house.comet("stats", "--json").stdout)
    assert {key: value for entry in listed["TotalRequests"] for key, value in entry.items()} == dict.fromkeys(["total", *living], 0)
    for number in range(6):
        assert house.hello(number % 2).status_code == 200
    assert house.counts()["total"] == 6
    assert set(house.counts()) == {"total", *living}
    house.stop()


@pytest.mark.docker
@pytest.mark.slow
def test_stats_shows_percentiles_and_injections_and_its_json_keeps_the_contracts_shape(make_house: Callable[..., House]) -> None:
    house = make_house(worker=1, pool=1, runtime="process", failure=100)
    house.start()
    for _ in range(5):
        assert house.hello().status_code == 500
    row = shown(house)[house.replicas()["worker-0"]["id"]]
    assert row[1:4] == ["5", "0", "5"]
    assert row[-2:] == ["failure", "5"]
    assert shown(house)["WORKER"] == ["WORKER", "REQUESTS", "SUCCESSFUL", "FAILED", "AVERAGE", "ms", "P50", "ms", "P99", "ms", "INJECTED"]
    assert shown(house)["total"][-2:] == ["failure", "5"]
    answer = requests.get(f"{house.lb()}/worker/stats", timeout=10)
    assert house.comet("stats", "--json").stdout == answer.text + "\n"
    house.stop()


def test_the_table_of_a_report_counts_what_was_injected_and_what_nobody_planned() -> None:
    entry = {"successful": 7, "failed": 3, "unplanned": 1, "disconnected": 2, "mean_ms": 12.34, "p50_ms": 10.0, "p99_ms": 40.0}
    table = tables.statistics(
        {"total": {**entry, "injections": {"failure": 2, "hang": 4}}, "workers": [{"name": "abc", **entry, "injections": {}}]}
    )
    columns = {column.heading: [row[index] for row in table.rows] for index, column in enumerate(table.columns)}
    assert columns["WORKER"] == ["total", "abc"]
    assert columns["REQUESTS"] == ["10", "10"]
    assert columns["INJECTED"] == ["failure 2, hang 4", "-"]
    assert (columns["UNPLANNED"], columns["BROKEN OFF"]) == (["1", "1"], ["2", "2"])
    calm = tables.statistics({"total": {**entry, "unplanned": 0, "disconnected": 0, "injections": {}}, "workers": []})
    assert [column.heading for column in calm.columns][-2:] == ["P99 ms", "INJECTED"]


def test_the_row_of_a_process_whose_pid_was_met_before_is_the_latest() -> None:
    names = ["17", "fdbaa57c12d3", "17.2", "17.3", "170"]
    assert database.rows_of(["17", "fdbaa57c12d3", "99"], names) == ["17.3", "fdbaa57c12d3"]
