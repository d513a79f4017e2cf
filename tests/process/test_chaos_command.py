"""`chaos` on a user's own cluster."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.cluster import open_cluster


def test_chaos_explains_every_error_of_a_sound_cluster(tmp_path: Path) -> None:
    with open_cluster(tmp_path, runtime="process", worker=3, pool=2, avg_delay=0, failure=0) as cluster:
        cluster.start()
        done = cluster.comet("chaos", "--for", "5s", "--seed", "7", "--kinds", "worker,lb,freeze,fault", "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        told = json.loads(done.stdout)
        assert told["passed"]
        assert told["requests"] > 100
        assert {row["kind"] for row in told["actions"]} & {"worker", "lb"}
        assert all(row["state"] == "ready" for row in cluster.replicas().values())
        done = cluster.comet("chaos", "--for", "100ms", "--kinds", "fault", "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        (short,) = json.loads(done.stdout)["actions"]
        assert (short["kind"], short["times"]) == ("fault", 1)
        assert not any(row["faults"]["failure"] for row in cluster.replicas().values() if row["role"] == "worker")
        assert cluster.comet("scale", "worker=1").returncode == 0
        done = cluster.comet("chaos", "--for", "100ms", "--kinds", "worker")
        assert done.returncode == 1
        assert "MISSED  nothing was done: no replica that could be spared was ready\n" in done.stdout
        assert cluster.comet("chaos", "--kinds", "wroker").returncode == 2
        cluster.stop()


def test_an_interrupted_run_reports_the_time_that_it_played(tmp_path: Path) -> None:
    with open_cluster(tmp_path, runtime="process", worker=2, pool=1, avg_delay=0, failure=0) as cluster:
        cluster.start()
        with subprocess.Popen(
            [*cluster.command, "chaos", "--for", "500s", "--kinds", "fault", "--json"], cwd=cluster.folder,
            env=os.environ | cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as run:  # fmt: skip
            assert run.stderr is not None
            for line in run.stderr:
                if line.startswith("  fault"):
                    break
            run.send_signal(signal.SIGINT)
            told = json.loads(run.communicate(timeout=60)[0])
        assert run.returncode == 130
        assert told["complete"] is False
        assert 0 < told["seconds"] < 100
        cluster.stop()


@pytest.mark.parametrize(
    "commands",
    [
        [("scale", "pool=1")],
        [("restart", "all"), ("scale", "worker=2", "pool=3"), ("scale", "worker=3", "pool=2")],
    ],
    ids=["fewer", "restart and scale"],
)
def test_what_a_command_stops_is_no_death(tmp_path: Path, commands: list[tuple[str, ...]]) -> None:
    with open_cluster(tmp_path, runtime="process", worker=3, pool=2, avg_delay=0, failure=0) as cluster:
        cluster.start()
        with subprocess.Popen(
            [*cluster.command, "chaos", "--for", "6s", "--seed", "3", "--kinds", "lb,worker", "--rate", "99", "--json"],
            cwd=cluster.folder, env=os.environ | cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        ) as run:  # fmt: skip
            assert run.stderr is not None
            next(line for line in run.stderr if line.startswith("  "))
            for command in commands:
                done = cluster.comet(*command)
                assert done.returncode == 0, done.stderr
            told = json.loads(run.communicate(timeout=120)[0])
        assert (run.returncode, told["not_ready"], told["unexplained"]) == (0, [], {}), told
        assert all(len(row["recovery_ms"]) <= row["times"] for row in told["actions"])
        assert all(max(row["recovery_ms"], default=0) < 20_000 for row in told["actions"])
        cluster.stop()
