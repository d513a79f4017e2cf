"""A worker and its PostgreSQL server: what the clients saw is what was counted, whatever dies, stands still or is held
up in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from comet.config.database_url import parse
from comet.state.directory import Owner
from comet.statistics import database as statistics
from tests.support import postgres
from tests.support.waiting import PATIENCE, wait_until
from tests.support.workers import PATIENT, Clients, Worker
from worker_app import address, database
from worker_app.common.errors import NotCommitted, Undecided, WorkerError
from worker_app.stats import postgres as postgres_client
from worker_app.stats import postgres_database, postgres_store
from worker_app.stats.batch import Record, batch_of
from worker_app.stats.postgres_store import PostgresStore
from worker_app.stats.store import Store

FULL = os.environ.get("COMET_TEST_FULL") == "1"
KEEPS_WITHIN = 5.0  # seconds after which an answer that cannot be committed is refused


@pytest.fixture
def place(postgres_server: postgres.Server) -> postgres.Database:
    return postgres.schema(postgres_server)


@pytest.fixture(autouse=True)
def patient_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy server is late to answer the stores of this process."""
    monkeypatch.setattr(postgres_store, "SERVER_TIMEOUT", postgres_store.SERVER_TIMEOUT * PATIENCE)


def counted(place: postgres.Database) -> tuple[int, int]:
    answer = json.loads(database.stats(place.url))
    return answer["SuccessfulRequests"][0]["total"], answer["FailedRequests"][0]["total"]


def under_load(worker: Worker, during: Callable[[], None], clients: Clients, number: int = 20) -> None:
    """Clients ask while something happens, and for a moment after."""

    async def scenario() -> None:
        load = asyncio.create_task(clients.many([worker.port], number, -1))
        await asyncio.sleep(0.3)
        await asyncio.to_thread(during)
        before = clients.seen[200]
        deadline = time.monotonic() + 20 * PATIENCE
        while clients.seen[200] < before + 100:
            assert time.monotonic() < deadline, "no answers afterwards"
            await asyncio.sleep(0.02)
        clients.stopping = True
        await load

    asyncio.run(scenario())


def assert_exact(worker: Worker, place: postgres.Database, clients: Clients) -> None:
    assert clients.cut == clients.refused == 0
    assert set(clients.seen) <= {200, 503}
    assert worker.totals() == counted(place) == (clients.seen[200], 0)


def test_kill_9_of_workers_never_loses_an_answer_that_was_seen(tmp_path: Path, place: postgres.Database) -> None:
    in_flight, moments, before = 50, random.Random(1), (0, 0)

    async def scenario(worker: Worker, clients: Clients) -> None:
        load = asyncio.create_task(clients.many([worker.port], in_flight, -1))
        while not clients.seen and not load.done():
            await asyncio.sleep(0.001)
        await asyncio.sleep(moments.random() * 0.4)
        worker.process.kill()
        await load

    for _ in range(200 if FULL else 5):
        clients = Clients()
        with Worker(tmp_path, faults={"avg-delay": 2, "failure": 10}, database=place.url) as worker:
            asyncio.run(scenario(worker, clients))
        # What the worker's last session is still at is the server's to finish.
        wait_until(lambda: place.sql("SELECT 1 FROM pg_stat_activity WHERE application_name = 'comet'") == [])
        after = counted(place)
        good, bad = after[0] - before[0] - clients.seen[200], after[1] - before[1] - clients.seen[500]
        assert good >= 0
        assert bad >= 0
        assert good + bad <= in_flight
        before = after
    assert sum(before) > 0


def test_three_workers_one_database(tmp_path: Path, place: postgres.Database) -> None:
    clients = Clients()
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(
                Worker(tmp_path, f"worker-{number}", {"avg-delay": 5, "failure": 20}, database=place.url)
            )
            for number in range(3)
        ]
        asyncio.run(clients.many([worker.port for worker in workers], 60, 20))
        assert workers[1].totals() == (clients.seen[200], clients.seen[500])
        names = [next(iter(cell)) for cell in workers[0].stats()["TotalRequests"]]
        assert names == ["total", *(str(worker.pid) for worker in workers)]
    assert clients.seen.total() == 1200


@pytest.mark.parametrize("end", ["fast", "immediate", "kill"])
def test_a_server_that_ends_and_returns_under_load(
    tmp_path: Path, postgres_server: postgres.Server, place: postgres.Database, end: str
) -> None:
    clients = Clients()

    def away() -> None:
        postgres_server.kill() if end == "kill" else postgres_server.stop(end)
        wait_until(lambda: "responses wait" in worker.log.read_text(), what="its absence noticed")
        postgres_server.start()

    with Worker(tmp_path, database=place.url) as worker:
        under_load(worker, away, clients)
        assert_exact(worker, place, clients)
        assert "committing again" in worker.log.read_text()


def test_a_server_that_stays_away_is_answered_503_and_uncounted(
    tmp_path: Path, postgres_server: postgres.Server, place: postgres.Database
) -> None:
    clients = Clients()
    with Worker(tmp_path, database=place.url) as worker:
        asyncio.run(clients.many([worker.port], 10, 5))
        postgres_server.stop()
        try:
            began = time.monotonic()
            asyncio.run(clients.many([worker.port], 10, 1))
            assert KEEPS_WITHIN <= time.monotonic() - began < KEEPS_WITHIN + 3 * PATIENCE
            assert worker.get("/worker/stats") == (503, b'{"error":"statistics unavailable"}')
            assert worker.get("/healthz")[0] == 200
        finally:
            postgres_server.start()
        wait_until(lambda: worker.get("/api/v1/hello")[0] == 200)
        assert dict(clients.seen) == {200: 50, 503: 10}
        assert counted(place) == (51, 0)
    assert postgres.PASSWORD not in worker.log.read_text()


def test_a_frozen_server_costs_nothing(
    tmp_path: Path, postgres_server: postgres.Server, place: postgres.Database
) -> None:
    """It stands still in the midst of commits, longer than the worker waits for one of them."""
    clients = Clients()

    def frozen() -> None:
        with postgres.frozen(postgres_server, 2.5):
            pass

    with Worker(tmp_path, database=place.url, prelude=PATIENT) as worker:
        under_load(worker, frozen, clients)
        assert_exact(worker, place, clients)
        assert clients.seen[503] == 0


def test_a_table_locked_for_three_seconds_costs_nothing(tmp_path: Path, place: postgres.Database) -> None:
    clients = Clients()
    with Worker(tmp_path, database=place.url, prelude=PATIENT) as worker:
        with place.locked(3.0):
            asyncio.run(clients.many([worker.port], 20, 1))
        assert dict(clients.seen) == {200: 20}
        assert worker.totals() == (20, 0)


def test_a_reset_under_living_workers(tmp_path: Path, place: postgres.Database) -> None:
    clients = Clients()
    with Worker(tmp_path, database=place.url) as worker:
        asyncio.run(clients.many([worker.port], 5, 5))
        database.reset(place.url, [str(worker.pid)])
        assert worker.stats()["TotalRequests"] == [{"total": 0}, {str(worker.pid): 0}]
        database.reset(place.url)
        wait_until(lambda: len(worker.stats()["TotalRequests"]) == 2)
        asyncio.run(clients.many([worker.port], 5, 1))
        assert worker.totals() == (5, 0)


def test_a_reader_delays_no_reset_and_no_worker(tmp_path: Path, place: postgres.Database) -> None:
    """Somebody has counted the requests in a transaction that is still open, as psql without autocommit does."""
    with Worker(tmp_path, database=place.url, args=("--request-ledger",)) as worker, place.superuser() as reader:
        assert worker.get("/api/v1/hello")[0] == 200
        with reader.transaction():
            assert reader.execute("SELECT count(*) FROM counted_requests").fetchone() == (1,)
            database.reset(place.url, [str(worker.pid)])
            assert worker.get("/api/v1/hello")[0] == 200
        assert place.sql("SELECT count(*) FROM counted_requests") == [(1,)]
        assert worker.totals() == (1, 0)


def test_a_reset_without_lock_says_so_before_a_worker_refuses(tmp_path: Path, place: postgres.Database) -> None:
    with Worker(tmp_path, database=place.url, prelude=PATIENT) as worker, place.superuser() as other:
        statuses: list[int] = []
        asked = threading.Timer(0.5, lambda: statuses.append(worker.get("/api/v1/hello")[0]))
        with other.transaction():
            other.execute("SELECT 1 FROM workers WHERE false FOR UPDATE")  # in the way of the reset alone
            began = time.monotonic()
            asked.start()
            with pytest.raises(WorkerError) as caught:
                database.reset(place.url)
        assert time.monotonic() - began < (postgres_database.LOCK_TIMEOUT + 1.0) * PATIENCE
        assert "lock timeout (another session has held the lock for too long)" in str(caught.value)
        asked.join()
        assert statuses == [200]


def test_the_server_reports_a_lock_before_the_client_gives_up(place: postgres.Database) -> None:
    with contextlib.closing(postgres_client.connect(postgres_client.parameters(place.url), 5.0)) as session:
        assert session.execute("SHOW lock_timeout").fetchone() == ("4s",)


def test_a_reset_under_load_leaves_an_id_for_each_count(tmp_path: Path, place: postgres.Database) -> None:
    clients = Clients()
    with Worker(tmp_path, database=place.url, args=("--request-ledger",)) as worker:

        def reset() -> None:
            for _ in range(5):
                database.reset(place.url, [str(worker.pid)])
                time.sleep(0.1)

        under_load(worker, reset, clients)
        assert set(clients.seen) == {200}
        assert place.sql("SELECT successful - (SELECT count(*) FROM counted_requests) FROM workers") == [(0,)]


def with_ids(place: postgres.Database, number: int) -> None:
    database.create(place.url)
    place.sql(f"INSERT INTO counted_requests SELECT 'w', 'id-' || n, false FROM generate_series(1, {number}) AS n")


def server_of(place: postgres.Database) -> statistics.Server:
    return statistics.Server(parse(place.url), "config.yaml:1: stats-dir")


def test_a_reset_of_many_request_ids_is_made_in_pieces_that_stay(
    place: postgres.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call has little time, and the next goes on where it ended; none excludes a worker before the last."""
    with_ids(place, 300_000)
    monkeypatch.setattr(postgres_database, "PIECE", 100)
    left, page, calls = [300_000], 0, 0
    with place.superuser() as reader:
        while True:
            next_page = database.reset(place.url, page=page, seconds=0.0 if calls % 2 else 0.02)
            calls += 1
            left += [count for (count,) in reader.execute("SELECT count(*) FROM counted_requests").fetchall()]
            if next_page is None:
                break
            assert next_page >= page
            page = next_page
    assert calls > 3
    assert left == sorted(left, reverse=True)
    assert left[-1] == 0


def test_a_reset_goes_on_as_long_as_it_gets_on(place: postgres.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's limit is one of each call, in a process of its own."""
    with_ids(place, 300_000)
    calls = []
    run = statistics._run

    def counted_run(where: statistics.Place | statistics.Server, owner: Owner, *command: str) -> str:
        calls.append(command)
        return run(where, owner, *command)

    monkeypatch.setattr(statistics, "_run", counted_run)
    monkeypatch.setattr(statistics, "RESET_TIME", 0.01)
    statistics.reset(server_of(place), Owner(os.getuid(), os.getgid()))
    assert len(calls) > 1
    assert place.sql("SELECT count(*) FROM counted_requests") == [(0,)]


def test_a_reset_that_gets_no_lock_deletes_no_request_id(place: postgres.Database) -> None:
    with_ids(place, 1000)
    with place.locked(), pytest.raises(WorkerError, match="lock timeout"):
        database.reset(place.url)
    assert place.sql("SELECT count(*) FROM counted_requests") == [(1000,)]


def test_a_statement_that_takes_too_long_ends_and_is_named(
    place: postgres.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_ids(place, 1000)
    place.sql(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.1); RETURN OLD; END';"
        "CREATE TRIGGER slow BEFORE DELETE ON counted_requests FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    monkeypatch.setattr(postgres_database, "STATEMENT_TIMEOUT", 2.0)
    with pytest.raises(WorkerError, match=r"statement timeout \(the server is slow or busy; run the command again"):
        database.reset(place.url)
    running = (
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND starts_with(query, 'DELETE FROM counted')"
    )
    assert place.sql(running) == [(0,)]


def test_a_server_that_falls_silent_in_a_statement_is_named(
    place: postgres.Database, postgres_server: postgres.Server
) -> None:
    with contextlib.closing(postgres_client.connect(postgres_client.parameters(place.url), 5.0)) as session:
        session.timeout = 0.5
        with pytest.raises(psycopg.Error) as caught, postgres.frozen(postgres_server, 0.0):
            session.execute("SELECT 1")
    assert "did not answer a statement within 0.5 s (is it stopped" in postgres_client.explain(caught.value)


@pytest.mark.parametrize("dropped", ["workers", "workers, latency, injections, counted_requests, comet_schema"])
def test_a_dropped_table_is_made_anew(tmp_path: Path, place: postgres.Database, dropped: str) -> None:
    clients = Clients()
    with Worker(tmp_path, database=place.url) as worker:
        asyncio.run(clients.many([worker.port], 5, 5))
        place.sql(f"DROP TABLE {dropped}")
        asyncio.run(clients.many([worker.port], 5, 5))
        assert dict(clients.seen) == {200: 50}
        assert worker.totals() == (25, 0)


# Commits in doubt


class Line:
    """A line to the server that can be cut at a chosen moment: after so many bytes of a request, or before the answer
    to it passes.
    """

    def __init__(self, port: int) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self._to = port
        self._open = [self.listener]
        self.hold_answers = threading.Event()
        self.cut_requests_at: int | None = None
        self.answered = threading.Event()
        self._threads: list[threading.Thread] = []
        self._spawn(self._accept)

    def close(self) -> None:
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for each in self._open:
            each.close()

    def _spawn(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        self._threads.append(threading.Thread(target=work, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
                self._open += [client, server]
                for pass_on in (self._requests, self._answers):
                    self._spawn(pass_on, client, server)

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if self.cut_requests_at is not None:
                    server.sendall(data[: self.cut_requests_at])
                    break
                server.sendall(data)
        self._end(client, server)

    def _answers(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if self.hold_answers.is_set():
                    self.answered.set()
                    break
                client.sendall(data)
        self._end(client, server)

    @staticmethod
    def _end(*ends: socket.socket) -> None:
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def line(postgres_server: postgres.Server) -> Iterator[Line]:
    made = Line(postgres_server.port)
    yield made
    made.close()


@pytest.fixture
def store(line: Line, place: postgres.Database) -> Iterator[PostgresStore]:
    url = place.url.replace(f":{place.server.port}/", f":{line.port}/")
    made = address.database_at(url).store(lambda names: "w")
    assert isinstance(made, PostgresStore)
    made.open()
    yield made
    made.close()


def verdict(store: PostgresStore) -> bool:
    def ask() -> tuple[bool] | None:
        try:
            return (store.verify(),)
        except Undecided:
            return None

    return bool(wait_until(ask)[0])


def test_a_commit_whose_answer_was_lost_took(store: PostgresStore, line: Line, place: postgres.Database) -> None:
    store.commit(batch_of([Record(False, 5)]))
    line.hold_answers.set()
    with pytest.raises(Undecided):
        store.commit(batch_of([Record(False, 5)] * 10))
    assert line.answered.wait(5 * PATIENCE)
    line.hold_answers.clear()
    assert verdict(store)
    store.commit(batch_of([Record(False, 5)] * 100))
    assert counted(place) == (111, 0)


def test_a_commit_that_did_not_arrive_whole_did_not_take(
    store: PostgresStore, line: Line, place: postgres.Database
) -> None:
    line.cut_requests_at = 20
    with pytest.raises(Undecided):
        store.commit(batch_of([Record(False, 5)]))
    line.cut_requests_at = None
    assert not verdict(store)
    store.commit(batch_of([Record(False, 5)]))
    assert counted(place) == (1, 0)


@contextlib.contextmanager
def held_up(store: PostgresStore, place: postgres.Database, by: str) -> Iterator[None]:
    """The store's session is given up in the midst of a commit of ten, which the server goes on with after the
    block.
    """

    def waiting() -> bool:
        return bool(place.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))

    assert store._session is not None
    store._session.execute("SET lock_timeout = 0")
    with place.superuser() as other:
        with other.transaction():
            other.execute(by)
            with pytest.raises(Undecided):
                store.commit(batch_of([Record(False, 5)] * 10))
            wait_until(waiting, what="the commit held up")  # A busy server may only now begin with it.
            yield
        wait_until(lambda: not waiting(), what="the commit gone on with")


def test_a_commit_that_arrives_too_late_changes_nothing(store: PostgresStore, place: postgres.Database) -> None:
    """It was found not to have taken, and its answers go with the next one: then the server has it at last."""
    store.commit(batch_of([Record(False, 5)]))
    with held_up(store, place, "LOCK TABLE latency IN ACCESS EXCLUSIVE MODE"):
        assert not verdict(store)
    store.commit(batch_of([Record(False, 5)] * 10))
    assert counted(place) == (11, 0)


def test_a_commit_that_is_under_way_is_waited_for(store: PostgresStore, place: postgres.Database) -> None:
    store.commit(batch_of([Record(False, 5)]))
    with held_up(store, place, "SELECT 1 FROM latency FOR UPDATE"):
        for _ in range(3):
            with pytest.raises(Undecided):
                store.verify()
            time.sleep(0.3)
    assert verdict(store)
    assert counted(place) == (11, 0)


def test_what_was_found_not_to_have_taken_never_does(store: PostgresStore, place: postgres.Database) -> None:
    before = store._batch_number
    store._attempted_number = before + 1
    assert not store.verify()
    late, store._batch_number, store._attempted_number = store._batch_number, before, before
    assert not store._try_transaction(batch_of([Record(False, 5)] * 10))  # as the old session would, at last
    store._batch_number = late
    store.commit(batch_of([Record(False, 5)]))
    assert counted(place) == (1, 0)


def test_a_worker_whose_line_is_cut_again_and_again_counts_once(
    tmp_path: Path, line: Line, place: postgres.Database
) -> None:
    clients = Clients()

    def cutting() -> None:
        for number in range(12):
            if number % 2:
                line.hold_answers.set()
            else:
                line.cut_requests_at = 10 * number
            time.sleep(0.05)
            line.hold_answers.clear()
            line.cut_requests_at = None
            time.sleep(0.3)

    with Worker(tmp_path, database=place.url.replace(f":{place.server.port}/", f":{line.port}/")) as worker:
        under_load(worker, cutting, clients)
        assert_exact(worker, place, clients)


# Opening


def test_what_is_wrong_is_one_line_without_the_password(
    postgres_server: postgres.Server, place: postgres.Database
) -> None:
    port, good = postgres_server.port, f"{postgres.USER}:{postgres.QUOTED}"
    with postgres_server.superuser() as session:
        session.execute("CREATE ROLE guest LOGIN PASSWORD 's3cret'")
    database.create(place.url)
    place.sql(f"GRANT USAGE ON SCHEMA {place.schema} TO guest")
    closed = {
        f"postgresql://{postgres.USER}:s3cret-no@127.0.0.1:{port}/postgres": "password authentication failed",
        f"postgresql://{postgres.USER}@127.0.0.1:{port}/postgres": "no password supplied",
        f"postgresql://{good}@127.0.0.1:{port}/nowhere": 'database "nowhere" does not exist',
        f"postgresql://{good}@127.0.0.1:1/postgres": "Connection refused (is the server running there?)",
        f"postgresql://{good}@no.such.host.invalid/postgres": "could not translate host name",
        f"postgresql://guest:s3cret@127.0.0.1:{port}/postgres": "permission denied for schema public (grant",
        f"{place.url.replace(good, 'guest:s3cret')}": "permission denied for table comet_schema (grant",
        f"postgresql://{good}@127.0.0.1:{port}/postgres?options=-csearch_path%3Dnowhere": "no schema has been selected",
        f"postgresql://{good}@/postgres?host={postgres_server.sockets}&port={port}": "eer authentication failed",
        f"postgresql://{good}@/postgres?host=/nowhere&port={port}": "No such file",
        "postgresql://u:s3cret%@h/x": "not a usable PostgreSQL URL",
    }
    for url, wrong in closed.items():
        with pytest.raises(WorkerError) as caught:
            database.create(url)
        assert wrong in str(caught.value), url
        assert "\n" not in str(caught.value)
        assert "s3cret" not in str(caught.value)
        with pytest.raises(WorkerError):
            address.database_at(url).store(lambda names: "w").open()
    place.sql("DROP OWNED BY guest")
    place.sql("DROP ROLE guest")


NEEDED = {
    "workers": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "latency": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "injections": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "counted_requests": ("INSERT", "DELETE"),
}


def test_who_may_read_and_write_the_tables_needs_nothing_else(
    postgres_server: postgres.Server, place: postgres.Database
) -> None:
    """A user who lacks any of these rights is refused at the start."""
    with postgres_server.superuser() as session:
        session.execute("CREATE ROLE clerk LOGIN PASSWORD 's3cret'")
    database.create(place.url)
    place.sql(
        f"GRANT USAGE ON SCHEMA {place.schema} TO clerk; GRANT SELECT ON comet_schema TO clerk;"
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {place.schema} TO clerk"
    )
    for table, rights in NEEDED.items():
        place.sql(f"GRANT {', '.join(rights)} ON {table} TO clerk")
    url = place.url.replace(f"{postgres.USER}:{postgres.QUOTED}", "clerk:s3cret")
    store = address.database_at(url).store(lambda names: "w")
    store.open()
    store.commit(batch_of([Record(True, 5, injected=("failure",), id="a")]))
    store.close()
    assert json.loads(database.report(url))["total"]["failed"] == 1
    for table, rights in NEEDED.items():
        for right in rights:
            place.sql(f"REVOKE {right} ON {table} FROM clerk")
            with pytest.raises(WorkerError, match=f"permission denied for table {table} .grant"):
                database.create(url)
            place.sql(f"GRANT {right} ON {table} TO clerk")
    database.create(url)
    database.reset(url)
    assert place.sql("SELECT (SELECT count(*) FROM workers) + (SELECT count(*) FROM counted_requests)") == [(0,)]
    place.sql("DROP OWNED BY clerk; DROP ROLE clerk")


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that accepts connections and says nothing, as a frozen one does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def among(place: postgres.Database, ports: list[int], timeout: str = "") -> str:
    """The URL with several servers; only the real one's port is none of these."""
    real = f"127.0.0.1:{place.server.port}"
    return place.url.replace(real, ",".join([*(f"127.0.0.1:{port}" for port in ports), real])) + timeout


def test_a_silent_server_is_passed_over(place: postgres.Database, silent: int) -> None:
    """Between one that is closed and the real one; with as long a wait for it as the URL says."""
    url = among(place, [1, silent], "&connect_timeout=1")
    began = time.monotonic()
    database.create(url)  # Two connections: one of them makes the tables.
    assert 2.0 <= time.monotonic() - began < 3.0 * PATIENCE
    store = address.database_at(url).store(lambda names: "w")
    store.open()
    store.commit(batch_of([Record(False, 5)]))
    place.sql("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'comet'")
    began = time.monotonic()
    wait_until(lambda: store_commits(store), what="a commit over a new connection")
    assert time.monotonic() - began < KEEPS_WITHIN * PATIENCE
    store.close()
    assert json.loads(database.stats(url))["TotalRequests"] == [{"total": 2}, {"w": 2}]


def store_commits(store: Store) -> bool:
    try:
        store.commit(batch_of([Record(False, 5)]))
    except NotCommitted:
        return False
    return True


def test_servers_share_the_time_of_a_start_by_default(
    place: postgres.Database, silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_client, "TIMEOUT", 1.0)
    began = time.monotonic()
    postgres_client.connect(postgres_client.parameters(among(place, [silent])), 1.0).close()
    assert 0.5 <= time.monotonic() - began < 1.0 * PATIENCE


def test_the_last_server_decides_on_the_message(silent: int) -> None:
    for ports, wrong in (
        ([silent], "the server does not respond within 1 s"),
        ([silent, silent], "the server does not respond within 1 s"),
        ([silent, 1], "Connection refused (is the server running there?)"),
    ):
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        began = time.monotonic()
        with pytest.raises(WorkerError, match=re.escape(wrong)):
            database.create(f"postgresql://comet:s3cret@{hosts}/stats?connect_timeout=1")
        assert time.monotonic() - began < (ports.count(silent) + 0.9) * PATIENCE


def test_a_wrong_password_is_told_where_another_server_is_away(place: postgres.Database) -> None:
    url = among(place, [1]).replace(postgres.QUOTED, "wrong")
    with pytest.raises(WorkerError, match="password authentication failed"):
        database.create(url)


def test_a_url_in_a_file_serves(tmp_path: Path, place: postgres.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "url"
    secret.write_text(f"{place.url}\n")
    monkeypatch.setenv("COMET_DATABASE_FILE", str(secret))
    assert database.main(["create"]) == 0
    assert place.sql("SELECT version FROM comet_schema") == [(1,)]
    monkeypatch.setenv("COMET_DATABASE_FILE", str(tmp_path / "none"))
    assert database.main(["create"]) == 1


def assert_everything_works(url: str) -> None:
    database.create(url)
    store = address.database_at(url).store(lambda names: "w")
    store.open()
    store.commit(batch_of([Record(True, 5, injected=("failure",))]))
    store.close()
    assert json.loads(database.stats(url))["TotalRequests"] == [{"total": 1}, {"w": 1}]
    assert [worker["name"] for worker in json.loads(database.report(url))["workers"]] == ["w"]
    database.reset(url, ["w"])
    assert json.loads(database.stats(url))["TotalRequests"] == [{"total": 0}, {"w": 0}]


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "EUC_JP", "LATIN1"])
def test_a_database_of_any_encoding_serves(postgres_server: postgres.Server, encoding: str) -> None:
    assert_everything_works(postgres.database(postgres_server, encoding).url)


@pytest.mark.parametrize(
    "parameters", ["client_encoding=SQL_ASCII", "client_encoding=EUC_JP", "options=-cclient_encoding%3DSQL_ASCII"]
)
def test_the_clients_encoding_is_utf_8_whatever_the_url_says(postgres_server: postgres.Server, parameters: str) -> None:
    assert_everything_works(f"{postgres.database(postgres_server).url}?{parameters}")


def test_what_is_no_utf_8_in_a_database_is_one_line(postgres_server: postgres.Server) -> None:
    place = postgres.database(postgres_server, "SQL_ASCII")
    opened = address.database_at(place.url).store(lambda names: "w")
    opened.open()
    opened.close()
    place.sql("UPDATE workers SET name = chr(233)")  # a byte that is no letter in UTF-8
    for command in (database.stats, database.report):
        with pytest.raises(WorkerError, match=r'invalid byte sequence for encoding "UTF8": 0xe9$'):
            command(place.url)


def test_an_unwritable_server_refuses_commits_for_certain(place: postgres.Database) -> None:
    store = address.database_at(place.url).store(lambda names: "w")
    store.open()
    with place.locked(), pytest.raises(NotCommitted, match="lock"):
        store.commit(batch_of([Record(False, 5)]))
    store.commit(batch_of([Record(False, 5)]))
    assert counted(place) == (1, 0)
    store.close()


def test_commits_survive_a_server_death_without_sync_too(place: postgres.Database) -> None:
    url = f"{place.url}%20-csynchronous_commit%3Doff"
    store = address.database_at(url).store(lambda names: "w")
    assert isinstance(store, PostgresStore)
    store.open()
    assert store._session is not None
    assert store._session.execute("SHOW synchronous_commit").fetchone() == ("on",)
    store.close()
