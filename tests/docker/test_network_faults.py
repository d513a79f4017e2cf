"""Faults of a container's network, tried through a real cluster: what clients see, and what is left of them."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import requests

from tests.support import network_faults, pages
from tests.support.cluster import TestCluster, open_cluster
from tests.support.network_faults import QUICK, answers
from tests.support.network_places import lacks_queues, needs_no_netem
from tests.support.waiting import wait_until

BOTH = {"worker-0", "worker-1"}
WITH_NETEM = pytest.mark.machine(partial(lacks_queues, "htb", "netem"))
WITHOUT_NETEM = pytest.mark.machine(partial(needs_no_netem))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    with open_cluster(tmp_path_factory.mktemp("cluster"), worker=2, pool=1, **QUICK) as cluster:
        cluster.start()
        yield cluster
        cluster.stop()
        cluster.assert_nothing_left()


@pytest.fixture
def order(cluster: TestCluster) -> Iterator[Callable[..., None]]:
    """Orders faults that are gone when the test is."""

    def give(*words: str) -> None:
        done = cluster.comet("faults", *words)
        assert done.returncode == 0, done.stderr

    yield give
    give("all", "--clear")
    wait_until(lambda: in_rotation(cluster) == BOTH, what="all in rotation")
    assert helpers(cluster) == []


def in_rotation(cluster: TestCluster) -> set[str]:
    """The workers that answer four requests in a row with 200."""
    answers = [cluster.hello() for _ in range(4)]
    return {answer.headers["X-Comet-Worker"] for answer in answers if answer.status_code == 200}


def helpers(cluster: TestCluster) -> list[str]:
    """The containers that hold faults."""
    with cluster.engine() as client:
        return network_faults.helpers(cluster, client)


def test_a_partition_takes_a_worker_out_until_it_ends(cluster: TestCluster, order: Callable[..., None]) -> None:
    before = cluster.replicas()["worker-1"]
    order("worker-1", "--partition", "--for", "60s")
    assert not answers(cluster, 1)
    assert answers(cluster, 0)
    wait_until(lambda: cluster.replicas()["worker-1"]["state"] == "unhealthy", what="unhealthy")
    seen = [cluster.hello() for _ in range(6)]
    assert {(each.status_code, each.headers.get("X-Comet-Worker")) for each in seen} == {(200, "worker-0")}
    order("worker-1", "--clear")
    assert answers(cluster, 1)
    wait_until(lambda: in_rotation(cluster) == BOTH)
    after = cluster.replicas()["worker-1"]
    assert (after["id"], after["restarts"]) == (before["id"], before["restarts"])


def test_what_is_in_flight_goes_on_after_a_short_partition(cluster: TestCluster, order: Callable[..., None]) -> None:
    """The connection is kept by both ends, and what was lost is sent again."""
    with socket.create_connection(("127.0.0.1", cluster.config["worker-port"] + 1), timeout=60) as client:
        request = b"GET /api/v1/hello HTTP/1.1\r\nHost: test\r\n\r\n"
        client.sendall(request)
        assert b"200 OK" in client.recv(65536)
        order("worker-1", "--partition", "--for", "6s")
        began = time.monotonic()
        client.sendall(request)
        assert b"200 OK" in client.recv(65536)
        assert time.monotonic() - began > 0.5


def test_while_all_are_cut_off_clients_get_503_at_once(cluster: TestCluster, order: Callable[..., None]) -> None:
    order("all", "--partition", "--for", "60s")
    wait_until(lambda: {row["state"] for name, row in cluster.replicas().items() if name in BOTH} == {"unhealthy"})
    answer = cluster.hello()
    assert answer.status_code == 503
    assert answer.elapsed.total_seconds() < 2
    assert "Retry-After" in answer.headers


def test_lost_packets_cost_time_and_no_request(cluster: TestCluster, order: Callable[..., None]) -> None:
    """The workers are asked at their own ports: health checks that wait 0.5 s can take both out of rotation."""
    order("all", "--loss", "20%", "--for", "60s")
    order("all", "--bandwidth", "50kB/s", "--for", "60s")
    listed = cluster.comet("faults").stdout
    assert "loss" in listed
    assert "20 %" in listed
    seen = [requests.get(f"{cluster.worker(number)}/api/v1/hello", timeout=60) for number in [0, 1] * 5]
    assert [answer.status_code for answer in seen] == [200] * 10
    assert len(helpers(cluster)) == 2


@WITHOUT_NETEM
def test_without_netem_a_delay_alone_is_refused_in_one_line(cluster: TestCluster, order: Callable[..., None]) -> None:
    order("worker-1", "--loss", "10%", "--for", "60s")
    for words in (("--network-delay", "100ms"), ("--network-jitter", "20ms", "--loss", "5%")):
        done = cluster.comet("faults", "worker-1", *words, "--for", "60s")
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "worker-1: its network can have no faults: this kernel cannot delay packets" in done.stderr
        assert "modprobe sch_netem" in done.stderr
        assert done.stderr.endswith("nothing was changed\n")
    listed = cluster.comet("faults", "worker-1").stdout
    assert "10 %" in listed
    assert "network-delay" not in listed
    assert len(helpers(cluster)) == 1


@WITH_NETEM
def test_delayed_packets_make_answers_late_until_it_is_cleared(
    cluster: TestCluster, order: Callable[..., None]
) -> None:
    order("all", "--network-delay", "200ms", "--network-jitter", "20ms", "--bandwidth", "1MB/s", "--for", "60s")
    late = [cluster.hello() for _ in range(4)]
    assert {answer.status_code for answer in late} == {200}
    assert min(answer.elapsed.total_seconds() for answer in late) > 0.18
    order("all", "--clear")
    assert helpers(cluster) == []


def test_a_worker_that_is_started_again_is_cut_off_again(cluster: TestCluster, order: Callable[..., None]) -> None:
    order("worker-1", "--partition", "--for", "120s")
    (first,) = helpers(cluster)
    assert cluster.comet("kill", "worker-1").returncode == 0
    wait_until(lambda: [each for each in helpers(cluster) if each != first] and len(helpers(cluster)) == 1)
    assert not answers(cluster, 1)
    (second,) = helpers(cluster)
    with cluster.engine() as client:  # The fault ends with its helper.
        client.api.kill(second, "KILL")
    wait_until(lambda: answers(cluster, 1))


def test_a_lease_ends_without_a_supervisor(cluster: TestCluster, order: Callable[..., None]) -> None:
    began = time.monotonic()
    order("worker-1", "--partition", "--for", "6s")
    os.kill(cluster.supervisor_pid(), signal.SIGKILL)
    try:
        assert not answers(cluster, 1)
        wait_until(lambda: answers(cluster, 1))
        assert time.monotonic() - began > 5
        wait_until(lambda: helpers(cluster) == [], what="the helper is gone")
    finally:
        cluster.start()


def test_the_next_supervisor_leaves_a_lease_as_it_is(cluster: TestCluster, order: Callable[..., None]) -> None:
    order("worker-1", "--loss", "30%", "--for", "120s")
    held = helpers(cluster)
    os.kill(cluster.supervisor_pid(), signal.SIGKILL)
    cluster.start()
    assert helpers(cluster) == held
    assert "loss" in cluster.comet("faults", "worker-1").stdout


def test_without_a_supervisor_a_stop_removes_it_too(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=1, pool=1, **QUICK)
    cluster.start()
    assert cluster.comet("faults", "worker-0", "--partition", "--for", "1h").returncode == 0
    os.kill(cluster.supervisor_pid(), signal.SIGKILL)
    cluster.stop()
    cluster.assert_nothing_left()


def test_a_scenario_has_them_for_a_step(cluster: TestCluster, order: Callable[..., None]) -> None:
    (cluster.folder / "cut.yaml").write_text(
        "clients: 4\nsteps:\n"
        "  - name: cut\n    for: 15s\n    faults: {worker-1: {partition: true}}\n"
        "    expect: {replicas: {worker-1: unhealthy}}\n"
        "  - {name: whole, for: 1s}\n"
    )
    done = cluster.comet("scenario", "cut.yaml")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert helpers(cluster) == []
    assert [event["settings"] for event in cluster.events("faults_changed")][-2:] == [{"partition": True}, {}]


def test_the_commands_of_the_page(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=2, pool=1)
    cluster.start()
    blocks = [
        block for block in pages.blocks("docs/faults.md") if str(block.tested_by).endswith("test_network_faults.py")
    ]
    for command in (line for block in blocks for line in block.commands):
        done = cluster.comet(*command.removeprefix("python supervisor.py ").split())
        assert done.returncode == 0, done.stderr
    assert len(helpers(cluster)) == 2
    cluster.stop()
    cluster.assert_nothing_left()


def test_processes_are_refused(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=2, pool=1, runtime="mixed")
    cluster.start()
    for target in ("worker-1", "all"):
        done = cluster.comet("faults", target, "--partition", "--for", "5s")
        assert done.returncode == 2
        assert "worker-1: has no network of its own" in done.stderr
    assert helpers(cluster) == []
    assert cluster.comet("faults", "worker-0", "--partition", "--for", "1h").returncode == 0
    assert not answers(cluster, 0)
    cluster.stop()
    assert cluster.containers() == []


def test_a_custom_service_is_cut_off_too(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=1, pool=1, **QUICK)
    cluster.start()
    with cluster.engine() as client:
        image = client.api.inspect_container(cluster.replicas()["worker-0"]["id"])["Config"]["Image"]
    cluster.stop()
    command = '["--listen", "0.0.0.0:8080", "--name", "w", "--identity", "container", "--no-faults"]'
    database = "{COMET_DATABASE: 'sqlite:////tmp/stats.db'}"
    cluster.write(avg_delay=None, failure=None, worker_image=image, worker_command=command, worker_environment=database)
    cluster.start()
    assert answers(cluster, 0)
    assert cluster.comet("faults", "worker-0", "--partition", "--for", "1h").returncode == 0
    assert not answers(cluster, 0)
    cluster.stop()
    cluster.assert_nothing_left()
