"""`runtime: swarm` on a real swarm: three machines in network namespaces, an engine in each. Load balancers, clients and everything that is
killed are within them. The tests of this file follow one cluster through its life, in order."""

import contextlib
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from comet import base_image, expand
from comet import image as images
from comet.cluster import Cluster
from tests.integration.clusters import House, eventually, house
from tests.postgres import PASSWORD, QUOTED
from tests.swarm.crowd import Crowd
from tests.swarm.database import database
from tests.swarm.hosts import Hosts, hosts

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

IMAGE = "comet-test:1"
OWN = {
    "runtime": "swarm",
    "worker_image": IMAGE,
    "worker_target_port": 8080,
    "worker_command": "['--listen', '0.0.0.0:{port}', '--identity', 'container']",
    "worker_environment": "{COMET_DATABASE: 'sqlite:////tmp/stats.db'}",
    "avg_delay": None,
    "failure": None,
}
"""The same application, as somebody's own service."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    folder = tmp_path_factory.mktemp("image")
    Cluster(folder).create()
    source = docker.from_env()
    with contextlib.closing(source), hosts(3) as machines:
        # Where the base is the official one, a load balancer's machine without it would take another image for the right one.
        base = base_image.present(source)
        wanted = [images.ensure_image(source, folder, lambda told: None), *([base.reference] if base is not None else [])]
        machines.load(source, wanted)
        for number in machines.numbers:
            machines.client(number).images.get(wanted[0]).tag(*IMAGE.split(":"))
        yield machines


@pytest.fixture(scope="module")
def url(lab: Hosts) -> Iterator[str]:
    with database(lab) as made:
        yield made


@pytest.fixture(scope="module")
def manager(lab: Hosts) -> docker.DockerClient:
    """What manages the swarm, in which the three are from the first use on."""
    client = lab.client(1)
    if client.info()["Swarm"]["LocalNodeState"] == "inactive":
        lab.swarm()
    return client


def at(lab: Hosts, made: House, number: int = 1) -> House:
    """Everything of this cluster happens on that machine."""
    made.command = (*lab.enter(number), *made.command[-2:])
    made.environment = {"DOCKER_HOST": lab.socket(number)}
    return made


@pytest.fixture(scope="module")
def cluster(lab: Hosts, manager: docker.DockerClient, url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Three workers behind two load balancers on h1, running, with their statistics in PostgreSQL."""
    with house(tmp_path_factory.mktemp("cluster"), worker=3, stats_dir=url, **BUILT_IN) as made:
        at(lab, made).start()
        yield made
        print(made.comet("events", "--tail", "60").stdout)  # Shown where a test failed.


def workers(made: House) -> dict[str, dict[str, Any]]:
    return {name: row for name, row in made.replicas().items() if row["role"] == "worker"}


def settled(made: House, count: int = 3) -> Callable[[], bool]:
    """Whether all workers are ready, each on a task of its own, and every load balancer finds them well."""

    def look() -> bool:
        listed = made.ps()
        rows = [row for row in listed["replicas"] if row["role"] == "worker"]
        well = [edge["healthy"] for edge in listed["edges"]]
        return len({row["id"] for row in rows if row["state"] == "ready"}) == count and len(well) == 2 * count and all(well)

    return look


def crowd(lab: Hosts, made: House) -> Crowd:
    first = made.config["load-balancer-port"]
    return Crowd(lab, 1, [first, first + 1])


def counted(made: House) -> int:
    """TotalRequests over all workers."""
    return int(json.loads(made.comet("stats", "--json").stdout)["TotalRequests"][0]["total"])


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


def listens(lab: Hosts, address: str) -> bool:
    host, _, port = address.partition(":")

    def connects() -> bool:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=5):
            return True
        return False

    return lab.within(1, connects)


def told(made: House, *arguments: str) -> str:
    """The one line of a command that fails."""
    done = made.comet(*arguments)
    assert done.returncode in (1, 2), done.stdout
    (line,) = done.stderr.strip().splitlines()
    return line


def test_no_swarm_and_no_manager_are_one_line_each(lab: Hosts, tmp_path: Path) -> None:
    with house(tmp_path, **OWN) as made:
        assert "this Docker engine is in no swarm; make one (docker swarm init)" in told(at(lab, made), "run", "--detach")
        lab.swarm()
        at(lab, made, 2)
        line = told(made, "run", "--detach")
        assert "this node is a worker of its swarm, not a manager" in line
        assert "10.77.0.1" in line
        made.assert_nothing_left()


def test_what_other_machines_cannot_reach_is_refused(tmp_path: Path) -> None:
    with house(tmp_path, runtime="swarm", fault_point="worker") as made:
        done = made.comet("check")
        assert done.returncode == 2
        assert "stats-dir: worker-stats.db is a file, and other machines cannot reach it" in done.stderr
        assert "fault-point: worker acts through a folder of this machine" in done.stderr
        made.write(fault_point=None, stats_dir="postgresql://me:secret@localhost/stats")
        line = told(made, "check")
        assert "names this machine as each machine calls itself" in line
        assert "secret" not in line


def test_an_image_that_is_missing_is_told_with_the_nodes(lab: Hosts, manager: docker.DockerClient, tmp_path: Path) -> None:
    with house(tmp_path, worker=3, **(OWN | {"worker_image": "comet-test:nowhere"})) as made:
        done = at(lab, made).comet("run", "--detach")
        assert done.returncode == 1
        assert "No such image: comet-test:nowhere" in done.stderr
        assert "on h1, h2, h3" in done.stderr
        made.assert_nothing_left()
        assert manager.services.list() == []


def test_an_image_goes_to_the_nodes_through_a_registry(lab: Hosts, manager: docker.DockerClient, tmp_path: Path) -> None:
    with lab.registry(1) as registry, house(tmp_path, worker=3, pool=1, registry=f"{registry}/team", **OWN) as made:
        eventually(lambda: listens(lab, registry), what="the registry")
        at(lab, made).start()
        (service,) = manager.services.list()
        assert service.attrs["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"].startswith(f"{registry}/team/comet-test@sha256:")
        assert {row["node"] for row in workers(made).values()} == {"h1", "h2", "h3"}
        made.stop()
        made.write(registry="10.77.0.1:4999")
        assert "registry: 10.77.0.1:4999/comet-test:1 cannot be pushed" in told(made, "run", "--detach")


def test_a_version_that_runs_and_never_answers_is_taken_back(lab: Hosts, manager: docker.DockerClient, tmp_path: Path) -> None:
    """The swarm itself cannot tell: to it a task that runs is well."""
    with house(tmp_path, worker=2, start_timeout=30, health_interval=0.5, **OWN) as made:
        at(lab, made).start()
        with crowd(lab, made):
            made.write(worker_command="['--listen', '0.0.0.0:8999', '--identity', 'container']")
            done = made.comet("reload")
            assert (done.returncode, "the swarm went back to the former version" in done.stderr) == (1, True), done.stderr
            eventually(settled(made, 2))
        with crowd(lab, made) as after:
            time.sleep(1)
        assert after.answers.total() > 0
        assert set(after.answers) <= {"200", "500"}
        made.stop()
        made.assert_nothing_left()


def test_a_service_of_ones_own_whose_update_fails_serves_on(lab: Hosts, manager: docker.DockerClient, tmp_path: Path) -> None:
    with house(tmp_path, worker=2, **OWN) as made:
        at(lab, made).start()
        with crowd(lab, made) as clients:
            kept = made.config["worker-command"]
            made.write(worker_command="['--no-such-option']")
            assert "the swarm went back to the former version" in told(made, "reload")
            eventually(settled(made, 2))
        assert set(clients.answers) <= {"200", "500"}  # This application fails on purpose where nobody tells it not to.
        assert counted(made) == clients.answers.total()
        made.write(worker_command=kept)
        made.stop()
        made.assert_nothing_left()


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
    assert told(cluster, "restart", "worker-1").endswith("a swarm replaces the workers of a service all together: restart worker")


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


def test_without_a_manager_the_others_serve_on(cluster: House, lab: Hosts) -> None:
    rows = workers(cluster)
    with exactly_counted(lab, cluster) as clients:
        lab.power_off(1, cable=False)
        eventually(lambda: cluster.events("engine_lost"), what="the manager is missed")
        assert any(row["node"] != "h1" for row in rows.values())
        seen = clients.answers["200"]
        eventually(lambda: clients.answers["200"] > seen + 100)
        assert "does not answer" in cluster.events("engine_lost")[-1]["reason"]
        assert "manager does not answer; nothing was changed" in told(cluster, "scale", "worker=4")
        lab.start(1)
        eventually(lambda: cluster.events("engine_back"), 60, "the manager is back")
        eventually(settled(cluster, SIX), 90)


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
