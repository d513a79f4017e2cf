"""Statistics in PostgreSQL, of whole clusters: reachable from containers and processes, exact through breaks, and no password to be seen."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import psutil
import pytest
import requests

from tests import postgres
from tests.integration.clusters import House, eventually

pytestmark = pytest.mark.slow

KEYS = ["SuccessfulRequests", "FailedRequests", "TotalRequests", "AverageResponseTime"]


@pytest.fixture
def database(postgres_server: postgres.Server) -> postgres.Database:
    return postgres_server.database()


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
    texts = [
        path.read_text(errors="replace") for path in (house.folder / ".comet").rglob("*") if path.is_file() and "secrets" not in path.parts
    ]
    for arguments in (["ps", "--json"], ["ps"], ["events"], ["stats"], ["logs", "worker-0"], ["check"]):
        done = house.comet(*arguments)
        texts.append(done.stdout + done.stderr)
    for path in ("/", "/api/v1/cluster", "/metrics"):
        texts.append(requests.get(f"http://127.0.0.1:{house.config['admin-port']}{path}", timeout=10).text)
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
    assert [list(cell) for cell in answer["TotalRequests"]] == [
        ["total"],
        *([row["id"]] for name, row in sorted(house.replicas().items()) if "worker" in name),
    ]
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


@pytest.fixture
def closed(postgres_server: postgres.Server) -> Iterator[dict[str, str]]:
    """URLs that cannot be used, by what is wrong with them; and what has to be said."""
    base = postgres_server.database()
    port, name = postgres_server.port, base.name
    user, good = postgres.USER, f"{postgres.USER}:{postgres.QUOTED}"
    with postgres_server.superuser() as session:
        session.execute("CREATE ROLE guest LOGIN PASSWORD 's3cret'")
    foreign = postgres_server.database()
    foreign.sql("CREATE TABLE addresses (name text)")
    yield {
        f"postgresql://{user}:s3cret-wrong@127.0.0.1:{port}/{name}": "password authentication failed",
        f"postgresql://{user}@127.0.0.1:{port}/{name}": "no password supplied",
        f"postgresql://{good}@127.0.0.1:{port}/nowhere": 'database "nowhere" does not exist',
        f"postgresql://{good}@127.0.0.1:1/{name}": "Connection refused",
        f"postgresql://guest:s3cret@127.0.0.1:{port}/{name}": "permission denied",
        f"postgresql://{good}@127.0.0.1:{port}/{foreign.name}": "not a Comet statistics database (it has the tables addresses)",
        f"postgresql://{user}:s3cret%@127.0.0.1/{name}": "percent-encoded",
        f"postgresql://{user}:s3@cret@127.0.0.1/{name}": "not of the form of a URL",
        f"postgresql://{good}@127.0.0.1:{port}/{name}?s3cret": "name=value",
        f"postgresql://{good}@/{name}?host={postgres_server.sockets}&port={port}": "eer authentication failed",
        "mysql://root:s3cret@localhost/x": "mysql databases are not supported",
    }
    with postgres_server.superuser() as session:
        session.execute("DROP ROLE guest")


def test_what_cannot_be_used_is_one_line_and_starts_nothing(make_house: Callable[..., House], closed: dict[str, str]) -> None:
    house = make_house(runtime="process")
    for url, wrong in closed.items():
        house.write(stats_dir=url)
        done = house.comet("run")
        (line,) = [text for text in (done.stdout + done.stderr).splitlines() if "stats-dir" in text]
        number = 1 + list(house.config).index("stats-dir")
        assert f"config.yaml:{number}: stats-dir: " in line
        assert wrong in line, (url, line)
        assert "s3cret" not in done.stdout + done.stderr
        assert done.returncode == 2, line
        assert "Traceback" not in done.stderr
        assert house.events("replica_starting") == []
    house.assert_nothing_left()


@pytest.mark.docker
def test_what_a_container_cannot_reach_is_told_before_the_start(make_house: Callable[..., House], database: postgres.Database) -> None:
    """An address that only the host has: a namespace's end of a veth would do; here it is a name of the host's own that no container knows."""
    house = make_house(worker=1, pool=1)
    name = "the-database-of-this-host.test"
    hosts = subprocess.run(["ip", "-4", "-o", "route", "get", "192.0.2.1"], capture_output=True, text=True, check=False).stdout
    pytest.importorskip("comet")
    assert hosts is not None
    assert name
    house.write(stats_dir=f"postgresql://{postgres.USER}:x@{name}/x")
    done = house.comet("run")
    assert done.returncode == 2
    assert "could not translate host name" in done.stdout + done.stderr or "resolve" in done.stdout + done.stderr
