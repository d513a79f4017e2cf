"""Commands that act say what they did; commands that wait end when it is so. One cluster for the file."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import TestCluster, open_cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    with open_cluster(tmp_path_factory.mktemp("acting"), runtime="process", worker=2, pool=1, avg_delay=0) as made:
        made.start()
        yield made


def run(cluster: TestCluster, *words: str) -> str:
    done = cluster.comet(*words)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_kill_takes_several_names_and_wait_sees_the_next_lives(cluster: TestCluster) -> None:
    before = {name: row["pid"] for name, row in cluster.replicas().items()}
    assert run(cluster, "kill", "worker-0", "worker-1") == "worker-0 killed (SIGKILL)\nworker-1 killed (SIGKILL)\n"
    assert run(cluster, "wait", "all", "--for=ready", "--timeout", "60") == "all ready\n"
    after = {name: row["pid"] for name, row in cluster.replicas().items()}
    assert after["lb-0"] == before["lb-0"]
    assert not {after["worker-0"], after["worker-1"]} & set(before.values())
    assert run(cluster, "kill", "worker-0", "--signal", "CONT") == "SIGCONT sent to worker-0\n"
    assert json.loads(run(cluster, "kill", "worker-0", "--signal", "CONT", "--json"))["signal"] == "SIGCONT"


def test_an_unknown_name_stops_no_other_kill(cluster: TestCluster) -> None:
    done = cluster.comet("kill", "wroker-0", "worker-1", "--signal", "CONT")
    assert (done.returncode, done.stdout) == (2, "SIGCONT sent to worker-1\n")
    assert "did you mean worker-0?" in done.stderr


def test_scale_takes_both_words_and_says_what_was(cluster: TestCluster) -> None:
    assert run(cluster, "scale", "lb=2", "worker=3") == "worker=3 pool=2 (was worker=2 pool=1)\n"
    assert run(cluster, "wait", "worker-2", "lb-1", "--for=ready", "--timeout", "60") == "worker-2, lb-1 ready\n"
    assert run(cluster, "scale", "worker=2") == "worker=2 pool=2 (was worker=3)\n"
    assert run(cluster, "wait", "worker-2", "--for=gone") == "worker-2 gone\n"
    done = cluster.comet("wait", "worker-2", "--for=ready", "--timeout", "0")
    assert (done.returncode, done.stderr) == (1, "not ready within 0 s: worker-2 does not exist\n")
    assert cluster.comet("scale", "lb=1", "pool=1").returncode == 2
    assert cluster.comet("scale", "worker=-1").returncode == 2


def test_restart_takes_several_names_and_shows_its_progress(cluster: TestCluster) -> None:
    done = cluster.comet("restart", "worker-0", "worker-1")
    assert (done.returncode, done.stdout) == (0, "restarted worker-0, worker-1\n")
    assert "worker-2 serves in addition while others are replaced" in run(cluster, "events", "worker-2")


def test_an_unknown_name_keeps_the_others_from_being_restarted(cluster: TestCluster) -> None:
    before = cluster.replicas()["worker-0"]["pid"]
    done = cluster.comet("restart", "worker-0", "wroker-1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "wroker-1: no such replica (there are lb-0, lb-1, worker-0, worker-1; did you mean worker-1?)\n"
        "nothing was restarted\n"
    )
    assert cluster.replicas()["worker-0"]["pid"] == before


def test_reload_says_the_old_and_the_new_value(cluster: TestCluster) -> None:
    config = Path(cluster.folder) / "config.yaml"
    config.write_text(re.sub(r"avg-delay: .*", "avg-delay: 7\nretries: 1", config.read_text()))
    assert run(cluster, "reload") == "changed avg-delay 0 → 7, retries 2 → 1\n"


def test_faults_say_what_they_do(cluster: TestCluster) -> None:
    assert (
        run(cluster, "faults", "worker-0", "--failure", "50", "--for", "30s")
        == "worker-0 faults: failure=50 for 30 s\n"
    )
    assert (
        run(cluster, "faults", "all", "--failure", "5 %", "--count", "1")
        == "faults of all workers: failure=5 for the next request\n"
    )
    assert run(cluster, "faults", "front", "--refuse", "--for", "0.3 s") == "front faults: refuse=true for 0.3 s\n"
    assert run(cluster, "faults", "front", "--failure", "0", "--headers", "Retry-After: 2", "--body", "") == (
        "front faults: failure=0 headers='Retry-After: 2' body=''\n"
    )
    assert run(cluster, "faults", "front", "--clear") == "front faults: cleared\n"
    assert run(cluster, "faults", "--clear") == "faults of all workers: cleared\n"
    done = cluster.comet("faults", "frnt", "--reset", "5")
    assert (done.returncode, done.stderr) == (
        2,
        "faults: frnt: no such worker (there are worker-0, worker-1; did you mean front?); nothing was changed\n",
    )


def test_logs_of_all_have_names_and_times(cluster: TestCluster) -> None:
    every = run(cluster, "logs").splitlines()
    assert {line.split()[0] for line in every if line.startswith(" ")} <= {"lb-0", "lb-1", "worker-0", "worker-1"}
    assert any(re.match(r"\d\d:\d\d:\d\d\.\d{3}  lb-0      .* accepts on port", line) for line in every)
    assert any(re.match(r"\d\d:\d\d:\d\d\.\d{3}  worker-0  -- worker-0 exited by SIGKILL", line) for line in every)
    began = [line for line in every if "listening on" in line]
    assert len(began) >= 4, every
    assert all(re.match(r"\d\d:\d\d:\d\d\.\d{3}  worker-[0-9]  ", line) for line in began)
    two = [json.loads(line) for line in run(cluster, "logs", "lb-0", "worker-1", "--json").splitlines()]
    assert {record["replica"] for record in two} == {"lb-0", "worker-1"}


def test_events_of_one_replica(cluster: TestCluster) -> None:
    shown = [json.loads(line) for line in run(cluster, "events", "worker-0", "--json").splitlines()]
    assert {record["replica"] for record in shown} == {"worker-0"}
    done = cluster.comet("events", "wroker-0")
    assert (done.returncode, done.stderr) == (2, "wroker-0: no such replica (did you mean worker-0?)\n")


def test_stats_are_reset_and_a_stopped_cluster_is_gone(cluster: TestCluster) -> None:
    assert run(cluster, "stats", "--reset") == "statistics set back to zero\n"
    cluster.stop()
    assert run(cluster, "wait", "all", "--for=gone", "--timeout", "60") == "all gone\n"
    for words in (("kill", "worker-0", "worker-1"), ("inspect", "worker-0"), ("restart", "worker-0")):
        done = cluster.comet(*words)
        assert (done.returncode, len(done.stderr.splitlines())) == (3, 1), done.stderr
    # What they have printed is still there.
    served = {event["replica"] for event in cluster.events("replica_ready")}
    assert {line.split()[1] for line in run(cluster, "logs").splitlines()} == served
    done = cluster.comet("logs", "worker-9")
    assert (done.returncode, done.stdout) == (2, "")
    assert "(there are lb-0, " in done.stderr
