"""Faults of the front in a whole cluster: by command, on every load balancer, together with those of workers."""

import json
import os
import signal
import time
from collections.abc import Iterator

import pytest
import requests

from tests.support.cluster import TestCluster, open_cluster
from tests.support.fault_orders import order
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    folder = tmp_path_factory.mktemp("front")
    with open_cluster(folder, runtime="process", worker=1, pool=2, avg_delay=0, request_faults="true") as made:
        made.start()
        yield made


@pytest.fixture(autouse=True)
def cleared(cluster: TestCluster) -> Iterator[None]:
    yield
    order(cluster, "--clear")


def status(cluster: TestCluster, number: int = 0) -> int:
    return cluster.hello(number).status_code


def answers(cluster: TestCluster) -> bool:
    try:
        return status(cluster) == 200
    except requests.ConnectionError:
        return False


def refuses(cluster: TestCluster, seconds: int) -> bool:
    """Order it for so long; false where the machine was later than that."""
    began = time.monotonic()
    order(cluster, "front", "--refuse", "--for", f"{seconds}s")
    refused = not answers(cluster)
    assert refused or time.monotonic() - began > seconds
    return refused


def test_an_order_holds_on_each_balancer_until_it_is_cleared(cluster: TestCluster) -> None:
    order(cluster, "front", "--failure", "100%", "--status", "429", "--headers", "Retry-After: 7", "--body", "later")
    for number in range(2):
        found = cluster.hello(number)
        assert (found.status_code, found.headers["Retry-After"], found.text) == (429, "7", "later")
    assert "front failure" in cluster.comet("stats").stdout
    total = wait_until(
        lambda: found if (found := cluster.ps()["total"])["front_injected"].get("failure", 0) >= 2 else None, 20
    )
    assert total["front_faults"] == {
        "failure": 100.0, "status": 429, "headers": ["Retry-After: 7"], "body": "later",
    }  # fmt: skip
    assert set(total["front_fault_orders"]["from"]) == set(total["front_faults"])
    listed = cluster.comet("faults", "front")
    assert "429" in listed.stdout
    assert cluster.comet("kill", "lb-0").returncode == 0
    wait_until(lambda: cluster.replicas()["lb-0"]["restarts"] == 1 and status(cluster) == 429, 60)
    order(cluster, "--clear")
    assert [status(cluster, number) for number in range(2)] == [200, 200]


def test_a_scenario_sets_and_withdraws_them(cluster: TestCluster) -> None:
    bad_step = "{name: bad, for: 2s, faults: {front: {failure: 100, status: 503}}}"
    steps = f"{{name: calm, for: 1s}}, {bad_step}, {{name: calm again, for: 1s}}"
    (cluster.folder / "front.yaml").write_text(f"clients: 2\nsteps: [{steps}]\n")
    done = cluster.comet("scenario", "front.yaml", "--json")
    assert done.returncode == 0, done.stderr
    calm, bad, again = json.loads(done.stdout)["steps"]
    # One request of each client may be in flight while the faults change.
    assert bad["ok"] <= 2 < bad["injected"]
    for clean in (calm, again):
        assert 0 <= clean["requests"] - clean["ok"] <= 2 < clean["ok"]
    assert status(cluster) == 200


def test_it_holds_together_with_the_faults_of_workers(cluster: TestCluster) -> None:
    order(cluster, "worker-0", "--failure", "100", "--status", "503")
    order(cluster, "front", "--failure", "100", "--status", "418", "--method", "POST")
    assert status(cluster) == 503
    assert requests.post(cluster.lb(), timeout=30).status_code == 418


def test_the_end_of_a_lease_is_an_event(cluster: TestCluster) -> None:
    before = len(cluster.events("faults_ended"))
    order(cluster, "front", "--failure", "100", "--for", "1s")
    wait_until(lambda: len(cluster.events("faults_ended")) == before + 1, 60)
    assert cluster.events("faults_ended")[-1]["replica"] == "front"
    assert status(cluster) == 200


def test_the_rest_of_a_count_is_shown_and_its_end_is_an_event(cluster: TestCluster) -> None:
    before = len(cluster.events("faults_ended"))

    def left() -> list[int]:
        return [lease["count_left"] for lease in cluster.ps()["total"]["front_fault_orders"]["leases"]]

    def counted(number: int) -> int:
        return requests.get(f"{cluster.lb(number)}/counted", timeout=30).status_code

    order(cluster, "front", "--status", "418", "--failure", "100", "--count", "2", "--path", "/counted")
    for rest in (2, 1):
        wait_until(lambda rest=rest: left() == [rest])
        assert len(cluster.events("faults_ended")) == before
        assert status(cluster) == 200  # It is not for this path.
        wait_until(lambda rest=rest: counted(rest - 1) == 418)
    wait_until(lambda: left() == [])
    assert [counted(number) for number in range(2)] == [404, 404]
    ended = wait_until(lambda: cluster.events("faults_ended")[before:])
    assert [(each["replica"], each["workers"]) for each in ended] == [("front", ["front"])]


def test_a_refused_address_listens_again(cluster: TestCluster) -> None:
    wait_until(lambda: refuses(cluster, 3), what="a refusal")
    assert wait_until(lambda: answers(cluster), 60)


def test_a_request_asks_for_its_own_fault(cluster: TestCluster) -> None:
    asking = {"X-Comet-Fault": "failure, status=599"}
    assert requests.get(f"{cluster.lb()}/api/v1/hello", headers=asking, timeout=30).status_code == 599
    assert status(cluster) == 200


def test_what_is_wrong_is_refused_in_one_line(cluster: TestCluster) -> None:
    for wrong in (
        ("front", "--refuse"),
        ("front", "--cpu", "5"),
        ("worker-0", "--garbage", "5"),
        ("nobody", "--hang", "1"),
    ):
        done = cluster.comet("faults", *wrong)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), (wrong, done.stderr)
    assert status(cluster) == 200


def test_orders_outlive_the_supervisor(cluster: TestCluster) -> None:
    order(cluster, "front", "--failure", "100", "--status", "451")
    os.kill(cluster.supervisor_pid(), signal.SIGKILL)
    wait_until(lambda: not cluster.ps()["supervisor"]["running"], 60)
    assert status(cluster) == 451
    cluster.start()
    assert status(cluster) == 451
    listed = json.loads(cluster.comet("faults", "front", "--json").stdout)
    assert listed["workers"][0]["settings"]["status"] == 451
    order(cluster, "front", "--clear")
    assert status(cluster) == 200


def test_a_refused_address_listens_again_without_a_supervisor(cluster: TestCluster) -> None:
    wait_until(lambda: refuses(cluster, 5), what="a refusal")
    os.kill(cluster.supervisor_pid(), signal.SIGKILL)
    wait_until(lambda: answers(cluster), 60)
    wait_until(lambda: not cluster.ps()["supervisor"]["running"], 60)
    cluster.start()
    assert status(cluster) == 200


def test_orders_too_large_for_a_message_change_nothing(cluster: TestCluster) -> None:
    """Load balancers would drop the connection over which it came, and obey nobody."""
    large = ("--failure", "1", "--path", "/never", "--for", "600s", "--body", "é" * 14000)  # 84 kB as JSON
    for _ in range(6):
        order(cluster, "front", *large)
    refused = cluster.comet("faults", "front", *large)
    assert refused.returncode == 2
    assert "clear some of them" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert status(cluster) == 200
    order(cluster, "front", "--failure", "100", "--status", "418")
    assert [status(cluster, number) for number in range(2)] == [418, 418], "they still obey"
    order(cluster, "--clear")
