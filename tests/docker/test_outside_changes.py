"""Somebody else stops, restarts, pauses or renames a worker: whatever runs and answers is back in rotation in the
end.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator

import docker
import docker.errors
import psutil
import pytest
import requests

from tests.support.cluster import TestCluster, free_ports, open_cluster
from tests.support.waiting import wait_until

BOTH = ("worker-0", "worker-1")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    """One cluster for all that is done to its containers. It has no time to forget its crashes: it tries again soon all
    the same.
    """
    folder, quick = (
        tmp_path_factory.mktemp("cluster"),
        {"health_interval": 0.5, "health_timeout": 1, "health_restart": 40, "restart_backoff_max": 0.5},
    )
    with open_cluster(folder, worker=2, pool=1, admin_port=free_ports(1), **quick) as cluster:
        cluster.start()
        yield cluster
        cluster.stop()
        cluster.assert_nothing_left()


@pytest.fixture(scope="module")
def engine(cluster: TestCluster) -> Iterator[docker.DockerClient]:
    with cluster.engine() as client:
        yield client


def container(cluster: TestCluster, name: str) -> str:
    return str(cluster.replicas()[name]["id"])


def pids(cluster: TestCluster) -> dict[str, int]:
    rows = cluster.replicas()
    return {name: rows[name]["pid"] for name in BOTH}


def readyz(cluster: TestCluster) -> int:
    return requests.get(f"http://127.0.0.1:{cluster.config['admin-port']}/readyz", timeout=60).status_code


def in_rotation(cluster: TestCluster) -> set[str]:
    """The workers that answer four requests in a row with 200."""
    answers = [cluster.hello() for _ in range(4)]
    return {answer.headers["X-Comet-Worker"] for answer in answers if answer.status_code == 200}


def is_whole(cluster: TestCluster) -> bool:
    return (
        in_rotation(cluster) == set(BOTH)
        and {cluster.replicas()[name]["state"] for name in BOTH} == {"ready"}
        and readyz(cluster) == 200
    )


def kill_inside(cluster: TestCluster, engine: docker.DockerClient, name: str) -> None:
    """The worker itself dies; nobody asked the engine for it."""
    init = psutil.Process(engine.api.inspect_container(container(cluster, name))["State"]["Pid"])
    for process in [*init.children(recursive=True), init]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def restarted_by_the_engine(cluster: TestCluster, engine: docker.DockerClient, name: str) -> None:
    engine.api.update_container(container(cluster, name), restart_policy={"Name": "always"})
    kill_inside(cluster, engine, name)


def restarted(cluster: TestCluster, engine: docker.DockerClient, name: str) -> None:
    engine.api.restart(container(cluster, name), timeout=5)


def restarted_twice(cluster: TestCluster, engine: docker.DockerClient, name: str) -> None:
    for _ in range(2):
        with contextlib.suppress(docker.errors.APIError):  # The supervisor starts it, too.
            engine.api.restart(container(cluster, name), timeout=0)


def stopped_and_started(cluster: TestCluster, engine: docker.DockerClient, name: str) -> None:
    engine.api.stop(container(cluster, name), timeout=5)
    engine.api.start(container(cluster, name))


def pause(engine: docker.DockerClient, identity: str) -> None:
    """Pause a container. runc gives up where the processes of one are too busy to be frozen (cgroup v1)."""

    def is_paused() -> bool:
        try:
            engine.api.pause(identity)
        except docker.errors.APIError as error:
            if "unable to freeze" not in str(error):
                raise
            return False
        return True

    wait_until(is_paused, what="a frozen container")


def paused_for_a_while(cluster: TestCluster, engine: docker.DockerClient, name: str) -> None:
    pause(engine, container(cluster, name))
    wait_until(lambda: cluster.replicas()[name]["state"] == "unhealthy", what="the paused one unhealthy")
    engine.api.unpause(container(cluster, name))


def paused_and_killed(cluster: TestCluster, engine: docker.DockerClient, name: str) -> None:
    pause(engine, container(cluster, name))
    with contextlib.suppress(docker.errors.APIError):
        engine.api.kill(container(cluster, name))


def killed_softly(cluster: TestCluster, engine: docker.DockerClient, name: str) -> None:
    engine.api.kill(container(cluster, name), signal.SIGHUP)


def renamed_and_killed(cluster: TestCluster, engine: docker.DockerClient, name: str) -> None:
    engine.api.rename(container(cluster, name), f"elsewhere-{os.getpid()}-{name}-{time.monotonic_ns()}")
    kill_inside(cluster, engine, name)


def unplugged_and_restarted(cluster: TestCluster, engine: docker.DockerClient, name: str) -> None:
    """Without its network it has no port, and a start does not bring it back."""
    identity = container(cluster, name)
    for network in engine.api.inspect_container(identity)["NetworkSettings"]["Networks"]:
        engine.api.disconnect_container_from_network(identity, network, force=True)
    with contextlib.suppress(docker.errors.APIError):
        engine.api.restart(identity, timeout=0)


def renamed_and_removed(cluster: TestCluster, engine: docker.DockerClient, name: str) -> None:
    identity = container(cluster, name)
    engine.api.rename(identity, f"elsewhere-{os.getpid()}-{name}-{time.monotonic_ns()}")
    engine.api.remove_container(identity, force=True)


@pytest.mark.parametrize(
    "meddle",
    [
        restarted_by_the_engine,
        restarted,
        restarted_twice,
        stopped_and_started,
        paused_for_a_while,
        paused_and_killed,
        killed_softly,
        renamed_and_killed,
        unplugged_and_restarted,
        renamed_and_removed,
    ],
)
def test_a_container_changed_from_outside_recovers(
    cluster: TestCluster, engine: docker.DockerClient, meddle: Callable[[TestCluster, docker.DockerClient, str], None]
) -> None:
    wait_until(lambda: is_whole(cluster), 40, "both workers before")
    before = pids(cluster)
    for name in BOTH:
        meddle(cluster, engine, name)
    if meddle in (paused_for_a_while, paused_and_killed):
        before = {}  # They go on, or have ended: both is fine.
    assert wait_until(
        lambda: (
            not before.items() & pids(cluster).items()  # Else none of it may have reached them yet.
            and is_whole(cluster)
            and len(cluster.containers(engine)) == len(BOTH)
        ),
        40,
        f"both workers, and no other container, after {meddle.__name__}",
    )


def test_all_workers_paused(cluster: TestCluster, engine: docker.DockerClient) -> None:
    wait_until(lambda: is_whole(cluster), 40, "both workers before")
    identities = [container(cluster, name) for name in BOTH]
    pause(engine, identities[0])
    wait_until(lambda: cluster.replicas()["worker-0"]["state"] == "unhealthy", what="the first unhealthy")
    wait_until(lambda: readyz(cluster) == 200, what="readyz")
    pause(engine, identities[1])
    wait_until(lambda: readyz(cluster) == 503, what="nobody ready")
    for identity in identities:
        engine.api.unpause(identity)
    assert wait_until(lambda: is_whole(cluster), 40, "both workers after")


def test_exchanged_container_names(cluster: TestCluster, engine: docker.DockerClient) -> None:
    wait_until(lambda: is_whole(cluster), 40, "both workers before")
    identities = {name: container(cluster, name) for name in BOTH}
    names = {name: engine.api.inspect_container(identity)["Name"].lstrip("/") for name, identity in identities.items()}
    aside = f"elsewhere-{os.getpid()}-{time.monotonic_ns()}"
    engine.api.rename(identities["worker-0"], aside)
    engine.api.rename(identities["worker-1"], names["worker-0"])
    engine.api.rename(identities["worker-0"], names["worker-1"])
    engine.api.remove_container(identities["worker-0"], force=True)
    wait_until(
        lambda: (
            container(cluster, "worker-0") != identities["worker-0"]
            and is_whole(cluster)
            and len(cluster.containers(engine)) == len(BOTH)
        ),
        40,
        "another worker-0, and no other container",
    )
    assert container(cluster, "worker-1") == identities["worker-1"]
    assert cluster.replicas()["worker-1"]["restarts"] == 0 or cluster.events("replica_exited", "worker-1")


def test_a_container_stopped_in_a_loop_is_back_afterwards(cluster: TestCluster, engine: docker.DockerClient) -> None:
    """Stops and starts from two sides at once, in whatever order they reach the engine."""
    wait_until(lambda: is_whole(cluster), 40, "both workers before")
    for count in range(6):
        with contextlib.suppress(docker.errors.APIError):
            engine.api.stop(container(cluster, BOTH[count % 2]), timeout=0)
        with contextlib.suppress(docker.errors.APIError):
            engine.api.start(container(cluster, BOTH[count % 2]))
    assert wait_until(lambda: is_whole(cluster), 60, "both workers after all")


@pytest.mark.parametrize("names", [BOTH[:1], BOTH], ids=["one", "both"])
def test_processes_that_were_stopped_for_a_while_come_back(
    make_cluster: Callable[..., TestCluster], names: tuple[str, ...]
) -> None:
    cluster = make_cluster(
        worker=2,
        pool=1,
        runtime="process",
        health_interval=0.5,
        health_timeout=0.5,
        health_restart=0,
        admin_port=free_ports(1),
    )
    cluster.start()
    workers = [psutil.Process(cluster.replicas()[name]["pid"]) for name in names]
    for process in workers:
        process.suspend()
    try:
        wait_until(lambda: all(cluster.replicas()[name]["state"] == "unhealthy" for name in names), what="seen")
        wait_until(lambda: readyz(cluster) == (503 if names == BOTH else 200), what="readyz")
    finally:
        for process in workers:
            process.resume()
    wait_until(lambda: is_whole(cluster), 40, "both workers")
    assert [cluster.replicas()[name]["pid"] for name in names] == [process.pid for process in workers]
    cluster.stop()


def test_readyz_fails_without_workers(make_cluster: Callable[..., TestCluster]) -> None:
    cluster = make_cluster(worker=0, pool=1, runtime="process", admin_port=free_ports(1))
    cluster.start()
    assert requests.get(cluster.lb(), timeout=60).status_code == 503
    wait_until(lambda: readyz(cluster) == 503, what="readyz")
    cluster.stop()
