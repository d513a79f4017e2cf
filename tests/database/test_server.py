"""Statistics in PostgreSQL, of whole clusters: reachable from containers and processes, exact through breaks, no password shown."""

from __future__ import annotations

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

from tests import postgres
from tests.integration.clusters import House, eventually

pytestmark = pytest.mark.slow

KEYS = ["SuccessfulRequests", "FailedRequests", "TotalRequests", "AverageResponseTime"]


@pytest.fixture
def database(postgres_server: postgres.Server) -> postgres.Database:
    return postgres.database(postgres_server)


class Load:
    """Clients at both load balancers, each with its own books: what they saw, and nothing else."""

    def __init__(self, house: House, clients: int = 8) -> None:
        self._house = house
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


def everything_written(house: House) -> str:
    """All that a cluster shows or keeps where somebody but its user may look."""
    kept = [path for path in (house.folder / ".comet").rglob("*") if path.is_file() and "secrets" not in path.parts]
    texts = [path.read_text(errors="replace") for path in kept]
    for arguments in (["ps", "--json"], ["events"], ["stats"], ["logs", "worker-0"]):
        done = house.comet(*arguments)
        texts.append(done.stdout + done.stderr)
    admin = f"http://127.0.0.1:{house.config['admin-port']}"
    texts += [requests.get(f"{admin}{path}", timeout=10).text for path in ("/", "/api/v1/cluster", "/metrics")]
    if house.config["runtime"] == "docker":
        with house.engine() as engine:
            texts += [json.dumps(engine.api.inspect_container(container)) for container in house.containers()]
            texts += [engine.api.logs(container).decode() for container in house.containers()]
    for process in psutil.process_iter():
        try:
            texts.append(" ".join(process.cmdline()))
            if process.environ().get("COMET_CLUSTER") == house.cluster_id:
                texts.append(str(process.environ()))
        except psutil.Error:
            continue
    return "\n".join(texts)


@pytest.mark.docker
def test_a_cluster_counts_in_a_server_on_localhost(make_house: Callable[..., House], database: postgres.Database, runtime: str) -> None:
    """The way of a default Debian server: it listens on localhost, asks for a password, and containers reach it all the same."""
    house = make_house(worker=2, pool=2, runtime=runtime, failure=30, stats_dir=database.url, admin_port=None)
    house.write(admin_port=house.config["load-balancer-port"] + 50)
    house.start()
    with Load(house) as load:
        eventually(lambda: load.answered() > 100)
        # The server dies on the way and comes back: what was seen is counted, once.
        database.server.kill()
        time.sleep(0.5)
        database.server.start()
        more = load.answered() + 100
        eventually(lambda: load.answered() > more, what="answers after the server's return")
    assert load.answered() == stored(database), load.seen
    answer = requests.get(f"{house.lb()}/worker/stats", timeout=10).json()
    assert list(answer) == KEYS
    first, *names = [next(iter(cell)) for cell in answer["TotalRequests"]]
    assert first == "total"
    assert sorted(names) == sorted(row["id"] for row in house.replicas().values() if row["role"] == "worker")
    assert answer["TotalRequests"][0]["total"] == load.answered()
    assert answer["FailedRequests"][0]["total"] == load.seen["injected"]
    assert json.loads(house.comet("stats", "--json").stdout) == answer

    shown = everything_written(house)
    for secret in (postgres.PASSWORD, postgres.QUOTED, "s3cret"):
        assert secret not in shown, re.findall(f".{{80}}{re.escape(secret)}.{{20}}", shown)[:3]

    assert house.comet("stats", "--reset").returncode == 0
    assert house.counts() == {"total": 0, **{row["id"]: 0 for name, row in house.replicas().items() if "worker" in name}}
    house.stop()
    house.assert_nothing_left()
    assert not (house.folder / ".comet/secrets").exists()
    assert json.loads(house.comet("stats", "--json").stdout)["TotalRequests"][0] == {"total": 0}


@pytest.mark.docker
def test_the_relay_comes_back_and_outlives_the_supervisor(make_house: Callable[..., House], database: postgres.Database) -> None:
    house = make_house(worker=1, pool=1, stats_dir=database.url)
    house.start()
    with house.engine() as engine:
        relay = f"comet-{house.cluster_id}-relay"
        psutil.Process(engine.api.inspect_container(relay)["State"]["Pid"]).kill()
        assert house.hello().status_code == 200
        engine.api.remove_container(relay, force=True)
        assert house.hello().status_code == 200
        psutil.Process(house.supervisor_pid()).kill()
        pid = engine.api.inspect_container(relay)["State"]["Pid"]
        assert house.hello().status_code == 200
        house.start()
        assert house.hello().status_code == 200
        assert engine.api.inspect_container(relay)["State"]["Pid"] == pid
        assert [event["replica"] for event in house.events("adopted")] == ["worker-0", "lb-0"]
    psutil.Process(house.supervisor_pid()).kill()
    assert stored(database) == 4
    house.stop()
    house.assert_nothing_left()


@pytest.mark.docker
def test_a_servers_socket_is_mounted(make_house: Callable[..., House], database: postgres.Database) -> None:
    server = database.server
    # Over a socket the server looks at the uid, unless its rules say otherwise.
    rules = server.data / "pg_hba.conf"
    former = rules.read_text()
    rules.write_text(f"local all {postgres.USER} scram-sha-256\n{former}")
    try:
        database.sql("SELECT pg_reload_conf()")
        url = f"postgresql://{postgres.USER}:{postgres.QUOTED}@/{database.name}?host={server.sockets}&port={server.port}"
        house = make_house(worker=1, pool=1, stats_dir=url)
        house.start()
        assert house.hello().status_code == 200
        house.stop()
        assert stored(database) == 1
    finally:
        rules.write_text(former)
        database.sql("SELECT pg_reload_conf()")


def test_what_cannot_be_used_is_one_line_and_starts_nothing(make_house: Callable[..., House], database: postgres.Database) -> None:
    house = make_house(runtime="process")
    port, good = database.server.port, f"{postgres.USER}:{postgres.QUOTED}"
    closed = {
        f"postgresql://{postgres.USER}:s3cret-wrong@127.0.0.1:{port}/{database.name}": "password authentication failed",
        f"postgresql://{good}@127.0.0.1:1/{database.name}": "Connection refused (is the server running there?)",
        f"postgresql://{postgres.USER}:s3@cret@127.0.0.1/x": "not of the form of a URL",
    }
    for url, wrong in closed.items():
        house.write(stats_dir=url)
        done = house.comet("run")
        (line,) = [text for text in (done.stdout + done.stderr).splitlines() if "stats-dir" in text]
        number = 1 + list(house.config).index("stats-dir")
        assert f"config.yaml:{number}: stats-dir: " in line
        assert wrong in line
        assert "s3" not in done.stdout + done.stderr
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert house.events("replica_starting") == []
    house.assert_nothing_left()


@pytest.mark.docker
def test_what_a_container_cannot_reach_is_told_before_the_start(make_house: Callable[..., House], database: postgres.Database) -> None:
    """A server on the engine's bridge that lets in the host and nobody else."""
    house = make_house(worker=1, pool=1)
    with house.engine() as engine:
        (bridge,) = engine.api.networks(names=["^bridge$"])
    device = psutil.net_if_addrs()[bridge["Options"]["com.docker.network.bridge.name"]]
    gateway = next(each.address for each in device if each.family == socket.AF_INET)
    subnet = bridge["IPAM"]["Config"][0]["Subnet"]
    # From the host one comes as the bridge itself or, masqueraded, as another of its addresses.
    rules = f"host all all {gateway}/32 scram-sha-256\nhost all all {subnet} reject\nhost all all 0.0.0.0/0 scram-sha-256"
    server = database.server
    server.stop()
    with postgres.also_at(server, gateway, rules):
        house.write(stats_dir=database.url.replace("127.0.0.1", gateway))
        done = house.comet("run")
        assert done.returncode == 2
        (line,) = [text for text in (done.stdout + done.stderr).splitlines() if "stats-dir" in text]
        assert "from within a container: " in line
        assert "pg_hba.conf rejects connection" in line
        assert house.events("replica_starting") == []
        house.assert_nothing_left()
        house.write(runtime="process")
        house.start()
        assert house.hello().status_code == 200
        house.stop()
