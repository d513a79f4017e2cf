"""`runtime: mixed`: containers and plain processes in one fleet, which is one to everything that is done to it."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.cluster import TestCluster, open_cluster
from tests.support.waiting import wait_until

KINDS = {"worker-0": "container", "worker-1": "process", "worker-2": "container", "worker-3": "process"}
WORKERS = tuple(KINDS)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    # A check that a busy machine does not answer in time would take a worker out.
    patient = {"health_timeout": 20}
    with open_cluster(tmp_path_factory.mktemp("cluster"), runtime="mixed", worker=4, pool=2, **patient) as cluster:
        cluster.start()
        yield cluster
        cluster.stop()
        cluster.assert_nothing_left()


def kinds(cluster: TestCluster) -> dict[str, str]:
    rows = cluster.replicas()
    return {name: row["kind"] for name, row in rows.items() if row["role"] == "worker" and row["state"] == "ready"}


def answering(cluster: TestCluster) -> set[str]:
    """The workers that answer two rounds of requests."""
    answers = [cluster.hello() for _ in range(2 * len(WORKERS))]
    assert {answer.status_code for answer in answers} == {200}
    return {answer.headers["X-Comet-Worker"] for answer in answers}


def done(cluster: TestCluster, *arguments: str) -> Any:
    made = cluster.comet(*arguments, "--json")
    assert made.returncode == 0, f"{made.stdout}\n{made.stderr}"
    return json.loads(made.stdout)


def lives(cluster: TestCluster) -> dict[str, tuple[str, int]]:
    return {name: (row["id"], row["pid"]) for name, row in cluster.replicas().items()}


def test_the_kinds_alternate_and_all_serve(cluster: TestCluster) -> None:
    assert kinds(cluster) == KINDS
    assert answering(cluster) == set(WORKERS)


def test_all_count_in_one_database(cluster: TestCluster) -> None:
    before = cluster.counts()
    assert answering(cluster) == set(WORKERS)
    after = cluster.counts()
    assert after["total"] - before["total"] == 2 * len(WORKERS)
    assert done(cluster, "stats")["TotalRequests"]


@pytest.mark.parametrize("name", ["worker-0", "worker-1"])
def test_a_killed_worker_of_either_kind_comes_back(cluster: TestCluster, name: str) -> None:
    before = cluster.replicas()[name]
    done(cluster, "kill", name)

    def back() -> bool:
        row = cluster.replicas()[name]
        return row["state"] == "ready" and row["restarts"] == before["restarts"] + 1

    wait_until(back, what="it is back")
    assert cluster.replicas()[name]["last_exit"]["signal"] == "SIGKILL"
    assert kinds(cluster) == KINDS


@pytest.mark.parametrize("name", ["worker-0", "worker-1"])
def test_the_logs_of_either_kind_are_read(cluster: TestCluster, name: str) -> None:
    assert name in cluster.comet("logs", name).stdout


def test_faults_reach_both_kinds(cluster: TestCluster) -> None:
    assert cluster.comet("faults", "--failure", "100").returncode == 0
    try:

        def failing() -> bool:
            answers = [cluster.hello() for _ in range(8)]
            return {each.status_code for each in answers} == {500} and {
                each.headers["X-Comet-Worker"] for each in answers
            } == set(WORKERS)

        wait_until(failing, what="all fail")
    finally:
        assert cluster.comet("faults", "--clear").returncode == 0
    wait_until(lambda: cluster.hello().status_code == 200, what="faults are cleared")


def test_scale_goes_up_and_down_with_both_kinds(cluster: TestCluster) -> None:
    done(cluster, "scale", "worker=6")
    assert kinds(cluster) == KINDS | {"worker-4": "container", "worker-5": "process"}
    done(cluster, "scale", "worker=4")
    assert kinds(cluster) == KINDS


def test_a_restart_replaces_all(cluster: TestCluster) -> None:
    before = lives(cluster)
    assert done(cluster, "restart", "all")["restarted"] == [*WORKERS, "lb-0", "lb-1"]
    after = lives(cluster)
    assert all(after[name] != before[name] for name in before)
    assert kinds(cluster) == KINDS


def test_a_reload_rolls_both_kinds(cluster: TestCluster) -> None:
    cluster.write(worker_threads=50)
    assert done(cluster, "reload") == {
        "changed": ["worker-threads"],
        "restarted": [*WORKERS],
        "values": {"worker-threads": {"old": None, "new": 50}},
    }
    assert kinds(cluster) == KINDS
    wait_until(lambda: answering(cluster) == set(WORKERS), what="the load balancers know of the last one")


def test_a_new_supervisor_adopts_all(cluster: TestCluster) -> None:
    before = lives(cluster)
    cluster.kill_supervisor()
    orphans = cluster.replicas()
    assert {name: row["kind"] for name, row in orphans.items() if row["role"] == "worker"} == KINDS
    assert cluster.hello().status_code == 200
    cluster.start()
    assert lives(cluster) == before
    adopted = {event["replica"] for event in cluster.events("adopted")}
    assert adopted == {*WORKERS, "lb-0", "lb-1"}


def test_without_a_supervisor_stop_ends_both_kinds(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(runtime="mixed", worker=2, pool=1)
    cluster.start()
    cluster.kill_supervisor()
    done = cluster.comet("stop")
    assert done.returncode == 0, done.stderr
    assert "worker-0: container" in done.stdout
    assert "worker-1: process" in done.stdout
    cluster.assert_nothing_left()


@pytest.mark.parametrize(("before", "after"), [("docker", "mixed"), ("mixed", "process")])
def test_a_change_of_the_runtime_keeps_what_stays_as_it_is(
    make_cluster: Callable[..., TestCluster], before: str, after: str
) -> None:
    cluster = make_cluster(runtime=before, worker=2, pool=1)
    cluster.start()
    known = lives(cluster)
    cluster.kill_supervisor()
    cluster.write(runtime=after)
    cluster.start()
    wanted = {"docker": ["container"] * 2, "process": ["process"] * 2, "mixed": ["container", "process"]}
    assert list(kinds(cluster).values()) == wanted[after]
    staying = [each == other for each, other in zip(wanted[before], wanted[after], strict=True)]
    now = lives(cluster)
    assert [now[name] == known[name] for name in ("worker-0", "worker-1")] == staying
    cluster.stop()
    cluster.assert_nothing_left()


def test_a_custom_service_is_refused(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(runtime="mixed", worker_command="serve --port {port}")
    refused = cluster.comet("check")
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert "runtime: mixed runs the built-in worker only" in refused.stderr
