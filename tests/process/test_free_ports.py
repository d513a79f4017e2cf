"""Clusters on ports that Comet chooses: shown where they are, kept while the cluster runs, free again afterwards."""

import os
import re
import signal
from collections.abc import Callable

import pytest
import requests

from tests.support.cluster import TestCluster
from tests.support.shared import SharedCluster
from tests.support.waiting import wait_until

FREE = {"load_balancer_port": 0, "worker_port": 0, "admin_port": "auto"}


@pytest.fixture
def cluster(make_cluster: Callable[..., TestCluster]) -> TestCluster:
    return make_cluster(worker=2, pool=2, runtime="process", **FREE)


@pytest.fixture(scope="module")
def shared(share_cluster: Callable[..., SharedCluster]) -> SharedCluster:
    return share_cluster(worker=2, pool=2, runtime="process", **FREE)


@pytest.fixture
def running(shared: SharedCluster) -> TestCluster:
    return shared.lend()


def ports(of: TestCluster) -> dict[str, int]:
    listed = of.ps()
    return {row["name"]: row["port"] for row in listed["replicas"]} | {"admin": listed["supervisor"]["admin_port"]}


def test_chosen_ports_are_shown_and_kept(cluster: TestCluster) -> None:
    started = cluster.comet("run", "--detach")
    assert started.returncode == 0, started.stderr
    first = ports(cluster)
    shown = dict(re.findall(r"^(\S+) .*http://127\.0\.0\.1:(\d+)", started.stdout, re.MULTILINE))
    assert {name: int(port) for name, port in shown.items()} == {
        name.replace("admin", "dashboard"): port for name, port in first.items()
    }
    for name in ("lb-0", "lb-1"):
        assert requests.get(f"http://127.0.0.1:{first[name]}/api/v1/hello", timeout=10).status_code == 200
    assert requests.get(f"http://127.0.0.1:{first['admin']}/healthz", timeout=10).status_code == 200
    assert re.search(rf"^supervisor .* {first['admin']} ", cluster.comet("ps").stdout, re.MULTILINE)

    cluster.comet("kill", "worker-0")
    wait_until(lambda: cluster.replicas()["worker-0"]["restarts"] == 1, what="restart")
    cluster.write(avg_delay=1, shutdown_grace=4)
    assert cluster.comet("reload").returncode == 0
    assert cluster.comet("restart", "all").returncode == 0
    assert ports(cluster) == first

    assert cluster.comet("scale", "worker=4", "pool=3").returncode == 0
    more = ports(cluster)
    assert more.items() > first.items()
    assert len(set(more.values())) == 8
    assert cluster.comet("scale", "worker=2", "pool=2").returncode == 0
    assert ports(cluster) == first

    (cluster.folder / ".comet/ports.json").unlink()
    wait_until((cluster.folder / ".comet/ports.json").exists, what="the file is made again")
    os.kill(cluster.supervisor_pid(), signal.SIGKILL)
    wait_until(lambda: not cluster.ps()["supervisor"]["running"], what="the supervisor is dead")
    assert cluster.comet("run", "--detach").returncode == 0
    assert ports(cluster) == first
    assert {event["replica"] for event in cluster.events("adopted")} == {"lb-0", "lb-1", "worker-0", "worker-1"}
    cluster.stop()
    assert not (cluster.folder / ".comet/ports.json").exists()


def test_replicas_are_adopted_without_the_file(running: TestCluster) -> None:
    cluster, known = running, len(running.events("adopted"))
    before = ports(cluster)
    os.kill(cluster.supervisor_pid(), signal.SIGKILL)
    wait_until(lambda: not cluster.ps()["supervisor"]["running"], what="the supervisor is dead")
    (cluster.folder / ".comet/ports.json").unlink()
    assert cluster.comet("run", "--detach").returncode == 0
    after = ports(cluster)
    assert {name: after[name] for name in before if name != "admin"} == {
        name: port for name, port in before.items() if name != "admin"
    }
    assert len(cluster.events("adopted")) == known + 4


def test_check_says_that_ports_are_chosen(cluster: TestCluster) -> None:
    told = cluster.comet("check").stdout
    assert "load-balancer-port any free, worker-port any free, admin-port any free" in told
    cluster.write(worker_port=cluster.config["load-balancer-port"] or 6000, admin_port=0)
    assert "worker-port 6000-6001, load-balancer-port any free)" in cluster.comet("check").stdout


def test_the_config_that_runs_cannot_move_to_other_ports(running: TestCluster) -> None:
    running.write(load_balancer_port=5050)
    refused = running.comet("reload")
    assert refused.returncode == 2
    assert "load-balancer-port: cannot change while the cluster runs" in refused.stderr


@pytest.mark.docker
def test_containers_are_published_on_chosen_ports(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=1, pool=1, runtime="docker", **FREE)
    cluster.start()
    chosen = ports(cluster)
    assert requests.get(f"http://127.0.0.1:{chosen['worker-0']}/healthz", timeout=10).status_code == 200
    assert cluster.comet("restart", "worker").returncode == 0
    assert ports(cluster) == chosen


def test_a_start_that_fails_leaves_no_choice_behind(make_cluster: Callable[..., TestCluster]) -> None:
    service = {"worker_command": "[/bin/false]", "avg_delay": None, "failure": None}
    cluster = make_cluster(worker=1, pool=1, runtime="process", **service, **FREE)
    assert cluster.comet("run", "--detach").returncode == 1
    assert not (cluster.folder / ".comet/ports.json").exists()
