"""`runtime: swarm` with a service of one's own, on a real swarm of three machines in network namespaces: what is refused, how its image
comes to the nodes, updates that fail, and a node that the load balancers alone cannot reach. Every test has a cluster of its own."""

import contextlib
import os
import socket
import time
from pathlib import Path

import docker
import pytest

from tests.integration.clusters import eventually, house
from tests.swarm.hosts import NETWORK, Hosts
from tests.swarm.scenes import OWN, at, counted, crowd, settled, told, workers

pytestmark = [pytest.mark.slow, pytest.mark.docker]


def listens(lab: Hosts, address: str) -> bool:
    host, _, port = address.partition(":")

    def connects() -> bool:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=5):
            return True
        return False

    return lab.within(1, connects)


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


def test_a_service_without_a_task_is_found_and_removed_without_a_supervisor(
    lab: Hosts, manager: docker.DockerClient, tmp_path: Path
) -> None:
    with house(tmp_path, worker=1, pool=1, **OWN) as made:
        at(lab, made).start()
        (service,) = manager.services.list()
        os.kill(made.supervisor_pid(), 9)
        for process in made.processes():
            process.kill()
        service.scale(0)
        eventually(lambda: all(task["Status"]["State"] != "running" for task in service.tasks()), what="nothing serves")
        assert workers(made) == {}
        done = made.comet("stop")
        assert done.returncode == 0, done.stderr
        assert f"service {service.id[:12]} removed" in done.stdout + done.stderr
        assert manager.services.list() == []
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


def test_a_node_that_the_balancers_alone_cannot_reach_costs_no_request(lab: Hosts, manager: docker.DockerClient, tmp_path: Path) -> None:
    """Comet and its balancers on h2, which hears nothing from h3 any more; the manager, h1, finds all well."""
    sound = OWN | {"worker_command": "['--listen', '0.0.0.0:{port}', '--identity', 'container', '--no-faults']"}
    deaf = ["INPUT", "--source", f"{NETWORK}.3", "--jump", "DROP"]
    with house(tmp_path, worker=3, health_interval=1, health_timeout=1, start_timeout=20, **sound) as made:
        at(lab, made, 2).environment = {"DOCKER_HOST": lab.socket(1)}
        made.start()
        far = next(name for name, row in workers(made).items() if row["node"] == "h3")
        with crowd(lab, made, 2) as clients:
            eventually(lambda: clients.by_worker[far] > 10)
            lab.on(2, ["iptables", "--insert", *deaf])
            eventually(lambda: workers(made)[far]["state"] == "unhealthy", what="it is missed")
            seen = clients.answers["200"]
            eventually(lambda: clients.answers["200"] > seen + 100, what="the others serve")
            done = made.comet("scale", "worker=6")
            assert (done.returncode, "on h3 does not answer from here" in done.stderr) == (1, True), done.stderr
            assert len(workers(made)) == 3
            lab.on(2, ["iptables", "--delete", *deaf])
            eventually(settled(made), what="it is back")
        assert clients.failures == {}
        made.stop()
        made.assert_nothing_left()
