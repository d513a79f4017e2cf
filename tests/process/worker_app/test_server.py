"""A real worker at the wire: the bytes of docs/http.md, the lanes, its user and its command line."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import open_folder
from tests.support.thief import USER
from tests.support.waiting import PATIENCE, wait_until
from tests.support.workers import HELLO, Clients, Worker, cpu_seconds, exchange, read_answer
from worker_app import database

SLEEPY = {"avg-delay": 60000, "failure": 0}


def test_the_answers_byte_for_byte(tmp_path: Path) -> None:
    with Worker(tmp_path) as worker:
        pid = str(worker.pid).encode()
        assert worker.get("/api/v1/hello") == (200, b'{"message":"hello from process: ' + pid + b'"}')
        assert worker.get("/healthz") == (200, b'{"status":"ok"}')
        worker.set_faults({"avg-delay": 0, "failure": 100})
        assert worker.get("/api/v1/hello") == (500, b'{"error":"injected failure"}')
        assert worker.stats() == {
            "SuccessfulRequests": [{"total": 1}, {pid.decode(): 1}],
            "FailedRequests": [{"total": 1}, {pid.decode(): 1}],
            "TotalRequests": [{"total": 2}, {pid.decode(): 2}],
            "AverageResponseTime": worker.stats()["AverageResponseTime"],
        }
        assert list(worker.stats()) == ["SuccessfulRequests", "FailedRequests", "TotalRequests", "AverageResponseTime"]
        assert b" " not in worker.get("/worker/stats")[1]
        assert worker.get("/nothing") == (404, b'{"error":"not found"}')
        assert b"405" in exchange(worker, b"POST /api/v1/hello HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        assert worker.totals() == (1, 1)


def test_content_type_and_keep_alive(tmp_path: Path) -> None:
    with Worker(tmp_path) as worker, socket.create_connection(("127.0.0.1", worker.port)) as client:
        for _ in range(3):
            client.sendall(HELLO)
            answer = client.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"Content-Type: application/json\r\n" in answer
            assert b"Connection: close" not in answer


def test_statistics_are_not_to_be_stored(tmp_path: Path) -> None:
    with Worker(tmp_path) as worker:
        for method in (b"GET", b"HEAD"):
            answer = exchange(worker, method + b" /worker/stats HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"\r\nCache-Control: no-store\r\n" in answer


def test_f26_stats_before_any_request(tmp_path: Path) -> None:
    with Worker(tmp_path) as worker:
        assert worker.stats()["AverageResponseTime"] == [{"total": 0}, {str(worker.pid): 0}]


def test_a_pipeline_is_answered_in_order(tmp_path: Path) -> None:
    with Worker(tmp_path, faults={"avg-delay": 20, "failure": 0}) as worker:
        requests = (
            HELLO
            + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
            + HELLO
            + b"GET /worker/stats HTTP/1.1\r\nHost: x\r\n\r\n"
        )

        async def scenario() -> list[bytes]:
            reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
            writer.write(requests)
            bodies = [(await read_answer(reader))[1] for _ in range(4)]
            writer.close()
            return bodies

        hello, health, again, stats = asyncio.run(scenario())
        assert hello == again
        assert health == b'{"status":"ok"}'
        assert json.loads(stats)["TotalRequests"][0] == {"total": 2}


@pytest.mark.parametrize("threads", ["auto", "4"])
def test_health_and_stats_answer_while_all_else_waits(tmp_path: Path, threads: str) -> None:
    with Worker(tmp_path, faults=SLEEPY, args=("--threads", threads)) as worker:

        async def scenario() -> None:
            writers = []
            for _ in range(300):
                _, writer = await asyncio.open_connection("127.0.0.1", worker.port)
                writer.write(HELLO)
                writers.append(writer)
            await asyncio.to_thread(wait_until, lambda: worker.connections() == 300)
            for path in ("/healthz", "/worker/stats"):
                status, _ = await asyncio.to_thread(worker.get, path, 5.0)
                assert status == 200
            for writer in writers:
                writer.transport.abort()

        asyncio.run(scenario())


def test_threads_limit_what_is_worked_on_at_a_time(tmp_path: Path) -> None:
    clients = Clients()
    with Worker(
        tmp_path, faults={"avg-delay": 100, "failure": 0, "delay-distribution": "constant"}, args=("--threads", "4")
    ) as worker:
        began = time.monotonic()
        asyncio.run(clients.many([worker.port], 20, 1))
        assert time.monotonic() - began >= 0.5
        assert worker.totals() == (20, 0)


def test_auto_needs_no_thread_per_sleeping_request(tmp_path: Path) -> None:
    clients = Clients()
    with Worker(tmp_path, faults={"avg-delay": 500, "failure": 0, "delay-distribution": "constant"}) as worker:

        async def scenario() -> int:
            load = asyncio.create_task(clients.many([worker.port], 500, 1))
            await asyncio.sleep(0.45)
            threads = len(list(Path(f"/proc/{worker.pid}/task").iterdir()))
            await load
            return threads

        assert asyncio.run(scenario()) <= 8
        assert dict(clients.seen) == {200: 500}
        assert worker.totals() == (500, 0)


def test_a_full_worker_says_so_and_stays_healthy(tmp_path: Path) -> None:
    with Worker(tmp_path, faults=SLEEPY, prelude="import worker_app.http.server as s; s.MAX_IN_FLIGHT = 10") as worker:

        async def scenario() -> list[bytes]:
            opened = [await asyncio.open_connection("127.0.0.1", worker.port) for _ in range(11)]
            for _, writer in opened:
                writer.write(HELLO)
            # One too many; the worker reads them in an order of its own.
            heads = [asyncio.create_task(reader.readuntil(b"\r\n\r\n")) for reader, _ in opened]
            answered, waiting = await asyncio.wait(heads, timeout=10 * PATIENCE, return_when=asyncio.FIRST_COMPLETED)
            status, _ = await asyncio.to_thread(worker.get, "/healthz", 5.0)
            assert status == 200
            for each in waiting:
                each.cancel()
            for _, writer in opened:
                writer.transport.abort()
            return [each.result() for each in answered]

        (head,) = asyncio.run(scenario())
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1" in head


def test_connections_beyond_the_descriptors_wait_without_spin(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (104, 104))"
    with Worker(tmp_path, prelude=limit) as worker:

        async def scenario() -> float:
            held = [await asyncio.open_connection("127.0.0.1", worker.port) for _ in range(60)]
            await asyncio.sleep(0.2)
            before = cpu_seconds(worker.pid)
            await asyncio.sleep(0.5)
            spent = cpu_seconds(worker.pid) - before
            for _, writer in held[:40]:
                writer.close()
            reader, writer = held[-1]
            writer.write(HELLO)
            assert (await asyncio.wait_for(read_answer(reader), 5 * PATIENCE))[0] == 200
            for _, writer in held[40:]:
                writer.close()
            return spent

        assert asyncio.run(scenario()) < 0.3
        assert "104 open files are allowed (ulimit -n), which is room for 40 connections" in worker.log.read_text()


def test_long_lines_and_bodies_are_refused_and_cost_nobody_else(tmp_path: Path) -> None:
    # What is left of a refused request is read for so long only: to send it may take longer here.
    with Worker(tmp_path, prelude=f"import worker_app.http.connection as c; c.LINGER *= {PATIENCE}") as worker:
        assert exchange(worker, b"GET /" + b"a" * 300_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n").startswith(
            b"HTTP/1.0 431 "
        )
        assert b" 413 " in exchange(worker, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n")[:20]
        assert exchange(worker, b"GET / NONSENSE\r\n\r\n").startswith(b"HTTP/1.0 400 ")
        assert worker.get("/healthz")[0] == 200


def test_a_seed_repeats_the_draws(tmp_path: Path) -> None:
    runs = []
    for name in ("a", "b"):
        with Worker(tmp_path / name, faults={"avg-delay": 0, "failure": 50}, args=("--seed", "42")) as worker:
            runs.append([worker.get("/api/v1/hello")[0] for _ in range(30)])
    assert runs[0] == runs[1]
    assert set(runs[0]) == {200, 500}


CONTAINER = "import socket; socket.gethostname = lambda: 'fdbaa57c12d3'"


def test_a_container_that_is_started_again_goes_on_with_its_row(tmp_path: Path) -> None:
    for count in (1, 2):
        with Worker(tmp_path, args=("--identity", "container"), prelude=CONTAINER) as worker:
            assert worker.get("/api/v1/hello") == (200, b'{"message":"hello from container: fdbaa57c12d3"}')
            assert worker.stats()["TotalRequests"] == [{"total": count}, {"fdbaa57c12d3": count}]
            assert worker.terminate() == 0


# Gives up root where it is root, after loading what only root may read there; an ordinary user runs as itself.
ORDINARY = """
import os, encodings.ascii, encodings.idna, worker_app.__main__, worker_app.stats.schema
if os.getuid() == 0: os.setgid(10001); os.setuid(10001)
"""


@pytest.fixture
def passable() -> Iterator[Path]:
    """A folder that other users may enter."""
    with open_folder() as folder:
        yield folder


def test_it_serves_as_a_user_that_owns_only_the_database(passable: Path) -> None:
    directory = passable / "stats"
    directory.mkdir()
    if os.getuid() == 0:
        os.chown(directory, 10001, 10001)
    with Worker(passable, database=directory / "stats.db", prelude=ORDINARY) as worker:
        assert worker.get("/api/v1/hello")[0] == 200
        assert worker.totals() == (1, 0)
        assert worker.terminate() == 0


@pytest.mark.parametrize("what", ["directory", "file"])
def test_a_database_it_may_not_write_is_one_line(passable: Path, what: str) -> None:
    directory = passable / "stats"
    directory.mkdir()
    path = directory / "stats.db"
    database.create(str(path))
    if what == "file":
        path.chmod(0o444)
        if os.getuid() == 0:
            os.chown(directory, 10001, 10001)
    else:
        directory.chmod(0o555)
    try:
        worker = Worker(passable, database=path, prelude=ORDINARY)
        assert worker.ended() == 1
    finally:
        directory.chmod(0o755)
    text = worker.log.read_text()
    assert text.count("\n") == 1, text
    assert "cannot be written" in text


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--listen", "nonsense"), "HOST:PORT"),
        (("--listen", "127.0.0.1:99999"), "HOST:PORT"),
        (("--threads", "0"), "auto"),
        (("--threads", "x"), "auto"),
    ],
)
def test_bad_arguments_are_a_usage_error(tmp_path: Path, args: tuple[str, ...], says: str) -> None:
    worker = Worker(tmp_path, args=args)
    assert worker.ended() == 2
    assert says in worker.log.read_text()


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        worker = Worker(tmp_path, args=("--listen", f"127.0.0.1:{holder.getsockname()[1]}"))
        assert worker.ended() == 1
    text = worker.log.read_text()
    assert text.count("\n") == 1
    assert "Address already in use" in text


@pytest.mark.root  # Root itself has no limit.
def test_a_limit_of_threads_is_one_line() -> None:
    limited = (
        "import os, resource, worker_app.__main__\n"
        f"os.setgroups([]); os.setresgid({USER}, {USER}, {USER}); os.setresuid({USER}, {USER}, {USER})\n"
        "resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))"
    )
    with open_folder() as folder:
        os.chown(folder, USER, USER)
        worker = Worker(folder, prelude=limited)
        assert worker.ended() == 1
        text = worker.log.read_text()
    assert text.count("\n") == 1, text
    assert "ulimit -u" in text


def test_a_command_of_the_host_pays_for_no_more_than_it_needs(tmp_path: Path) -> None:
    """To import SQLAlchemy takes four times as long as all else that they do, what writes rows half as long."""
    asked = (
        "import sys; from worker_app.database import main; assert main(sys.argv[1:]) == 0; "
        "assert not {'sqlalchemy', 'worker_app.stats.sqlite_store'} & set(sys.modules)"
    )
    for command in ("create", "create", "stats", "report", "reset"):
        subprocess.run(
            [sys.executable, "-c", asked, command],
            env=os.environ | {"COMET_DATABASE": f"sqlite:///{tmp_path}/s.db"},
            check=True,
        )


def test_a_damaged_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "stats.db").write_bytes(b"junk" * 2000)
    worker = Worker(tmp_path)
    assert worker.ended() == 1
    text = worker.log.read_text()
    assert text.count("\n") == 1
    assert "not a SQLite database" in text
    assert (tmp_path / "stats.db").read_bytes() == b"junk" * 2000
