"""Statistics in PostgreSQL, of whole clusters: reachable from containers and processes, exact through breaks, no
password shown.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable

import psutil
import pytest
import requests

from tests.support import postgres
from tests.support.cluster import TestCluster
from tests.support.waiting import wait_until

KEYS = ["SuccessfulRequests", "FailedRequests", "TotalRequests", "AverageResponseTime"]


@pytest.fixture
def database(postgres_server: postgres.Server) -> postgres.Database:
    return postgres.database(postgres_server)


class Load:
    """Clients at both load balancers, each with its own books: what they saw, and nothing else."""

    def __init__(self, cluster: TestCluster, clients: int = 8) -> None:
        self._house = cluster
        self._ended = threading.Event()
        self.seen: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        with requests.Session() as session:
            while not self._ended.is_set():
                try:
                    answer = session.get(f"{self._house.lb(number % 2)}/api/v1/hello", timeout=60)
                    kind = "injected" if answer.text == '{"error":"injected failure"}' else str(answer.status_code)
                except requests.RequestException as error:
                    kind = type(error).__name__
                with self._lock:
                    self.seen[kind] += 1

    def answered(self) -> int:
        return self.seen["200"] + self.seen["injected"]


def stored(database: postgres.Database) -> int:
    ((total,),) = database.sql("SELECT sum(successful + failed)::int8 FROM workers")
    assert isinstance(total, int)
    return total


def everything_written(cluster: TestCluster) -> str:
    """All that a cluster shows or keeps where somebody but its user may look."""
    kept = [path for path in (cluster.folder / ".comet").rglob("*") if path.is_file() and "secrets" not in path.parts]
    texts = []
    for path in kept:
        with contextlib.suppress(FileNotFoundError):  # A file that was written anew has another name until it is whole.
            texts.append(path.read_text(errors="replace"))
    for arguments in (["ps", "--json"], ["events"], ["stats"], ["logs", "worker-0"]):
        done = cluster.comet(*arguments)
        texts.append(done.stdout + done.stderr)
    admin = f"http://127.0.0.1:{cluster.config['admin-port']}"
    texts += [requests.get(f"{admin}{path}", timeout=60).text for path in ("/", "/api/v1/cluster", "/metrics")]
    if cluster.config["runtime"] == "docker":
        with cluster.engine() as engine:
            texts += [json.dumps(engine.api.inspect_container(container)) for container in cluster.containers()]
            texts += [engine.api.logs(container).decode() for container in cluster.containers()]
    for process in psutil.process_iter():
        try:
            texts.append(" ".join(process.cmdline()))
            if process.environ().get("COMET_CLUSTER") == cluster.cluster_id:
                texts.append(str(process.environ()))
        except (psutil.Error, OSError):
            continue
    return "\n".join(texts)


def answered(cluster: TestCluster) -> None:
    """One request that is counted: on a very busy machine a commit may miss its bound, which is a 503."""
    wait_until(lambda: cluster.hello().status_code == 200, what="an answer")


def test_a_cluster_counts_in_a_server_on_localhost(
    make_cluster: Callable[..., TestCluster], database: postgres.Database, runtime: str
) -> None:
    """The way of a default Debian server: it listens on localhost, asks for a password, and containers reach it all the
    same.
    """
    cluster = make_cluster(worker=2, pool=2, runtime=runtime, failure=30, stats_dir=database.url, admin_port=None)
    cluster.write(admin_port=cluster.config["load-balancer-port"] + 50)
    cluster.start()
    with Load(cluster) as load:
        wait_until(lambda: load.answered() > 100)
        # The server dies on the way and comes back: what was seen is counted, once.
        database.server.kill()
        time.sleep(0.5)
        database.server.start()
        more = load.answered() + 100
        wait_until(lambda: load.answered() > more, what="answers after the server's return")
    assert load.answered() == stored(database), load.seen
    answer = requests.get(f"{cluster.lb()}/worker/stats", timeout=60).json()
    assert list(answer) == KEYS
    first, *names = [next(iter(cell)) for cell in answer["TotalRequests"]]
    assert first == "total"
    assert sorted(names) == sorted(row["id"] for row in cluster.replicas().values() if row["role"] == "worker")
    assert answer["TotalRequests"][0]["total"] == load.answered()
    assert answer["FailedRequests"][0]["total"] == load.seen["injected"]
    assert json.loads(cluster.comet("stats", "--json").stdout) == answer

    shown = everything_written(cluster)
    for secret in (postgres.PASSWORD, postgres.QUOTED, "s3cret"):
        assert secret not in shown, re.findall(f".{{80}}{re.escape(secret)}.{{20}}", shown)[:3]

    assert cluster.comet("stats", "--reset").returncode == 0
    assert cluster.counts() == {
        "total": 0,
        **{row["id"]: 0 for name, row in cluster.replicas().items() if "worker" in name},
    }
    cluster.stop()
    cluster.assert_nothing_left()
    assert not (cluster.folder / ".comet/secrets").exists()
    assert json.loads(cluster.comet("stats", "--json").stdout)["TotalRequests"][0] == {"total": 0}


@pytest.mark.docker
def test_the_relay_comes_back_and_outlives_the_supervisor(
    make_cluster: Callable[..., TestCluster], database: postgres.Database
) -> None:
    cluster = make_cluster(worker=1, pool=1, stats_dir=database.url)
    cluster.start()
    with cluster.engine() as engine:
        relay = f"comet-{cluster.cluster_id}-relay"
        psutil.Process(engine.api.inspect_container(relay)["State"]["Pid"]).kill()
        answered(cluster)
        engine.api.remove_container(relay, force=True)
        answered(cluster)
        cluster.kill_supervisor()
        pid = engine.api.inspect_container(relay)["State"]["Pid"]
        answered(cluster)
        cluster.start()
        answered(cluster)
        assert engine.api.inspect_container(relay)["State"]["Pid"] == pid
        assert [event["replica"] for event in cluster.events("adopted")] == ["worker-0", "lb-0"]
    cluster.kill_supervisor()
    assert stored(database) == 4
    cluster.stop()
    cluster.assert_nothing_left()


@pytest.mark.docker
def test_a_servers_socket_is_mounted(make_cluster: Callable[..., TestCluster], database: postgres.Database) -> None:
    server = database.server
    # Over a socket the server looks at the uid, unless its rules say otherwise.
    rules = server.data / "pg_hba.conf"
    former = rules.read_text()
    rules.write_text(f"local all {postgres.USER} scram-sha-256\n{former}")
    try:
        database.reload()
        url = (
            f"postgresql://{postgres.USER}:{postgres.QUOTED}@/{database.name}?host={server.sockets}&port={server.port}"
        )
        cluster = make_cluster(worker=1, pool=1, stats_dir=url)
        cluster.start()
        assert cluster.hello().status_code == 200
        cluster.stop()
        assert stored(database) == 1
    finally:
        rules.write_text(former)
        database.reload()


def test_an_unusable_database_is_one_line(
    make_cluster: Callable[..., TestCluster], database: postgres.Database
) -> None:
    cluster = make_cluster(runtime="process")
    port, good = database.server.port, f"{postgres.USER}:{postgres.QUOTED}"
    closed = {
        f"postgresql://{postgres.USER}:s3cret-wrong@127.0.0.1:{port}/{database.name}": "password authentication failed",
        f"postgresql://{good}@127.0.0.1:1/{database.name}": "Connection refused (is the server running there?)",
        f"postgresql://{postgres.USER}:s3@cret@127.0.0.1/x": "not of the form of a URL",
    }
    for url, wrong in closed.items():
        cluster.write(stats_dir=url)
        done = cluster.comet("run")
        (line,) = [text for text in (done.stdout + done.stderr).splitlines() if "stats-dir" in text]
        number = 1 + list(cluster.config).index("stats-dir")
        assert f"config.yaml:{number}: stats-dir: " in line
        assert wrong in line
        assert "s3" not in done.stdout + done.stderr
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert cluster.events("replica_starting") == []
    cluster.assert_nothing_left()


@pytest.mark.docker
def test_a_database_unreachable_for_containers_is_refused(
    make_cluster: Callable[..., TestCluster], database: postgres.Database
) -> None:
    """A server on the engine's bridge that lets in the host and nobody else."""
    cluster = make_cluster(worker=1, pool=1)
    with cluster.engine() as engine:
        (bridge,) = engine.api.networks(names=["^bridge$"])
    device = psutil.net_if_addrs()[bridge["Options"]["com.docker.network.bridge.name"]]
    gateway = next(each.address for each in device if each.family == socket.AF_INET)
    # From the host one comes as the bridge itself or, masqueraded, as another of its addresses. The cluster's own
    # network takes its addresses from the engine's pools, which are private ranges.
    private = ("172.16.0.0/12", "192.168.0.0/16", "10.0.0.0/8")
    rejected = "".join(f"host all all {network} reject\n" for network in private)
    rules = f"host all all {gateway}/32 scram-sha-256\n{rejected}host all all 0.0.0.0/0 scram-sha-256"
    server = database.server
    server.stop()
    with postgres.also_at(server, gateway, rules):
        cluster.write(stats_dir=database.url.replace("127.0.0.1", gateway))
        done = cluster.comet("run")
        assert done.returncode == 2
        (line,) = [text for text in (done.stdout + done.stderr).splitlines() if "stats-dir" in text]
        assert "from within a container: " in line
        assert "pg_hba.conf rejects connection" in line
        assert cluster.events("replica_starting") == []
        cluster.assert_nothing_left()
        cluster.write(runtime="process")
        cluster.start()
        assert cluster.hello().status_code == 200
        cluster.stop()
