"""`bench.sh` without a mode, against real clusters: what it finds, and its exit codes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import ROOT, TestCluster
from tests.support.fault_orders import order
from tests.support.shared import SharedCluster

Result = tuple[int, dict[str, Any], str]


def results(cluster: TestCluster) -> list[Path]:
    return sorted((cluster.folder / ".comet/bench").glob("*-load*.json"), key=lambda path: path.stat().st_mtime_ns)


def bench(cluster: TestCluster, *arguments: str) -> Result:
    """Exit code, result, and what was told, of a short load. Its result is one more in the cluster's folder."""
    before = len(results(cluster))
    command = [sys.executable, "-m", "scripts.bench", "--config", str(cluster.folder / "config.yaml"), *arguments]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=600, check=False
    )
    assert len(results(cluster)) == before + 1, done.stderr
    return done.returncode, json.loads(results(cluster)[-1].read_text()), done.stdout + done.stderr


@pytest.fixture(scope="module")
def shared(share_cluster: Callable[..., SharedCluster]) -> SharedCluster:
    return share_cluster(worker=3, runtime="process", failure=10, request_timeout=3)


@pytest.fixture
def running(shared: SharedCluster) -> TestCluster:
    return shared.lend()


def test_a_running_cluster_is_loaded_and_its_faults_are_found(running: TestCluster) -> None:
    thresholds = ("--max-uneven", "10", "--max-errors", "0", "--max-p99", "10000")
    code, result, told = bench(running, "--seconds", "2", "--clients", "12", *thresholds)
    assert code == 0, told
    assert result["data"]["ledger"]["wrong"] == []
    assert "the running cluster of" in result["settings"]["cluster"]
    assert "all thresholds are met" in told
    ways = ["as measured", "corrected, an estimate with what stalled clients did not ask"]
    assert (
        list(dict.fromkeys(row[0] for row in result["tables"][1]["rows"]))
        == ways
        == list(result["data"]["percentiles_are"].values())
    )
    for place, percent in enumerate(("50.0", "90.0", "99.0", "99.9", "100.0"), 2):
        whole = [row[place] for row in result["tables"][1]["rows"] if row[1] == "all"]
        assert whole == [result["data"]["percentiles_ms"][way][percent] for way in ("raw", "corrected")]
    written = results(running)[-1]
    page = written.with_suffix(".html").read_text()
    assert all(told.count(way) >= 3 and page.count(way) >= 3 for way in ways)
    assert "corrected times of a closed model are an estimate" in page
    for ending in (".png", "-2.png", ".svg", ".html"):
        assert written.with_name(written.stem + ending).stat().st_size > 500


def test_an_open_model_waits_for_the_last_answer(running: TestCluster) -> None:
    """Everybody has counted the same number."""
    code, result, told = bench(running, "--seconds", "2", "--rate", "60")
    assert code == 0, told
    ledger = result["data"]["ledger"]
    assert ledger["clients"] == ledger["lbs"] == ledger["workers"] == 120
    assert {row[0] for row in result["tables"][1]["rows"]} == {
        "raw, from when it was sent",
        "corrected, from when it was due",
    }


def test_unplanned_errors_are_above_their_threshold(running: TestCluster) -> None:
    code, result, told = bench(
        running,
        *["--seconds", "1", "--clients", "4", "--path", "/no", "--method", "POST", "--body", "5", "--max-errors", "0"],
    )
    assert code == 1, told
    assert result["data"]["whole"]["kinds"].keys() == {"4xx"}


def test_clients_of_a_hanging_worker_are_in_the_percentiles(running: TestCluster) -> None:
    """And in the thresholds."""
    order(running, "worker-1", "--hang", "20")
    code, _, told = bench(running, "--seconds", "3", "--clients", "8", "--max-p99", "1000", "--max-errors", "0")
    assert code == 1, told
    assert "above --max-p99 1000" in told


def test_a_slow_worker_is_the_bottleneck(running: TestCluster) -> None:
    """Round robin stays even; a policy that looks at connections gives the slow one less: deliberately uneven."""
    order(running, "worker-1", "--avg-delay", "250")
    code, _, told = bench(running, "--seconds", "2", "--clients", "12", "--max-uneven", "10")
    assert code == 0, told
    assert "bottleneck: worker worker-1: its requests take" in told

    running.write(balance="least-connections")
    assert running.comet("reload").returncode == 0
    code, _, told = bench(running, "--seconds", "2", "--clients", "12", "--max-uneven", "10")
    assert code == 1, told
    assert "balanced? NO: " in told
    assert "above --max-uneven 10" in told


def test_without_a_cluster_one_is_started_and_removed_again(
    make_cluster: Callable[..., TestCluster],
) -> None:
    cluster = make_cluster(
        worker=1, pool=1, runtime="process", avg_delay=3, tls="self-signed", faults="{worker-0: {failure: 100}}"
    )
    code, result, told = bench(cluster, "--seconds", "1", "--clients", "4")
    assert code == 0, told
    assert "one of this test's own: worker 1" in result["settings"]["cluster"]
    assert set(result["data"]["whole"]["kinds"]) == {"injected"}
    assert "smoke phase: passed" in told
    assert not (cluster.folder / ".comet" / "events.jsonl").exists()  # nothing ever ran in the config's own folder
    assert told.count("starting one for this test") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--seconds", "0"], 2, "--seconds must be above zero"),
        (["--rate", "nan"], 2, "--rate must be above zero"),
        (["--path", "x"], 2, "a path begins with /"),
        (["--config", "no/such/file"], 1, "no such file"),
        (["--nonsense"], 2, "unrecognized arguments"),
    ],
)
def test_bad_usage_is_one_line(arguments: list[str], code: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.bench", *arguments], env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
