"""`runtime: swarm` on a real swarm: three machines in network namespaces, an engine in each. Load balancers, clients
and everything that is killed are within them. The tests of this file follow one cluster through its life, in order.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator

import docker
import pytest

from comet.workloads import builtin
from tests.support.cluster import TestCluster, open_cluster
from tests.support.postgres import PASSWORD, QUOTED
from tests.support.waiting import PATIENCE, wait_until
from tests.swarm.closed_model import ClosedModel
from tests.swarm.database import database
from tests.swarm.hosts import Hosts
from tests.swarm.scenes import (
    all_ready,
    clients_of,
    error_line,
    nothing_runs_on,
    on_machine,
    spread,
    start_everywhere,
    total_requests,
    workers,
)  # fmt: skip

BUILT_IN = {
    "runtime": "swarm",
    "avg_delay": 0,
    "failure": 0,
    "worker_memory": "128m",
    "health_interval": 2,
    "health_timeout": 1,
    "start_timeout": 60,
}
MANY = 12 if os.environ.get("COMET_TEST_FULL") else 6
FOUR = 4
"""Workers of the tests in which nodes fail: enough for every node to have some."""


@pytest.fixture(scope="module")
def url(lab: Hosts) -> Iterator[str]:
    with database(lab) as made:
        yield made


@pytest.fixture(scope="module")
def cluster(
    lab: Hosts, manager: docker.DockerClient, url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestCluster]:
    """Three workers behind two load balancers on h1, running, with their statistics in PostgreSQL."""
    with open_cluster(tmp_path_factory.mktemp("cluster"), worker=3, stats_dir=url, **BUILT_IN) as cluster:
        start_everywhere(on_machine(lab, cluster))
        yield cluster
        print(cluster.comet("events", "--tail", "60").stdout)  # Shown where a test failed.


@contextlib.contextmanager
def exactly_counted(lab: Hosts, cluster: TestCluster) -> Iterator[ClosedModel]:
    """Clients whose every answer is in the statistics once, but for what the load balancers say that they repeated:
    that may have been counted where it was left as well. No request of theirs fails.
    """

    def repeats() -> int:
        return sum(row["retries"] for row in cluster.replicas().values() if row["role"] == "lb")

    before, repeated = total_requests(cluster), repeats()
    with clients_of(lab, cluster) as clients:
        yield clients
    assert clients.failures == {}
    surplus = total_requests(cluster) - before - clients.answers["200"]
    assert 0 <= surplus <= repeats() - repeated


def test_the_workers_are_one_service_spread_over_the_nodes(cluster: TestCluster, manager: docker.DockerClient) -> None:
    rows = workers(cluster)
    assert {row["node"] for row in rows.values()} == {"h1", "h2", "h3"}
    assert all((row["kind"], row["pid"], row["state"]) == ("task", None, "ready") for row in rows.values())
    assert "NODE" in cluster.comet("ps").stdout.splitlines()[0]
    (service,) = manager.services.list()
    spec = service.attrs["Spec"]
    assert spec["Labels"]["comet.cluster"] == cluster.cluster_id
    assert spec["TaskTemplate"]["Resources"]["Limits"] == {"MemoryBytes": 128 << 20, "Pids": builtin.WORKER_PIDS}
    assert (spec["UpdateConfig"]["Order"], spec["UpdateConfig"]["FailureAction"]) == ("start-first", "rollback")
    assert spec["EndpointSpec"]["Ports"][0]["PublishMode"] == "host"
    assert spec["TaskTemplate"]["ContainerSpec"]["Healthcheck"]["Test"][:2] == ["CMD", "python3"]


def test_the_password_of_the_database_is_a_secret_of_the_swarm(
    cluster: TestCluster, manager: docker.DockerClient
) -> None:
    (secret,) = manager.secrets.list()
    assert secret.attrs["Spec"]["Labels"]["comet.cluster"] == cluster.cluster_id
    (service,) = manager.services.list()
    shown = json.dumps([service.attrs, manager.api.tasks(), [each.attrs for each in manager.containers.list()]])
    assert QUOTED not in shown
    assert PASSWORD not in shown


def test_requests_are_balanced_over_all_nodes(cluster: TestCluster, lab: Hosts) -> None:
    with clients_of(lab, cluster) as clients:
        wait_until(lambda: sum(clients.answers.values()) > 60)
    assert clients.failures == {}
    assert set(clients.by_worker) == {"worker-0", "worker-1", "worker-2"}


def test_scaled_up_and_down_without_a_failed_request(cluster: TestCluster, lab: Hosts) -> None:
    with exactly_counted(lab, cluster):
        assert cluster.comet("scale", f"worker={MANY}").returncode == 0
        wait_until(all_ready(cluster, MANY), what="all workers")
        assert {row["node"] for row in workers(cluster).values()} == {"h1", "h2", "h3"}
        assert cluster.comet("scale", "worker=3").returncode == 0
        wait_until(all_ready(cluster))
    assert list(workers(cluster)) == ["worker-0", "worker-1", "worker-2"]


def test_a_reload_rolls_all_without_a_failed_request(cluster: TestCluster, lab: Hosts) -> None:
    ids = {row["id"] for row in workers(cluster).values()}
    cluster.write(worker_memory="160m")
    with exactly_counted(lab, cluster):
        done = cluster.comet("reload")
        assert done.returncode == 0, done.stderr
        wait_until(all_ready(cluster))
    assert not ids & {row["id"] for row in workers(cluster).values()}
    assert all(row["restarts"] == 0 for row in workers(cluster).values())


def test_a_restart_replaces_all_without_a_failed_request(cluster: TestCluster, lab: Hosts) -> None:
    before = workers(cluster)
    with exactly_counted(lab, cluster):
        done = cluster.comet("restart", "worker")
        assert (done.returncode, done.stdout) == (0, f"restarted {', '.join(before)}\n"), done.stderr
        wait_until(all_ready(cluster))
    after = workers(cluster)
    assert list(after) == list(before)
    assert not {row["id"] for row in before.values()} & {row["id"] for row in after.values()}
    assert all(row["restarts"] == before[name]["restarts"] for name, row in after.items())


def test_one_worker_cannot_be_restarted_alone(cluster: TestCluster) -> None:
    line = error_line(cluster, "restart", "worker-1")
    assert line.endswith(
        "a swarm replaces the workers of a service all together (restart worker), it takes no order for a single one"
    )


def test_the_log_of_a_task_comes_from_its_node(cluster: TestCluster) -> None:
    for name in workers(cluster):
        assert "listening on 0.0.0.0:8080" in cluster.comet("logs", name).stdout


def test_faults_are_injected_by_the_lbs(cluster: TestCluster, lab: Hosts) -> None:
    assert cluster.comet("faults", "worker-1", "--failure", "100").returncode == 0
    with clients_of(lab, cluster) as clients:
        wait_until(lambda: clients.answers["500"] > 3)
    assert cluster.comet("faults", "all", "--clear").returncode == 0
    assert clients.by_worker["worker-1"] == 0
    assert "acts within the worker, and fault-point is lb" in error_line(
        cluster, "faults", "worker-1", "--memory", "100"
    )


def test_a_killed_task_is_counted_and_comes_back(cluster: TestCluster, lab: Hosts) -> None:
    assert cluster.comet("scale", f"worker={FOUR}").returncode == 0
    spread(cluster)
    here = next(name for name, row in workers(cluster).items() if row["node"] == "h1")
    elsewhere = next(name for name, row in workers(cluster).items() if row["node"] == "h2")
    assert "a swarm's manager cannot kill there; on that machine: docker kill" in error_line(cluster, "kill", elsewhere)
    with exactly_counted(lab, cluster):
        before = workers(cluster)[here]["restarts"]
        assert cluster.comet("kill", here).returncode == 0
        wait_until(lambda: workers(cluster)[here]["restarts"] == before + 1, what="the death is noticed")
        wait_until(all_ready(cluster, FOUR))
    assert workers(cluster)[here]["last_exit"]["signal"] == "SIGKILL"
    assert f"-- {here} exited by SIGKILL at 20" in cluster.comet("logs", here).stdout


def test_a_node_that_dies_under_load_costs_no_request(cluster: TestCluster, lab: Hosts) -> None:
    victim = next(row["node"] for row in workers(cluster).values() if row["node"] != "h1")
    lost = [name for name, row in workers(cluster).items() if row["node"] == victim]
    all_of_them = all_ready(cluster, len(workers(cluster)))
    downs = len(cluster.events("node_down"))  # A busy machine may have been taken for a dead one before.
    with exactly_counted(lab, cluster) as clients:
        wait_until(lambda: clients.answers["200"] > 50)
        lab.power_off(int(victim[1:]))
        wait_until(
            lambda: all(workers(cluster)[name]["node"] not in (victim, None) for name in lost), 60, "they run elsewhere"
        )
        wait_until(all_of_them, 60)
    assert [event["node"] for event in cluster.events("node_down")[downs:]].count(victim) == 1
    backs = len(cluster.events("node_ready"))
    lab.start(int(victim[1:]))
    wait_until(
        lambda: victim in {event["node"] for event in cluster.events("node_ready")[backs:]}, what="the node is back"
    )


def test_a_healed_partition_costs_no_request_and_no_duplicate(cluster: TestCluster, lab: Hosts) -> None:
    victim = next(row["node"] for row in workers(cluster).values() if row["node"] != "h1")
    number = int(victim[1:])
    with exactly_counted(lab, cluster):
        lab.link(number, up=False)
        wait_until(lambda: all(row["node"] != victim for row in workers(cluster).values()), 60, "they run elsewhere")
        wait_until(all_ready(cluster, FOUR), 60)
        lab.link(number, up=True)
        wait_until(lambda: nothing_runs_on(lab, number), 60, "what was cut off has ended")
    assert len(workers(cluster)) == FOUR


def test_a_drained_node_hands_over_without_a_failed_request(
    cluster: TestCluster, lab: Hosts, manager: docker.DockerClient
) -> None:
    victim = workers(cluster)["worker-0"]["node"]
    node = next(each for each in manager.nodes.list() if each.attrs["Description"]["Hostname"] == victim)
    with exactly_counted(lab, cluster):
        node.update({**node.attrs["Spec"], "Availability": "drain"})
        wait_until(lambda: all(row["node"] not in (victim, None) for row in workers(cluster).values()), 60)
        assert wait_until(all_ready(cluster, FOUR), 60)
    node.reload()
    node.update({**node.attrs["Spec"], "Availability": "active"})


def agrees_with(manager: docker.DockerClient, cluster: TestCluster) -> Callable[[], bool]:
    """Whether Comet and the manager know the same tasks, all of them serve, and none is about to be replaced: a manager
    that is back hears of its nodes one by one, and an update that meets what it does to the tasks of the others leaves
    some of them running.
    """

    def look() -> bool:
        if {each.attrs["Status"]["State"] for each in manager.nodes.list()} != {"ready"}:
            return False
        wanted = manager.api.tasks(filters={"desired-state": "running"})
        ids = {str(task["Status"].get("ContainerStatus", {}).get("ContainerID"))[:12] for task in wanted}
        return ids == {row["id"] for row in workers(cluster).values()} and all_ready(cluster, FOUR)()

    return look


def test_workers_serve_without_a_manager(cluster: TestCluster, lab: Hosts, manager: docker.DockerClient) -> None:
    rows = workers(cluster)
    losses, returns = len(cluster.events("engine_lost")), len(cluster.events("engine_back"))
    with exactly_counted(lab, cluster) as clients:
        lab.power_off(1, cable=False)
        wait_until(lambda: len(cluster.events("engine_lost")) > losses, what="the manager is missed")
        assert any(row["node"] != "h1" for row in rows.values())
        seen = clients.answers["200"]
        wait_until(lambda: clients.answers["200"] > seen + 100)
        assert "does not answer" in cluster.events("engine_lost")[-1]["reason"]
        assert "manager does not answer; nothing was changed" in error_line(cluster, "scale", f"worker={FOUR + 1}")
    # Where it hears of all its nodes at once and too late, the swarm itself ends what serves before any successor does.
    lab.start(1)
    wait_until(lambda: len(cluster.events("engine_back")) > returns, 60, "the manager is back")
    wait_until(agrees_with(manager, cluster), 90, "what it has replaced is known")


def test_a_restarted_manager_removes_no_worker(cluster: TestCluster, lab: Hosts, manager: docker.DockerClient) -> None:
    """It calls them down and replaces their tasks, those answer as before, and at first nobody else does: its own
    machine was off.
    """
    assert cluster.comet("restart", "worker").returncode == 0  # So that other nodes have some.
    wait_until(agrees_with(manager, cluster), 60)
    away = {name: row["id"] for name, row in workers(cluster).items() if row["node"] != "h1"}
    assert away
    restarts = {name: row["restarts"] for name, row in workers(cluster).items()}
    downs, losses = len(cluster.events("node_down")), len(cluster.events("engine_lost"))
    with exactly_counted(lab, cluster):
        lab.power_off(1, cable=False)
        wait_until(lambda: len(cluster.events("engine_lost")) > losses, what="the manager is missed")
        with lab.refusing(1, port=2377):
            lab.start(1)
            wait_until(
                lambda: {"h2", "h3"} <= {event["node"] for event in cluster.events("node_down")[downs:]},
                60,
                "both are down",
            )
            wait_until(
                lambda: {row["node"] for row in workers(cluster).values()} == {"h1"}, 60, "what is replaced has moved"
            )
            wait_until(all_ready(cluster, FOUR), 60)
        wait_until(agrees_with(manager, cluster), 90)
    moved = {event["replica"] for event in cluster.events("replica_moved") if event["former"] in away.values()}
    assert moved == set(away)
    assert {name: row["restarts"] for name, row in workers(cluster).items() if name in away} == {
        name: restarts[name] for name in away
    }


def test_the_next_supervisor_adopts_every_task(cluster: TestCluster) -> None:
    before = {name: (row["id"], row["node"], row["port"]) for name, row in workers(cluster).items()}
    assert len(before) == FOUR
    cluster.kill_supervisor()
    orphans = workers(cluster)
    assert {name: (row["id"], row["node"], row["port"]) for name, row in orphans.items()} == before
    assert all(row["orphan"] for row in orphans.values())
    cluster.start()
    assert {name: (row["id"], row["node"], row["port"]) for name, row in workers(cluster).items()} == before
    wait_until(all_ready(cluster, FOUR))


def test_orphans_end_without_a_supervisor_and_leave_nothing(
    cluster: TestCluster, lab: Hosts, manager: docker.DockerClient
) -> None:
    cluster.kill_supervisor()
    began = time.monotonic()
    cluster.stop()
    assert time.monotonic() - began < 60 * PATIENCE
    cluster.assert_nothing_left()
    assert manager.services.list() == []
    assert manager.secrets.list() == []
    wait_until(lambda: all(nothing_runs_on(lab, number) for number in lab.numbers))
