"""`inspect` and `ps --tree` on containers: each row as /proc and the engine say it, beside a load balancer."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import TestCluster, open_cluster
from tests.support.inspected import Report, check_against_proc, status
from tests.support.waiting import wait_until

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    with open_cluster(tmp_path_factory.mktemp("inspect"), worker=2, pool=1) as made:
        made.start()
        yield made
        made.stop()
        made.assert_nothing_left()


@pytest.fixture
def inspected(cluster: TestCluster) -> dict[str, Any]:
    """What the engine says of the container of worker-0."""
    with cluster.engine() as client:
        found: dict[str, Any] = client.api.inspect_container(cluster.replicas()["worker-0"]["id"])
        return found


def layers(cluster: TestCluster, image: str) -> int:
    with cluster.engine() as client:
        return len(client.images.get(image).attrs["RootFS"]["Layers"])


def test_every_row_is_what_the_kernel_says(cluster: TestCluster) -> None:
    report = Report(cluster, "lb-0", "worker-0", "worker-1")
    for name in report.names:
        check_against_proc(report, name)
    assert report.marked() >= {
        *("tree", "inside_pid", "user", "capabilities", "bounding", "no_new_privileges", "seccomp"),
        *(f"namespace_{kind}" for kind in ("mnt", "pid", "net", "uts", "ipc")),
        *("cgroup", "memory_limit", "tasks_limit", "root", "layers", "image", "binds", "interfaces", "way", "nat"),
    }
    assert report.marked().isdisjoint({"pid", "age", "namespace_user", "namespace_time", "user_map", "oom"})


def test_every_row_is_what_the_engine_says(cluster: TestCluster, inspected: dict[str, Any]) -> None:
    report = Report(cluster, "worker-0", "worker-1")
    config, (network,) = inspected["HostConfig"], inspected["NetworkSettings"]["Networks"].values()
    first = inspected["State"]["Pid"]
    assert report.told["replicas"][0]["container"] == inspected["Id"]
    way = report.value("tree", "worker-0")
    assert [each["pid"] for each in way][-2] == first
    assert [each["name"] for each in way][-3:-1] == ["containerd-shim-runc-v2", "docker-init"]
    assert status(first)["NSpid"][-1] == "1"
    assert inspected["Id"] in report.value("cgroup", "worker-0")["path"]
    user = report.value("user", "worker-0")
    assert f"{user['uid']}:{user['gid']}" == inspected["Config"]["User"]
    assert report.value("memory_limit", "worker-0")["limit"] == config["Memory"]
    assert (report.value("cpu_limit", "worker-0")["cores"], config["NanoCpus"]) == (None, 0)
    assert report.value("tasks_limit", "worker-0")["limit"] == config["PidsLimit"]
    assert report.value("capabilities", "worker-0") == []
    assert config["CapDrop"] == ["ALL"]
    assert report.value("root", "worker-0")["read_only"] == config["ReadonlyRootfs"]
    image = report.value("image", "worker-0")
    assert (image["name"], image["runtime"]) == (inspected["Config"]["Image"], config["Runtime"])
    assert image["layers"] == layers(cluster, inspected["Image"])
    shown = report.value("layers", "worker-0")
    assert shown["read_only"] == len(inspected["GraphDriver"]["Data"]["LowerDir"].split(":"))
    assert shown["read_only"] == shown["image"] + 1
    mounted = {(each["place"], each["source"], each["read_only"]) for each in report.value("binds", "worker-0")}
    assert {(each["Destination"], each["Source"], not each["RW"]) for each in inspected["Mounts"]} <= mounted
    cards = {each["name"]: each["addresses"] for each in report.value("interfaces", "worker-0")}
    assert f"{network['IPAddress']}/{network['IPPrefixLen']}" in cards["eth0"]
    assert report.value("gateway", "worker-0")["gateway"] == f"{network['Gateway']} by eth0"


def test_a_quota_of_cpu_time_is_seen(cluster: TestCluster, inspected: dict[str, Any]) -> None:
    with cluster.engine() as client:
        client.api.update_container(inspected["Id"], cpu_quota=50000, cpu_period=100000)
        try:
            report = Report(cluster, "worker-0", "worker-1")
            assert report.value("cpu_limit", "worker-0")["cores"] == 0.5
            assert report.value("cpu_limit", "worker-1")["cores"] is None
            assert "cpu_limit" in report.marked()
        finally:
            client.api.update_container(inspected["Id"], cpu_quota=-1)


def test_the_way_of_a_port_leads_through_the_proxy_and_a_rule(cluster: TestCluster, inspected: dict[str, Any]) -> None:
    report = Report(cluster, "worker-0")
    (network,) = inspected["NetworkSettings"]["Networks"].values()
    target, port = f"{network['IPAddress']}:8080", cluster.config["worker-port"]
    (listener,) = report.value("way", "worker-0")["listeners"]
    assert (listener["name"], listener["target"]) == ("docker-proxy", target)
    words = Path(f"/proc/{listener['pid']}/cmdline").read_text().split("\0")
    assert str(port) in words
    nat = report.value("nat", "worker-0")
    assert nat["rules"] == [f"127.0.0.1:{port} → {target}"]
    assert nat["skips_loopback"]


def test_workers_of_one_image_share_its_pages(cluster: TestCluster) -> None:
    report = Report(cluster, "worker-0", "worker-1", "lb-0")
    shared = report.value("together", "worker-0")
    assert 1 << 20 < shared <= report.value("shared", "worker-0") + (1 << 20)
    assert report.value("together", "lb-0") < shared


def tree(cluster: TestCluster) -> dict[int, dict[str, Any]]:
    """The processes that `ps --tree` shows, by PID."""
    done = cluster.comet("ps", "--tree", "--json")
    assert done.returncode == 0, done.stderr
    nodes: dict[int, dict[str, Any]] = {}
    waiting = json.loads(done.stdout)["processes"]
    while waiting:
        node = waiting.pop()
        nodes[node["pid"]] = node
        waiting += node["children"]
    return nodes


def test_the_tree_spans_processes_and_containers(cluster: TestCluster) -> None:
    expected = sorted(
        ["supervisor", "forkserver", "standby", "lb", *["worker", "shim", "init"] * 2,
         *["port of a worker"] * 2]
    )  # fmt: skip
    # The standby is forked some time after the load balancer, and what is forked is like its parent at first.
    nodes: dict[int, dict[str, Any]] = {}

    def complete() -> bool:
        nonlocal nodes
        nodes = tree(cluster)
        return sorted(node["role"] for node in nodes.values() if node["role"]) == expected

    wait_until(complete, what=f"a tree of {', '.join(expected)}")
    for name in ("worker-0", "worker-1"):
        (node,) = (each for each in nodes.values() if each["replica"] == name)
        assert (node["kind"], node["role"]) == ("container", "worker")
        assert node["inside_pid"] == int(status(node["pid"])["NSpid"][-1]) != node["pid"]
        init = nodes[int(status(node["pid"])["PPid"][0])]
        assert (init["role"], init["inside_pid"]) == ("init", 1)
        assert nodes[int(status(init["pid"])["PPid"][0])]["role"] == "shim"


def test_an_engine_that_is_away_is_one_line(cluster: TestCluster) -> None:
    away = TestCluster.__new__(TestCluster)
    away.__dict__.update(cluster.__dict__)
    away.environment = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}
    done = away.comet("inspect", "worker-0")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "no Docker engine answers at /nowhere/docker.sock" in done.stderr
    assert away.comet("inspect", "lb-0").returncode == 0
    tree = away.comet("ps", "--tree")
    assert tree.returncode == 1
    assert "lb-0" in tree.stdout
    assert "no Docker engine answers" in tree.stderr
