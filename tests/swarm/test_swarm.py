"""`runtime: swarm` on a real swarm: three machines in network namespaces, an engine in each. Load balancers, clients and everything that is
killed are within them. The tests of this file follow one cluster through its life, in order."""

import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator

import docker
import pytest

from comet import expand
from tests.integration.clusters import House, eventually, house
from tests.postgres import PASSWORD, QUOTED
from tests.swarm.crowd import Crowd
from tests.swarm.database import database
from tests.swarm.hosts import Hosts
from tests.swarm.scenes import at, counted, crowd, settled, told, workers

pytestmark = [pytest.mark.slow, pytest.mark.docker]

BUILT_IN = {
    "runtime": "swarm",
    "avg_delay": 0,
    "failure": 0,
    "worker_memory": "128m",
    "health_interval": 2,
    "health_timeout": 1,
    "start_timeout": 60,
}
SIX = 6
"""Workers of the tests in which nodes fail: enough for every node to have some."""


@pytest.fixture(scope="module")
def url(lab: Hosts) -> Iterator[str]:
    with database(lab) as made:
        yield made


@pytest.fixture(scope="module")
def cluster(lab: Hosts, manager: docker.DockerClient, url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Three workers behind two load balancers on h1, running, with their statistics in PostgreSQL."""
    with house(tmp_path_factory.mktemp("cluster"), worker=3, stats_dir=url, **BUILT_IN) as made:
        at(lab, made).start()
        yield made
        print(made.comet("events", "--tail", "60").stdout)  # Shown where a test failed.


@contextlib.contextmanager
def exactly_counted(lab: Hosts, made: House) -> Iterator[Crowd]:
    """Clients whose every answer is in the statistics once, but for what the load balancers say that they repeated: that may have been
    counted where it was left as well. No request of theirs fails."""

    def repeats() -> int:
        return sum(row["retries"] for row in made.replicas().values() if row["role"] == "lb")

    before, repeated = counted(made), repeats()
    with crowd(lab, made) as clients:
        yield clients
    assert clients.failures == {}
    surplus = counted(made) - before - clients.answers["200"]
    assert 0 <= surplus <= repeats() - repeated


def test_the_workers_are_one_service_spread_over_the_nodes(cluster: House, manager: docker.DockerClient) -> None:
    rows = workers(cluster)
    assert {row["node"] for row in rows.values()} == {"h1", "h2", "h3"}
    assert all((row["kind"], row["pid"], row["state"]) == ("task", None, "ready") for row in rows.values())
    assert "NODE" in cluster.comet("ps").stdout.splitlines()[0]
    (service,) = manager.services.list()
    spec = service.attrs["Spec"]
    assert spec["Labels"]["comet.cluster"] == cluster.cluster_id
    assert spec["TaskTemplate"]["Resources"]["Limits"] == {"MemoryBytes": 128 << 20, "Pids": expand.WORKER_PIDS}
    assert (spec["UpdateConfig"]["Order"], spec["UpdateConfig"]["FailureAction"]) == ("start-first", "rollback")
    assert spec["EndpointSpec"]["Ports"][0]["PublishMode"] == "host"
    assert spec["TaskTemplate"]["ContainerSpec"]["Healthcheck"]["Test"][:2] == ["CMD", "python3"]


def test_the_password_of_the_database_is_a_secret_of_the_swarm(cluster: House, manager: docker.DockerClient) -> None:
    (secret,) = manager.secrets.list()
    assert secret.attrs["Spec"]["Labels"]["comet.cluster"] == cluster.cluster_id
    (service,) = manager.services.list()
    shown = json.dumps([service.attrs, manager.api.tasks(), [each.attrs for each in manager.containers.list()]])
    assert QUOTED not in shown
    assert PASSWORD not in shown


def test_requests_go_round_over_all_nodes(cluster: House, lab: Hosts) -> None:
    with crowd(lab, cluster) as clients:
        eventually(lambda: sum(clients.answers.values()) > 60)
    assert clients.failures == {}
    assert set(clients.by_worker) == {"worker-0", "worker-1", "worker-2"}


def test_scaled_from_3_to_12_to_3_without_a_failed_request(cluster: House, lab: Hosts) -> None:
    with exactly_counted(lab, cluster):
        assert cluster.comet("scale", "worker=12").returncode == 0
        eventually(settled(cluster, 12), what="12 workers")
        assert set(Counter(row["node"] for row in workers(cluster).values()).values()) == {4}
        assert cluster.comet("scale", "worker=3").returncode == 0
        eventually(settled(cluster))
    assert list(workers(cluster)) == ["worker-0", "worker-1", "worker-2"]


def test_a_reload_rolls_all_without_a_failed_request(cluster: House, lab: Hosts) -> None:
    ids = {row["id"] for row in workers(cluster).values()}
    cluster.write(worker_memory="160m")
    with exactly_counted(lab, cluster):
        done = cluster.comet("reload")
        assert done.returncode == 0, done.stderr
        eventually(settled(cluster))
    assert not ids & {row["id"] for row in workers(cluster).values()}
    assert all(row["restarts"] == 0 for row in workers(cluster).values())


def test_a_restart_makes_all_anew_without_a_failed_request(cluster: House, lab: Hosts) -> None:
    before = workers(cluster)
    with exactly_counted(lab, cluster):
        done = cluster.comet("restart", "worker")
        assert (done.returncode, done.stdout) == (0, f"restarted {', '.join(before)}\n"), done.stderr
        eventually(settled(cluster))
    after = workers(cluster)
    assert list(after) == list(before)
    assert not {row["id"] for row in before.values()} & {row["id"] for row in after.values()}
    assert all(row["restarts"] == before[name]["restarts"] for name, row in after.items())


def test_one_worker_cannot_be_restarted_alone(cluster: House) -> None:
    line = told(cluster, "restart", "worker-1")
    assert line.endswith("a swarm replaces the workers of a service all together (restart worker), it takes no order for a single one")


def test_the_log_of_a_task_comes_from_its_node(cluster: House) -> None:
    for name in workers(cluster):
        assert "listening on 0.0.0.0:8080" in cluster.comet("logs", name).stdout


def test_faults_are_brought_about_by_the_balancers(cluster: House, lab: Hosts) -> None:
    assert cluster.comet("faults", "worker-1", "--failure", "100").returncode == 0
    with crowd(lab, cluster) as clients:
        eventually(lambda: clients.answers["500"] > 3)
    assert cluster.comet("faults", "all", "--clear").returncode == 0
    assert clients.by_worker["worker-1"] == 0
    assert "acts within the worker, and fault-point is lb" in told(cluster, "faults", "worker-1", "--memory", "100")


def test_a_killed_task_is_counted_and_comes_back(cluster: House, lab: Hosts) -> None:
    assert cluster.comet("scale", f"worker={SIX}").returncode == 0
    here = next(name for name, row in workers(cluster).items() if row["node"] == "h1")
    elsewhere = next(name for name, row in workers(cluster).items() if row["node"] == "h2")
    assert "a swarm's manager cannot kill there; on that machine: docker kill" in told(cluster, "kill", elsewhere)
    with exactly_counted(lab, cluster):
        before = workers(cluster)[here]["restarts"]
        assert cluster.comet("kill", here).returncode == 0
        eventually(lambda: workers(cluster)[here]["restarts"] == before + 1, what="the death is noticed")
        eventually(settled(cluster, SIX))
    assert workers(cluster)[here]["last_exit"]["signal"] == "SIGKILL"
    assert f"-- {here} exited by SIGKILL at 20" in cluster.comet("logs", here).stdout


def test_a_node_that_dies_under_load_costs_no_request(cluster: House, lab: Hosts) -> None:
    victim = next(row["node"] for row in workers(cluster).values() if row["node"] != "h1")
    lost = [name for name, row in workers(cluster).items() if row["node"] == victim]
    with exactly_counted(lab, cluster) as clients:
        eventually(lambda: clients.answers["200"] > 50)
        lab.power_off(int(victim[1:]))
        eventually(lambda: all(workers(cluster)[name]["node"] not in (victim, None) for name in lost), 60, "they run elsewhere")
        eventually(settled(cluster, SIX), 60)
    (event,) = cluster.events("node_down")
    assert event["node"] == victim
    lab.start(int(victim[1:]))
    eventually(lambda: cluster.events("node_ready"), what="the node is back")


def test_a_partition_that_heals_costs_no_request_and_leaves_no_double(cluster: House, lab: Hosts) -> None:
    victim = next(row["node"] for row in workers(cluster).values() if row["node"] != "h1")
    number = int(victim[1:])
    with exactly_counted(lab, cluster):
        lab.link(number, up=False)
        eventually(lambda: all(row["node"] != victim for row in workers(cluster).values()), 60, "they run elsewhere")
        eventually(settled(cluster, SIX), 60)
        lab.link(number, up=True)
        eventually(lambda: lab.client(number).containers.list() == [], 60, "what was cut off has ended")
    assert len(workers(cluster)) == SIX


def test_a_drained_node_hands_over_without_a_failed_request(cluster: House, lab: Hosts, manager: docker.DockerClient) -> None:
    victim = workers(cluster)["worker-0"]["node"]
    node = next(each for each in manager.nodes.list() if each.attrs["Description"]["Hostname"] == victim)
    with exactly_counted(lab, cluster):
        node.update({**node.attrs["Spec"], "Availability": "drain"})
        eventually(lambda: all(row["node"] not in (victim, None) for row in workers(cluster).values()), 60)
        eventually(settled(cluster, SIX), 60)
    node.reload()
    node.update({**node.attrs["Spec"], "Availability": "active"})


def agrees_with(manager: docker.DockerClient, cluster: House) -> Callable[[], bool]:
    """Whether Comet and the manager know the same tasks, and all of them serve."""

    def look() -> bool:
        wanted = manager.api.tasks(filters={"desired-state": "running"})
        ids = {str(task["Status"].get("ContainerStatus", {}).get("ContainerID"))[:12] for task in wanted}
        return ids == {row["id"] for row in workers(cluster).values()} and settled(cluster, SIX)()

    return look


def test_without_a_manager_the_others_serve_on(cluster: House, lab: Hosts, manager: docker.DockerClient) -> None:
    rows = workers(cluster)
    with exactly_counted(lab, cluster) as clients:
        lab.power_off(1, cable=False)
        eventually(lambda: cluster.events("engine_lost"), what="the manager is missed")
        assert any(row["node"] != "h1" for row in rows.values())
        seen = clients.answers["200"]
        eventually(lambda: clients.answers["200"] > seen + 100)
        assert "does not answer" in cluster.events("engine_lost")[-1]["reason"]
        assert "manager does not answer; nothing was changed" in told(cluster, "scale", "worker=4")
    # Where it hears of all its nodes at once and too late, the swarm itself ends what serves before any successor does.
    lab.start(1)
    eventually(lambda: cluster.events("engine_back"), 60, "the manager is back")
    eventually(agrees_with(manager, cluster), 90, "what it has replaced is known")


def test_a_manager_that_does_not_hear_of_its_nodes_takes_nobody_away(cluster: House, lab: Hosts, manager: docker.DockerClient) -> None:
    """It calls them down and replaces their tasks, those answer as before, and at first nobody else does: its own machine was off."""
    assert cluster.comet("restart", "worker").returncode == 0  # So that other nodes have some.
    eventually(agrees_with(manager, cluster), 60)
    away = {name: row["id"] for name, row in workers(cluster).items() if row["node"] != "h1"}
    assert away
    restarts = {name: row["restarts"] for name, row in workers(cluster).items()}
    downs, losses = len(cluster.events("node_down")), len(cluster.events("engine_lost"))
    with exactly_counted(lab, cluster):
        lab.power_off(1, cable=False)
        eventually(lambda: len(cluster.events("engine_lost")) > losses, what="the manager is missed")
        with lab.refusing(1, port=2377):
            lab.start(1)
            eventually(lambda: {"h2", "h3"} <= {event["node"] for event in cluster.events("node_down")[downs:]}, 60, "both are down")
            eventually(lambda: {row["node"] for row in workers(cluster).values()} == {"h1"}, 60, "what is replaced has moved")
            eventually(settled(cluster, SIX), 60)
        eventually(agrees_with(manager, cluster), 90)
    moved = {event["replica"] for event in cluster.events("replica_moved") if event["former"] in away.values()}
    assert moved == set(away)
    assert {name: row["restarts"] for name, row in workers(cluster).items() if name in away} == {name: restarts[name] for name in away}


def test_a_supervisor_after_this_one_adopts_every_task(cluster: House) -> None:
    before = {name: (row["id"], row["node"], row["port"]) for name, row in workers(cluster).items()}
    assert len(before) == SIX
    os.kill(cluster.supervisor_pid(), 9)
    orphans = workers(cluster)
    assert {name: (row["id"], row["node"], row["port"]) for name, row in orphans.items()} == before
    assert all(row["orphan"] for row in orphans.values())
    cluster.start()
    assert {name: (row["id"], row["node"], row["port"]) for name, row in workers(cluster).items()} == before
    eventually(settled(cluster, SIX))


def test_orphans_are_ended_without_a_supervisor_and_nothing_is_left(cluster: House, lab: Hosts, manager: docker.DockerClient) -> None:
    os.kill(cluster.supervisor_pid(), 9)
    began = time.monotonic()
    cluster.stop()
    assert time.monotonic() - began < 60
    cluster.assert_nothing_left()
    assert manager.services.list() == []
    assert manager.secrets.list() == []
    eventually(lambda: all(lab.client(number).containers.list() == [] for number in lab.numbers))
