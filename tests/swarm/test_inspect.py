"""`inspect` and `ps --tree` on a swarm: the tasks of this machine's engine are read, the others named.

The engines live in PID namespaces of their own: the PIDs that they tell are not this machine's.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.support.cluster import TestCluster, open_cluster
from tests.support.inspected import Report, status
from tests.support.waiting import wait_until
from tests.swarm.hosts import Hosts
from tests.swarm.scenes import OWN, all_ready, error_line, on_machine, start_everywhere, workers


@pytest.fixture(scope="module")
def cluster(
    lab: Hosts, manager: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestCluster]:
    with open_cluster(tmp_path_factory.mktemp("cluster"), worker=3, pool=2, **OWN) as made:
        start_everywhere(on_machine(lab, made))
        wait_until(all_ready(made), what="three tasks serve")
        yield made
        made.stop()


def on(cluster: TestCluster, node: str) -> list[str]:
    return [name for name, row in workers(cluster).items() if row["node"] == node]


def test_tasks_of_this_machine_are_what_kernel_and_engine_say(cluster: TestCluster, lab: Hosts) -> None:
    first, *_ = on(cluster, "h1")
    report = Report(cluster, "lb-0", first)
    assert report.value("kind", first) == "task"
    pid = report.value("pid", first)
    inspected = lab.client(1).api.inspect_container(report.told["replicas"][1]["container"])
    assert inspected["Id"] in Path(f"/proc/{pid}/cgroup").read_text()
    assert inspected["State"]["Pid"] != report.value("tree", first)[-2]["pid"]
    assert report.value("inside_pid", first)["pid"] == int(status(pid)["NSpid"][-1])
    wait_until(
        lambda: Report(cluster, first).value("threads", first) == int(status(pid)["Threads"][0]), what="as many threads"
    )
    (address,) = {each["IPAddress"] for each in inspected["NetworkSettings"]["Networks"].values() if each["IPAddress"]}
    cards = [address for each in report.value("interfaces", first) for address in each["addresses"]]
    assert any(each.startswith(f"{address}/") for each in cards)
    port = workers(cluster)[first]["port"]
    listeners = report.value("way", first)["listeners"]
    assert {(each["name"], each["target"]) for each in listeners} == {("docker-proxy", f"{address}:8080")}
    assert f"*:{port} → {address}:8080" in report.value("nat", first)["rules"]
    assert {"tree", "namespace_pid", "namespace_net", "root", "layers", "cgroup"} <= report.marked()


def test_a_task_of_another_machine_is_one_line(cluster: TestCluster) -> None:
    other, *_ = on(cluster, "h2")
    assert error_line(cluster, "inspect", other) == (
        f"{other}: it runs on h2; /proc shows this machine's processes only"
    )


def test_the_tree_holds_this_machines_tasks_and_names_the_others(cluster: TestCluster) -> None:
    shown: dict[str, Any] = json.loads(cluster.comet("ps", "--tree", "--json").stdout)
    elsewhere = {(name, node) for node in ("h2", "h3") for name in on(cluster, node)}
    assert {(each["name"], each["node"]) for each in shown["elsewhere"]} == elsewhere
    found, waiting = set(), list(shown["processes"])
    while waiting:
        node = waiting.pop()
        waiting += node["children"]
        found.add(node["replica"])
    assert found - {None} == {"lb-0", "lb-1", *on(cluster, "h1")}
