"""Awkward moments: readers that go away, deaths in the midst of a hand-over, configs that changed while nobody
supervised.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable

import psutil
import pytest

from tests.process.test_crashes import clients
from tests.support.cluster import TestCluster, free_ports
from tests.support.shared import SharedCluster
from tests.support.waiting import PATIENCE, wait_until


@pytest.fixture(scope="module")
def shared(share_cluster: Callable[..., SharedCluster]) -> SharedCluster:
    return share_cluster(worker=1, pool=1, runtime="process", shutdown_grace=2)


def orphaned(cluster: TestCluster) -> None:
    cluster.kill_supervisor()


def test_a_closed_output_pipe_ends_only_the_display(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=1, pool=1, runtime="process")
    with cluster.foreground() as supervisor:
        wait_until(lambda: cluster.events("replica_ready", "lb-0"))
        assert supervisor.stdout is not None
        supervisor.stdout.close()
        for restarts in (1, 2):
            assert cluster.comet("kill", "lb-0").returncode == 0
            assert cluster.hello().status_code == 200
            wait_until(lambda restarts=restarts: cluster.replicas()["lb-0"]["restarts"] == restarts)
        cluster.stop()
    cluster.assert_nothing_left()


def test_an_lb_dying_during_its_handover_delays_nothing(shared: SharedCluster) -> None:
    cluster = shared.lend()
    dice = random.Random(7)
    for _ in range(12):
        pid = cluster.replicas()["lb-0"]["pid"]
        before = len(cluster.events("replica_starting", "lb-0"))

        def kill_in_the_midst(pid: int = pid, before: int = before) -> None:
            wait_until(lambda: len(cluster.events("replica_starting", "lb-0")) > before)
            threading.Event().wait(dice.uniform(0.002, 0.03))
            with contextlib.suppress(psutil.Error):
                psutil.Process(pid).kill()

        killer = threading.Thread(target=kill_in_the_midst)
        killer.start()
        done = cluster.comet("restart", "lb-0", timeout=30)
        killer.join()
        assert done.returncode == 0, done.stderr
        assert cluster.hello().status_code == 200


@pytest.mark.docker
def test_changed_replicas_are_not_adopted(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=2, pool=1)
    cluster.start()
    orphaned(cluster)
    cluster.write(worker_port=free_ports(5))
    cluster.start()
    assert cluster.hello().status_code == 200
    assert cluster.replicas()["worker-0"]["port"] == cluster.config["worker-port"]
    orphaned(cluster)
    cluster.write(runtime="process")
    cluster.start()
    assert cluster.containers() == []
    assert cluster.hello().json()["message"].startswith("hello from process: ")
    assert {row["restarts"] for row in cluster.replicas().values()} == {0}
    cluster.stop()
    cluster.assert_nothing_left()


@pytest.mark.docker
def test_stop_and_clean_claim_nothing_without_the_engine(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=1, pool=1)
    cluster.start()
    orphaned(cluster)
    cluster.environment["DOCKER_HOST"] = f"unix://{cluster.folder}/no.sock"
    for command in ("stop", "clean", "stop"):
        done = cluster.comet(command)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert "containers of this cluster may be left" in done.stderr
    del cluster.environment["DOCKER_HOST"]
    assert len(cluster.containers()) == 1
    cluster.stop()
    cluster.assert_nothing_left()


@pytest.mark.docker
def test_a_cluster_of_no_workers_can_be_scaled_up(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=0, pool=1)
    cluster.start()
    assert cluster.hello().status_code == 503
    done = cluster.comet("scale", "worker=1")
    assert done.returncode == 0, done.stderr
    assert cluster.hello().status_code == 200
    cluster.stop()
    cluster.assert_nothing_left()


@pytest.mark.docker
def test_two_concurrent_stops(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=2, pool=1)
    cluster.start()
    orphaned(cluster)
    done: list[subprocess.CompletedProcess[str]] = []
    stops = [threading.Thread(target=lambda: done.append(cluster.comet("stop"))) for _ in range(2)]
    for stop in stops:
        stop.start()
    for stop in stops:
        stop.join()
    assert {each.returncode for each in done} <= {0, 3}, done
    assert "Traceback" not in "".join(each.stderr for each in done)
    cluster.assert_nothing_left()


def test_a_hung_supervisor_is_told_apart_from_none(shared: SharedCluster) -> None:
    cluster = shared.lend()
    pid = cluster.supervisor_pid()
    os.kill(pid, 19)
    try:
        listed = cluster.ps()
        assert (listed["supervisor"]["pid"], listed["supervisor"]["running"]) == (pid, True)
        assert [row["name"] for row in listed["replicas"]] == ["lb-0", "worker-0"]
    finally:
        os.kill(pid, 18)


def test_a_silent_lb_is_replaced_on_its_socket_before_it_ends(
    make_cluster: Callable[..., TestCluster],
) -> None:
    cluster = make_cluster(worker=1, pool=2, runtime="process", shutdown_grace=1)
    cluster.start()
    before = cluster.replicas()
    orphaned(cluster)
    os.kill(before["lb-0"]["pid"], signal.SIGSTOP)
    waiting = threading.Thread(target=cluster.hello, args=(0,))
    with clients(cluster, number=2) as strict:
        waiting.start()
        cluster.start()
        # Neither who asks either of them, nor who was waiting in the stopped one's backlog, is refused.
        waiting.join(20 * PATIENCE)
        assert not waiting.is_alive()
    assert [client.bad for client in strict] == [[]] * len(strict)
    after = cluster.replicas()
    assert after["lb-0"]["pid"] != before["lb-0"]["pid"]
    assert after["lb-1"]["pid"] == before["lb-1"]["pid"]
    wait_until(lambda: not psutil.pid_exists(before["lb-0"]["pid"]), 10, "the stopped one is ended in the end")
    assert cluster.hello(0).status_code == 200
    cluster.stop()
    cluster.assert_nothing_left()


def test_replicas_of_another_version_roll_without_a_lost_request(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=2, pool=2, runtime="process")
    cluster.start()
    before = {name: row["pid"] for name, row in cluster.replicas().items()}
    orphaned(cluster)
    # The state file as another version's code would have left it.
    path = cluster.folder / ".comet/state.json"
    state = json.loads(path.read_text())
    for record in state["replicas"]:
        record["fingerprint"] = "0123456789abcdef"
    path.write_text(json.dumps(state))
    with clients(cluster) as strict:
        cluster.start()
        seen = [client.good for client in strict]
        wait_until(lambda: all(client.good > count + 10 for client, count in zip(strict, seen, strict=True)))
    assert [client.bad for client in strict] == [[]] * len(strict)
    after = {name: row["pid"] for name, row in cluster.replicas().items()}
    assert set(after) == set(before)
    assert not set(after.values()) & set(before.values())
    assert {row["restarts"] for row in cluster.replicas().values()} == {0}
    orphaned(cluster)
    cluster.start()
    assert {name: row["pid"] for name, row in cluster.replicas().items()} == after
    cluster.stop()
    cluster.assert_nothing_left()
