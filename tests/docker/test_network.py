"""Containers of a cluster are on a network of its own: nobody else's containers reach them, nor do they reach one
another.
"""

import contextlib
import subprocess
from collections.abc import Callable, Iterator

import docker
import docker.errors
import pytest
import requests

from tests.support.cluster import TestCluster, open_cluster
from tests.support.engines import private_engine
from tests.support.waiting import wait_until

CALL = """import socket, sys
host, port = sys.argv[1:]
try:
    socket.create_connection((host, int(port)), 1.5).close()
except OSError as error:
    sys.exit(f"refused: {error}")
"""

RESOLVE = "import socket, sys; print(socket.getaddrinfo(sys.argv[1], 80))"


def inside(client: docker.DockerClient, container: str, *words: str) -> tuple[int, str]:
    """Run Python inside of a container: exit code and output."""
    made = client.api.exec_create(container, ["python3", "-c", *words])["Id"]
    printed = client.api.exec_start(made).decode(errors="replace")
    return client.api.exec_inspect(made)["ExitCode"], printed


def reaches(client: docker.DockerClient, container: str, host: str, port: int = 8080) -> bool:
    return inside(client, container, CALL, host, str(port))[0] == 0


def is_shut_off(client: docker.DockerClient, container: str, host: str, port: int = 8080) -> bool:
    """Whether what is there is out of the container's reach.

    The engine opens its networks to each other for some milliseconds when any network of the machine is made, as other
    tests do meanwhile (docs/isolation.md): what is open at each of several calls is not shut off.
    """
    return not all(reaches(client, container, host, port) for _ in range(5))


def addresses(client: docker.DockerClient, container: str) -> dict[str, str]:
    """By network."""
    seen = client.api.inspect_container(container)["NetworkSettings"]["Networks"]
    return {name: network["IPAddress"] for name, network in seen.items()}


def networks(cluster: TestCluster, client: docker.DockerClient) -> list[str]:
    return [each["Name"] for each in client.api.networks(filters={"label": f"comet.cluster={cluster.cluster_id}"})]


@contextlib.contextmanager
def bridged(client: docker.DockerClient, image: str) -> Iterator[str]:
    """A container of somebody else, on the engine's default network."""
    made = client.api.create_container(
        image, entrypoint=["sleep", "60"], host_config=client.api.create_host_config(init=True)
    )["Id"]
    try:
        client.api.start(made)
        yield made
    finally:
        client.api.remove_container(made, force=True)


def remove_with_members(client: docker.DockerClient, network: str, members: list[str]) -> None:
    """Remove a network, and start the containers again that were on it."""

    def removed() -> bool:
        """Comet may have brought a worker back to it in between, where the engine takes its time."""
        for identity in members:
            with contextlib.suppress(docker.errors.APIError):
                client.api.disconnect_container_from_network(identity, network, force=True)
        with contextlib.suppress(docker.errors.APIError):
            client.api.remove_network(network)
            return True
        return False

    wait_until(removed, what="the network gone")
    for identity in members:
        with contextlib.suppress(docker.errors.APIError):
            client.api.restart(identity, timeout=0)


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    client.close()


def test_workers_are_reached_through_their_published_ports_alone(
    make_cluster: Callable[..., TestCluster], engine: docker.DockerClient
) -> None:
    ours, other = make_cluster(worker=2, pool=1), make_cluster(worker=1, pool=1)
    for cluster in (ours, other):
        cluster.start()
    ids = {name: row["id"] for name, row in ours.replicas().items() if name.startswith("worker")}
    stranger = other.replicas()["worker-0"]["id"]
    (network,) = networks(ours, engine)
    first, second = (addresses(engine, ids[name])[network] for name in ("worker-0", "worker-1"))
    (far,) = addresses(engine, stranger).values()
    assert reaches(engine, ids["worker-0"], first)  # The test's own means: a call to itself.
    assert is_shut_off(engine, ids["worker-0"], second)
    assert is_shut_off(engine, ids["worker-0"], far)
    assert is_shut_off(engine, stranger, first)
    # Not even names of the world outside are looked up, nor anything there is called.
    assert inside(engine, ids["worker-0"], RESOLVE, "example.com")[0] != 0
    assert not reaches(engine, ids["worker-0"], "1.1.1.1", 53)
    with bridged(engine, engine.api.inspect_container(stranger)["Image"]) as neighbor:
        assert is_shut_off(engine, neighbor, first)
    assert [ours.hello().status_code, requests.get(f"{ours.worker(1)}/healthz", timeout=60).status_code] == [200, 200]
    # A network that is gone, together with what was on it, comes back.
    remove_with_members(engine, network, list(ids.values()))
    wait_until(lambda: all(ours.hello().status_code == 200 for _ in range(4)), 60, "the workers on a new network")
    assert networks(ours, engine) == [network]
    ours.stop()
    assert networks(ours, engine) == []
    # Without a supervisor `stop` removes it, too.
    other.kill_supervisor()
    assert len(networks(other, engine)) == 1
    other.stop()
    assert networks(other, engine) == []
    # What is left of it all the same `stop` and `clean` remove, whatever else there is.
    # The image is other tests' as well: `clean` would remove it from between their looking for it and their use of it.
    (ours.folder / ".comet/cache/images").unlink()
    for command, code in (("stop", 3), ("clean", 0)):
        engine.api.create_network(network, labels={"comet.cluster": ours.cluster_id or ""})
        assert ours.comet(command).returncode == code
        assert networks(ours, engine) == []


def test_a_custom_image_stays_on_the_default_network(
    make_cluster: Callable[..., TestCluster], engine: docker.DockerClient
) -> None:
    """It may need the host's services."""
    cluster = make_cluster(worker=1, pool=1)
    cluster.start()
    image = engine.api.inspect_container(cluster.replicas()["worker-0"]["id"])["Config"]["Image"]
    cluster.stop()
    command = '["--listen", "0.0.0.0:8080", "--name", "w", "--identity", "container", "--no-faults"]'
    cluster.write(
        avg_delay=None,
        failure=None,
        worker_image=image,
        worker_command=command,
        worker_environment="{COMET_DATABASE: 'sqlite:////tmp/stats.db'}",
    )
    cluster.start()
    assert list(addresses(engine, cluster.replicas()["worker-0"]["id"])) == ["bridge"]
    assert networks(cluster, engine) == []
    cluster.stop()


def test_an_engine_without_free_networks_still_serves(
    tmp_path_factory: pytest.TempPathFactory, make_cluster: Callable[..., TestCluster], engine: docker.DockerClient
) -> None:
    first = make_cluster(worker=1, pool=1)
    first.start()
    image = engine.api.inspect_container(first.replicas()["worker-0"]["id"])["Config"]["Image"]
    first.stop()
    with private_engine(roomless=True) as small:
        small.load(engine, image)
        with open_cluster(tmp_path_factory.mktemp("cluster"), worker=1, pool=1) as cluster:
            cluster.environment = small.environment
            with cluster.foreground() as supervisor:
                wait_until(lambda: cluster.events("replica_ready", "lb-0"), 60, "the load balancer")
                assert cluster.hello().status_code == 200
                (told,) = cluster.events("network_shared")
                assert "address pool" in told["reason"]
                supervisor.terminate()
                printed, _ = supervisor.communicate(timeout=60)
            said = [line for line in printed.splitlines() if "other containers of this machine can reach them" in line]
            assert len(said) == 1, printed
            assert cluster.containers(small.client) == []


@pytest.fixture(autouse=True)
def no_rule_of_ours(engine: docker.DockerClient) -> Iterator[None]:
    """Comet leaves the machine's firewall to the engine."""
    yield
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=False).stdout
    assert "comet" not in rules
