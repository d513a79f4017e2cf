"""`runtime: swarm` with a service of one's own, on a real swarm of three machines in network namespaces: what is
refused, how its image comes to the nodes, updates that fail, and a node that the load balancers alone cannot reach.
Every test has a cluster of its own.
"""

import contextlib
import re
from pathlib import Path

import docker
import psutil

from tests.support.cluster import open_cluster
from tests.support.waiting import wait_until
from tests.swarm.hosts import NETWORK, Hosts
from tests.swarm.scenes import (
    OWN,
    all_ready,
    clients_of,
    error_line,
    listens,
    on_machine,
    spread,
    start_everywhere,
    total_requests,
    workers,
)


def test_no_swarm_and_no_manager_are_one_line_each(lab: Hosts, tmp_path: Path) -> None:
    lab.leave()
    with open_cluster(tmp_path, **OWN) as cluster:
        assert "this Docker engine is in no swarm; make one (docker swarm init)" in error_line(
            on_machine(lab, cluster), "run", "--detach"
        )
        lab.swarm()
        on_machine(lab, cluster, 2)
        line = error_line(cluster, "run", "--detach")
        assert "this node is a worker of its swarm, not a manager" in line
        assert "10.77.0.1" in line
        cluster.assert_nothing_left()


def test_addresses_unreachable_for_other_nodes_are_refused(tmp_path: Path) -> None:
    with open_cluster(tmp_path, runtime="swarm", fault_point="worker") as cluster:
        done = cluster.comet("check")
        assert done.returncode == 2
        assert "stats-dir: worker-stats.db is a file, and other machines cannot reach it" in done.stderr
        assert "fault-point: worker acts through a folder of this machine" in done.stderr
        cluster.write(fault_point=None, stats_dir="postgresql://me:secret@localhost/stats")
        line = error_line(cluster, "check")
        assert "means a different machine on each node" in line
        assert "secret" not in line


def test_a_missing_image_is_reported_with_its_nodes(lab: Hosts, manager: docker.DockerClient, tmp_path: Path) -> None:
    with open_cluster(tmp_path, worker=3, **(OWN | {"worker_image": "comet-test:nowhere"})) as cluster:
        done = on_machine(lab, cluster).comet("run", "--detach")
        assert done.returncode == 1
        assert "No such image: comet-test:nowhere" in done.stderr
        # Where it has failed by then: a slow node may still be about to look.
        named = re.search(r"\(on ([h\d, ]+); load it there", done.stderr)
        assert named, done.stderr
        assert set(named[1].split(", ")) <= {"h1", "h2", "h3"}
        cluster.assert_nothing_left()
        assert manager.services.list() == []


def test_an_image_goes_to_the_nodes_through_a_registry(
    lab: Hosts, manager: docker.DockerClient, tmp_path: Path
) -> None:
    with (
        lab.registry(1) as registry,
        open_cluster(tmp_path, worker=3, pool=1, registry=f"{registry}/team", **OWN) as cluster,
    ):
        wait_until(lambda: listens(lab, registry), what="the registry")
        start_everywhere(on_machine(lab, cluster))
        (service,) = manager.services.list()
        assert service.attrs["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"].startswith(
            f"{registry}/team/comet-test@sha256:"
        )
        cluster.stop()
        cluster.write(registry="10.77.0.1:4999")
        assert "registry: 10.77.0.1:4999/comet-test:1 cannot be pushed" in error_line(cluster, "run", "--detach")


def test_a_version_that_never_answers_is_rolled_back(lab: Hosts, manager: docker.DockerClient, tmp_path: Path) -> None:
    """The swarm itself cannot tell: to it a task that runs is well."""
    with open_cluster(tmp_path, worker=2, health_interval=0.5, **OWN) as cluster:
        on_machine(lab, cluster).start()
        with clients_of(lab, cluster):
            cluster.write(
                worker_command="['--listen', '0.0.0.0:8999', '--identity', 'container']", start_timeout=15
            )  # fmt: skip
            done = cluster.comet("reload")
            assert (done.returncode, "the swarm went back to the former version" in done.stderr) == (1, True), (
                done.stderr
            )
            wait_until(all_ready(cluster, 2))
        with clients_of(lab, cluster) as after:
            wait_until(lambda: after.answers.total() > 20, what="answers")
        assert set(after.answers) <= {"200", "500"}
        cluster.stop()
        cluster.assert_nothing_left()


def test_a_service_without_tasks_is_removed_by_stop(lab: Hosts, manager: docker.DockerClient, tmp_path: Path) -> None:
    with open_cluster(tmp_path, worker=1, pool=1, **OWN) as cluster:
        on_machine(lab, cluster).start()
        (service,) = manager.services.list()
        cluster.kill_supervisor()
        for process in cluster.processes():
            with contextlib.suppress(psutil.NoSuchProcess):  # Its helpers end with it, by themselves.
                process.kill()
        service.scale(0)
        wait_until(lambda: all(task["Status"]["State"] != "running" for task in service.tasks()), what="nothing serves")
        assert workers(cluster) == {}
        done = cluster.comet("stop")
        assert done.returncode == 0, done.stderr
        assert f"service {service.id[:12]} removed" in done.stdout + done.stderr
        assert manager.services.list() == []
        cluster.assert_nothing_left()


def test_a_custom_service_whose_update_fails_continues(
    lab: Hosts, manager: docker.DockerClient, tmp_path: Path
) -> None:
    with open_cluster(tmp_path, worker=2, **OWN) as cluster:
        on_machine(lab, cluster).start()
        with clients_of(lab, cluster) as clients:
            kept = cluster.config["worker-command"]
            cluster.write(worker_command="['--no-such-option']")
            done = cluster.comet("reload")
            # What the failed one printed may follow: it does where its end is noticed before the swarm gives up.
            assert (done.returncode, "the swarm went back to the former version" in done.stderr) == (1, True), (
                done.stderr
            )
            wait_until(all_ready(cluster, 2))
        assert set(clients.answers) <= {"200", "500"}  # This application fails on purpose where nobody tells it not to.
        assert total_requests(cluster) == clients.answers.total()
        cluster.write(worker_command=kept)
        cluster.stop()
        cluster.assert_nothing_left()


def test_a_node_unreachable_for_the_lbs_costs_no_request(
    lab: Hosts, manager: docker.DockerClient, tmp_path: Path
) -> None:
    """Comet and its balancers on h2, which hears nothing from h3 any more; the manager, h1, finds all well."""
    sound = OWN | {"worker_command": "['--listen', '0.0.0.0:{port}', '--identity', 'container', '--no-faults']"}
    deaf = ["INPUT", "--source", f"{NETWORK}.3", "--jump", "DROP"]
    with open_cluster(tmp_path, worker=3, health_interval=1, health_timeout=1, **sound) as cluster:
        on_machine(lab, cluster, 2).environment = {"DOCKER_HOST": lab.socket(1)}
        cluster.start()
        cluster.write(start_timeout=20)  # For what will not answer; what does may need longer on a busy machine.
        assert cluster.comet("reload").returncode == 0
        spread(cluster)  # Only now: the reload has replaced all tasks, and they may be anywhere.
        wait_until(all_ready(cluster))
        far = next(name for name, row in workers(cluster).items() if row["node"] == "h3")
        with clients_of(lab, cluster, 2) as clients:
            wait_until(lambda: clients.by_worker[far] > 10)
            lab.on(2, ["iptables", "--insert", *deaf])
            wait_until(lambda: workers(cluster)[far]["state"] == "unhealthy", what="it is missed")
            seen = clients.answers["200"]
            wait_until(lambda: clients.answers["200"] > seen + 100, what="the others serve")
            done = cluster.comet("scale", "worker=6")
            assert (done.returncode, "on h3 does not answer from here" in done.stderr) == (1, True), done.stderr
            assert len(workers(cluster)) == 3
            lab.on(2, ["iptables", "--delete", *deaf])
            wait_until(all_ready(cluster), what="it is back")
        assert clients.failures == {}
        cluster.stop()
        cluster.assert_nothing_left()
