"""A `run` that ends before it has taken over what an earlier supervisor left: all of that is still there for the next
one.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.cluster import TestCluster, free_ports
from tests.support.waiting import wait_until


def orphaned(cluster: TestCluster) -> None:
    os.kill(cluster.supervisor_pid(), signal.SIGKILL)
    wait_until(lambda: not cluster.ps()["supervisor"]["running"])


def kept(cluster: TestCluster) -> dict[str, object]:
    """What a successor needs: the records, what was ordered, the ways to the load balancers, and who serves."""
    state = cluster.folder / ".comet"
    files = {
        name: (state / name).read_text()
        for name in ("state.json", "state.json.spare", "scale.json", "faults.json", "id")
    }
    run = sorted(path.name for path in (state / "run").iterdir() if path.name.startswith("lb-"))
    rows = {name: (row["id"], row["pid"], row["restarts"], row["state"]) for name, row in cluster.replicas().items()}
    return {**files, "run": run, "rows": rows}


def assert_as_before(cluster: TestCluster, before: dict[str, object]) -> None:
    assert kept(cluster) == before
    assert cluster.hello().status_code == 200


@contextlib.contextmanager
def waiting_for_the_database(cluster: TestCluster) -> Iterator[None]:
    """Let no `run` get as far as to its takeover: it waits for whoever prepares the database."""
    folder = os.open(cluster.folder / ".comet/stats", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def assert_refused(cluster: TestCluster, words: str, code: int) -> None:
    done = cluster.comet("run", "--detach")
    assert words in done.stderr, done.stderr
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def prepared(cluster: TestCluster) -> dict[str, object]:
    """Scaled, with an order for its faults, and without a supervisor."""
    cluster.start()
    assert cluster.comet("scale", "worker=2", "pool=2").returncode == 0
    assert cluster.comet("faults", "worker-1", "--avg-delay", "7").returncode == 0
    orphaned(cluster)
    return kept(cluster)


def assert_taken_over(cluster: TestCluster, before: dict[str, object]) -> None:
    cluster.start()
    rows = {name: (row["id"], row["pid"], row["restarts"], row["state"]) for name, row in cluster.replicas().items()}
    assert rows == before["rows"]
    assert '"worker-1"' in (cluster.folder / ".comet/faults.json").read_text()
    cluster.stop()
    cluster.assert_nothing_left()
    assert not (cluster.folder / ".comet/state.json").exists()


def test_a_run_that_fails_early_leaves_processes_to_the_next(
    make_cluster: Callable[..., TestCluster], tmp_path: Path
) -> None:
    cluster = make_cluster(worker=1, pool=1, runtime="process")
    before = prepared(cluster)
    config = (cluster.folder / "config.yaml").read_text()

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_ports(1)))
        taken.listen()
        cluster.write(admin_port=taken.getsockname()[1])
        assert_refused(cluster, "is taken", 2)
        assert_as_before(cluster, before)
    cluster.write(admin_port=0)

    for bad, words in (("nowhere/to/be/found.db", "cannot be created"), ("postgresql://127.0.0.1:1/none", "stats-dir")):
        cluster.write(stats_dir=bad)
        done = cluster.comet("run", "--detach")
        assert done.returncode in (1, 2)
        assert words in done.stderr, done.stderr
        assert_as_before(cluster, before)
    cluster.write(stats_dir=None)

    (cluster.folder / "config.yaml").write_text(config + "worker: [\n")
    assert cluster.comet("run", "--detach").returncode == 2
    (cluster.folder / "config.yaml").write_text(config)
    assert_as_before(cluster, before)

    for number in (signal.SIGINT, signal.SIGTERM):
        started = len(cluster.events("supervisor_started"))
        with waiting_for_the_database(cluster), cluster.foreground() as supervisor:
            wait_until(lambda started=started: len(cluster.events("supervisor_started")) > started)
            supervisor.send_signal(number)
            assert supervisor.wait(60) == 0
        assert cluster.events()[-1]["event"] == "supervisor_stopped"
        assert not cluster.events("adopted")
        assert_as_before(cluster, before)
    assert_taken_over(cluster, before)


@pytest.mark.docker
def test_a_run_that_fails_early_leaves_containers_to_the_next(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=1, pool=1)
    before = prepared(cluster)

    cluster.environment["DOCKER_HOST"] = f"unix://{cluster.folder}/no.sock"
    assert_refused(cluster, "Docker", 1)
    with cluster.foreground() as supervisor:
        assert supervisor.wait(60) == 1
    listed = cluster.comet("ps")
    assert (listed.returncode, "lb-0" in listed.stdout) == (1, True)
    assert "worker-0, worker-1 may run and cannot be seen: no Docker engine answers at" in listed.stderr
    seen = cluster.comet("ps", "--json")
    assert (seen.returncode, json.loads(seen.stdout)["supervisor"]["running"]) == (1, False)
    assert "worker-0, worker-1 may run" in json.loads(seen.stdout)["supervisor"]["problem"]
    del cluster.environment["DOCKER_HOST"]
    assert_as_before(cluster, before)

    cluster.write(worker_image="comet-test/nowhere:1", avg_delay=None, failure=None)
    assert_refused(cluster, "comet-test/nowhere:1", 1)
    assert_as_before(cluster, before)
    cluster.write(worker_image=None, avg_delay=5, failure=0)
    assert_taken_over(cluster, before)


def test_a_first_run_that_fails_leaves_nothing(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(
        worker=1, pool=1, runtime="process", stats_dir="nowhere/to/be/found.db", admin_port=free_ports(1)
    )
    assert cluster.comet("run", "--detach").returncode == 1
    cluster.assert_nothing_left()
    assert not (cluster.folder / ".comet/state.json").exists()
    assert cluster.comet("stop").returncode == 3
