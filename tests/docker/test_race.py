"""`race`: the same worker in both forms, killed at the same moment, in a running cluster and in one of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import ROOT, TestCluster, open_cluster

STEPS = ["noticed", "decided", "started", "ready"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    folder = tmp_path_factory.mktemp("cluster")
    # A check that a busy machine does not answer in time would end in an event of its own.
    with open_cluster(folder, runtime="mixed", worker=2, pool=1, restart_stable=0.5, health_timeout=20) as cluster:
        cluster.start()
        yield cluster
        cluster.stop()
        cluster.assert_nothing_left()


def race(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "supervisor.py"), "race", *arguments]
    return subprocess.run(
        command, check=False, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=600
    )


def test_both_forms_die_at_once_and_come_back_each_in_its_time(cluster: TestCluster) -> None:
    done = cluster.comet("race", "--rounds", "2", "--json", timeout=300)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    names = {form: each["replica"] for form, each in told["forms"].items()}
    assert names == {"process": "worker-1", "container": "worker-0"}
    assert [each["group"] for each in told["forms"].values()] == ["Worker as process", "Worker as container"]
    for form, name in names.items():
        exits, ready = cluster.events("replica_exited", name), cluster.events("replica_ready", name)[1:]
        assert [event["signal"] for event in exits] == ["SIGKILL"] * 2
        assert [event["timeline_ms"] for event in ready] == [steps[form] for steps in told["raw_steps_ms"]]
        assert [step for step in told["forms"][form]["steps_ms"] if step in STEPS] == STEPS
        assert told["forms"][form]["times_ms"] == [event["timeline_ms"]["ready"] for event in ready]
    assert cluster.events("backoff_entered") == []
    assert "round 2 of 2: process " in done.stderr


def test_events_and_the_drawing_name_the_forms(cluster: TestCluster) -> None:
    done = cluster.comet("race", "--rounds", "1", timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Worker as process (worker-1): " in done.stdout
    assert "Worker as container (worker-0): " in done.stdout
    events = cluster.comet("events").stdout
    assert "; Worker as process)" in events
    assert "; Worker as container)" in events


def test_without_a_cluster_it_races_in_one_of_its_own(tmp_path: Path) -> None:
    done = race(tmp_path, "--rounds", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rounds"] == 1
    assert list(tmp_path.iterdir()) == []


def test_it_refuses_in_one_line_where_there_is_no_engine(tmp_path: Path) -> None:
    done = race(tmp_path, DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "engine" in done.stderr


@pytest.mark.parametrize("rounds", ["0", "101"])
def test_rounds_are_bounded(tmp_path: Path, rounds: str) -> None:
    done = race(tmp_path, "--rounds", rounds)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "--rounds" in done.stderr
