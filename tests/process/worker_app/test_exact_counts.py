"""Exact statistics of real workers: what the clients saw is what was counted, whatever happens in between."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.waiting import PATIENCE, wait_until
from tests.support.workers import HELLO, PATIENT, QUIET, Clients, Worker, counted, exclusively
from worker_app import database

FULL = os.environ.get("COMET_TEST_FULL") == "1"


def integrity(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        verdict: str = connection.execute("PRAGMA integrity_check").fetchone()[0]
    return verdict


def test_two_hundred_concurrent_clients(tmp_path: Path) -> None:
    clients = Clients()
    with Worker(tmp_path, faults={"avg-delay": 20, "failure": 12}) as worker:
        asyncio.run(clients.many([worker.port], 200, 25))
        assert clients.seen.total() == 5000
        assert worker.totals() == (clients.seen[200], clients.seen[500])
        assert worker.terminate() == 0
    assert counted(tmp_path / "stats.db") == (clients.seen[200], clients.seen[500])
    assert 0.05 < clients.seen[500] / 5000 < 0.2


def test_three_workers_one_database(tmp_path: Path) -> None:
    clients = Clients()
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(tmp_path, f"worker-{number}", {"avg-delay": 5, "failure": 20}))
            for number in range(3)
        ]
        asyncio.run(clients.many([worker.port for worker in workers], 60, 50))
        assert workers[1].totals() == (clients.seen[200], clients.seen[500])
        names = [next(iter(cell)) for cell in workers[0].stats()["TotalRequests"]]
        assert names == ["total", *(str(worker.pid) for worker in workers)]
    assert clients.seen.total() == 3000
    assert integrity(tmp_path / "stats.db") == "ok"


def test_kill_9_under_load_never_loses_an_answer_that_was_seen(tmp_path: Path) -> None:
    """Rounds on one database: counted minus seen is never negative and at most what was in flight."""
    in_flight = 50
    path = tmp_path / "stats.db"
    moments = random.Random(1)
    before = (0, 0)

    async def scenario(worker: Worker, clients: Clients) -> None:
        load = asyncio.create_task(clients.many([worker.port], in_flight, -1))
        while not clients.seen and not load.done():
            await asyncio.sleep(0.001)
        await asyncio.sleep(moments.random() * 0.4)
        worker.process.kill()
        await load

    for _ in range(200 if FULL else 6):
        clients = Clients()
        with Worker(tmp_path, faults={"avg-delay": 2, "failure": 10}) as worker:
            asyncio.run(scenario(worker, clients))
        after = counted(path)
        good, bad = after[0] - before[0] - clients.seen[200], after[1] - before[1] - clients.seen[500]
        assert good >= 0
        assert bad >= 0
        assert good + bad <= in_flight
        assert integrity(path) == "ok"
        before = after
    assert sum(before) > 0


def test_kill_9_of_one_of_several_workers(tmp_path: Path) -> None:
    """The others' answers are exact to the last one; the killed one's row is off by no more than was in flight."""
    clients = [Clients() for _ in range(3)]

    async def scenario(workers: list[Worker]) -> None:
        loads = [
            asyncio.create_task(one.many([worker.port], 10, -1)) for one, worker in zip(clients, workers, strict=True)
        ]
        await asyncio.sleep(0.4)
        workers[1].process.kill()
        await asyncio.sleep(0.4)
        for one in clients:
            one.stopping = True
        await asyncio.gather(*loads)

    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(tmp_path, f"worker-{number}", {"avg-delay": 2, "failure": 0}))
            for number in range(3)
        ]
        asyncio.run(scenario(workers))
        cells = {name: count for cell in workers[0].stats()["SuccessfulRequests"] for name, count in cell.items()}
    surplus = [cells[str(worker.pid)] - one.seen[200] for one, worker in zip(clients, workers, strict=True)]
    assert surplus[0] == surplus[2] == 0
    assert 0 <= surplus[1] <= 10
    assert integrity(tmp_path / "stats.db") == "ok"


def test_many_workers_write_one_database(tmp_path: Path) -> None:
    clients = Clients()
    number = 50 if FULL else 8
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(tmp_path, f"worker-{index}", {"avg-delay": 5, "failure": 10}))
            for index in range(number)
        ]
        asyncio.run(clients.many([worker.port for worker in workers], 4 * number, 20))
        assert clients.seen.total() == 80 * number
        assert workers[-1].totals() == (clients.seen[200], clients.seen[500])
    assert integrity(tmp_path / "stats.db") == "ok"


def test_a_lock_of_three_seconds_costs_nothing(tmp_path: Path) -> None:
    clients = Clients()
    with Worker(tmp_path, prelude=PATIENT) as worker:
        with exclusively(worker.database, 3.0):
            asyncio.run(clients.many([worker.port], 20, 10))
        assert dict(clients.seen) == {200: 200}
        assert worker.totals() == (200, 0)


def test_a_longer_lock_is_answered_503_and_uncounted(tmp_path: Path) -> None:
    clients = Clients()
    with Worker(tmp_path) as worker:
        began = time.monotonic()
        with exclusively(worker.database):
            asyncio.run(clients.many([worker.port], 20, 1))
            refused_after = time.monotonic() - began
            assert worker.get("/healthz") == (200, b'{"status":"ok"}')
        assert dict(clients.seen) == {503: 20}
        assert 5.0 <= refused_after < 5.0 + 1.5 * PATIENCE
        asyncio.run(clients.many([worker.port], 10, 1))
        assert worker.totals() == (clients.seen[200], 0) == (10, 0)


def test_503_byte_for_byte(tmp_path: Path) -> None:
    with (
        Worker(tmp_path, prelude="import worker_app.http.exchange as e; e.COMMIT_TIMEOUT = 0.3") as worker,
        exclusively(worker.database),
    ):
        assert worker.get("/api/v1/hello") == (503, b'{"error":"statistics unavailable"}')


def limit_files(worker: Worker, size: int) -> None:
    """Make every write of the worker past this size fail as on a full disk, for any user; Python ignores SIGXFSZ."""
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_a_disk_that_fills_up_and_is_freed(tmp_path: Path) -> None:
    clients = Clients()
    with Worker(tmp_path) as worker:
        asyncio.run(clients.many([worker.port], 10, 20))
        limit_files(worker, 1)
        asyncio.run(clients.many([worker.port], 10, 1))
        assert dict(clients.seen) == {200: 200, 503: 10}
        limit_files(worker, resource.RLIM_INFINITY)
        asyncio.run(clients.many([worker.port], 10, 20))
        assert dict(clients.seen) == {200: 400, 503: 10}
        assert worker.totals() == (400, 0)
    assert integrity(tmp_path / "stats.db") == "ok"


def test_a_disk_that_is_full_for_a_moment_costs_nothing(tmp_path: Path) -> None:
    clients = Clients()
    with Worker(tmp_path, prelude=PATIENT) as worker:

        async def scenario() -> None:
            limit_files(worker, 1)
            load = asyncio.create_task(clients.many([worker.port], 30, 3))
            await asyncio.sleep(1.0)
            assert clients.seen.total() == 0
            limit_files(worker, resource.RLIM_INFINITY)
            await load

        asyncio.run(scenario())
        assert dict(clients.seen) == {200: 90}
        assert worker.totals() == (90, 0)


# No file of the worker's may be larger than this: more than the database is, less than its WAL would become.
SMALL_DISK = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
"""


def test_a_disk_that_its_own_wal_fills_stops_no_worker(tmp_path: Path) -> None:
    clients = Clients()
    with Worker(tmp_path, prelude=SMALL_DISK + PATIENT) as worker:
        asyncio.run(clients.many([worker.port], 1, 600))
        assert dict(clients.seen) == {200: 600}
        assert worker.totals() == (600, 0)
        # So many commits need several times as much.
        assert 300_000 < (tmp_path / "stats.db-wal").stat().st_size <= 400_000
    assert integrity(tmp_path / "stats.db") == "ok"


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB that holds nothing yet."""
    disk = tmp_path / "disk"
    disk.mkdir()
    as_root = [] if os.getuid() == 0 else ["sudo", "-n"]
    subprocess.run([*as_root, "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run([*as_root, "umount", "-l", str(disk)], check=True)


def occupy(disk: Path) -> Path:
    """Fill the disk with a file, and return it."""
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    return filler


IMPATIENT = f"import worker_app.http.exchange as e; e.COMMIT_TIMEOUT = {0.5 * PATIENCE}"


@pytest.mark.parametrize("both_noticed", [True, False])
def test_room_on_a_full_disk_is_kept_to_write_the_wal_back(tiny_disk: Path, both_noticed: bool) -> None:
    """Two workers, of which one may have been idle while the disk was full."""
    before, after = Clients(), Clients()
    database = tiny_disk / "stats.db"
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(
                Worker(
                    tiny_disk.parent,
                    f"worker-{number}",
                    args=("--request-ledger",),
                    database=database,
                    prelude=IMPATIENT,
                )
            )
            for number in range(2)
        ]
        ports = [worker.port for worker in workers]
        asyncio.run(before.many(ports, 2, 20))
        assert dict(before.seen) == {200: 40}
        filler = occupy(tiny_disk)
        while not before.seen[503]:
            asyncio.run(before.many(ports if both_noticed else ports[:1], 10, 2))
        # Each of these requests waits for several attempts, of which none but the first may write to the log.
        asyncio.run(before.many(ports if both_noticed else ports[:1], 2, 4))
        os.truncate(filler, filler.stat().st_size - (48 << 10))
        asyncio.run(after.many(ports[::-1], 2, 200))
        assert dict(after.seen) == {200: 400}
        assert workers[0].totals() == (before.seen[200] + 400, 0)
        for worker in workers:
            # One episode, which may be noticed while the disk is full and once more while the room is scarce.
            assert worker.log.read_text().count("disk is full") <= 2, worker.log.read_text()
    with contextlib.closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*) FROM counted_requests").fetchone() == (before.seen[200] + 400,)
    assert integrity(database) == "ok"


def three(stack: contextlib.ExitStack, folder: Path) -> tuple[list[Worker], list[int]]:
    """Three workers of one database, and their ports."""
    workers = [stack.enter_context(Worker(folder, f"worker-{number}")) for number in range(3)]
    return workers, [worker.port for worker in workers]


# The database last: where it is missed before the others are gone, a new one is made, which would lose them.
@pytest.mark.parametrize("suffixes", [("",), ("-wal", "-shm", "")])
def test_a_database_deleted_while_running_is_made_anew(tmp_path: Path, suffixes: tuple[str, ...]) -> None:
    """What is answered after the deletion is counted in the new one, by each of three workers."""
    before, after = Clients(), Clients()
    with contextlib.ExitStack() as stack:
        workers, ports = three(stack, tmp_path)
        asyncio.run(before.many(ports, 12, 20))
        for suffix in suffixes:
            os.unlink(str(workers[0].database) + suffix)
        asyncio.run(after.many(ports, 12, 20))
        assert dict(after.seen) == {200: 240}
        assert workers[2].totals() == (240, 0)
        assert "deleted or replaced" in "".join(worker.log.read_text() for worker in workers)
    assert integrity(tmp_path / "stats.db") == "ok"


@pytest.mark.parametrize("suffixes", [("-wal",), ("-shm",), ("-wal", "-shm")], ids="".join)
def test_side_files_removed_while_running_lose_no_count(tmp_path: Path, suffixes: tuple[str, ...]) -> None:
    """A worker that starts later counts in the same database."""
    before, after, late = Clients(), Clients(), Clients()
    with contextlib.ExitStack() as stack:
        workers, ports = three(stack, tmp_path)
        asyncio.run(before.many(ports, 12, 20))
        for suffix in suffixes:
            os.unlink(str(workers[0].database) + suffix)
        asyncio.run(after.many(ports, 12, 20))
        wait_until(lambda: "were removed" in "".join(worker.log.read_text() for worker in workers))
        workers.append(stack.enter_context(Worker(tmp_path, "worker-3")))
        asyncio.run(late.many([worker.port for worker in workers], 12, 20))
        assert dict(before.seen + after.seen + late.seen) == {200: 720}
        wait_until(lambda: [worker.get("/worker/stats")[0] for worker in workers] == [200] * 4)
        assert {worker.totals() for worker in workers} == {(720, 0)}
    assert integrity(tmp_path / "stats.db") == "ok"


def emptied(path: Path) -> None:
    path.open("w").close()


def overwritten_by_an_older_one(path: Path) -> None:
    """As `cp backup.db stats.db` does: the same file, other content."""
    backup = path.with_name("backup.db")
    database.create(str(backup))
    shutil.copyfile(backup, path)


def rid_of_a_table(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE workers")


@pytest.mark.parametrize("spoil", [emptied, overwritten_by_an_older_one, rid_of_a_table])
def test_a_database_spoilt_under_workers_counts_later_answers(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    """The file stays the same one, so that its place in the folder tells nothing."""
    before, after = Clients(), Clients()
    path = tmp_path / "stats.db"
    with contextlib.ExitStack() as stack:
        workers, ports = three(stack, tmp_path)
        asyncio.run(before.many(ports, 12, 20))
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        spoil(path)
        asyncio.run(after.many(ports, 12, 20))
        assert dict(after.seen) == {200: 240}
        assert workers[2].totals() == (240, 0)
    assert integrity(path) == "ok"


def test_a_vacuumed_database_is_still_the_same(tmp_path: Path) -> None:
    """A vacuum writes the file anew and changes what it says of its schema."""
    clients = Clients()
    with Worker(tmp_path) as worker:
        asyncio.run(clients.many([worker.port], 5, 20))
        with contextlib.closing(sqlite3.connect(worker.database)) as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        asyncio.run(clients.many([worker.port], 5, 20))
        assert worker.totals() == (200, 0)
        assert "deleted or replaced" not in worker.log.read_text()


def test_a_deleted_database_comes_back_without_requests(tmp_path: Path) -> None:
    with Worker(tmp_path) as worker:
        worker.database.unlink()
        wait_until(worker.database.exists)
        wait_until(lambda: worker.get("/worker/stats")[0] == 200)
        assert wait_until(lambda: worker.stats()["TotalRequests"] == [{"total": 0}, {str(worker.pid): 0}])


def test_reset_under_a_living_worker(tmp_path: Path) -> None:
    clients = Clients()
    with Worker(tmp_path) as worker:
        asyncio.run(clients.many([worker.port], 5, 5))
        database.reset(str(worker.database))
        wait_until(lambda: len(worker.stats()["TotalRequests"]) == 2)
        assert worker.totals() == (0, 0)
        asyncio.run(clients.many([worker.port], 5, 1))
        assert worker.totals() == (5, 0)


def test_a_client_that_left_is_counted_and_told_apart(tmp_path: Path) -> None:
    with Worker(tmp_path, faults={"avg-delay": 300, "failure": 0}, prelude=PATIENT) as worker:

        async def leave() -> None:
            _, writer = await asyncio.open_connection("127.0.0.1", worker.port)
            writer.write(HELLO)
            await asyncio.sleep(0.05)
            writer.transport.abort()

        # The response waits until the worker has seen that the client is gone: so it has when it answers another one.
        with exclusively(worker.database):
            asyncio.run(leave())
            assert worker.get("/healthz")[0] == 200
        wait_until(lambda: worker.totals() == (1, 0))
        wait_until(lambda: json.loads(database.report(str(worker.database)))["workers"][0]["disconnected"] == 1)


def test_an_unplanned_exception_is_a_500_and_counted_as_failed(tmp_path: Path) -> None:
    broken = "import worker_app.http.app as a\ndef boom(*_): raise RuntimeError('nobody planned this')\na._hello = boom"
    with Worker(tmp_path, prelude=broken) as worker:
        assert worker.get("/api/v1/hello") == (500, b'{"error":"internal server error"}')
        assert worker.totals() == (0, 1)
        (row,) = json.loads(database.report(str(worker.database)))["workers"]
        assert (row["failed"], row["unplanned"], row["injections"]) == (1, 1, {})
        assert "nobody planned this" in worker.log.read_text()


def test_a_stopped_worker_does_not_stop_the_others(tmp_path: Path) -> None:
    """Stopped at a random moment under load, most likely around a commit; the others go on, and so does it when it is
    continued.
    """
    clients = Clients()
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(Worker(tmp_path, f"worker-{number}", QUIET)) for number in range(2)]

        async def scenario() -> None:
            loads = [asyncio.create_task(clients.many([worker.port], 10, 400)) for worker in workers]
            await asyncio.sleep(0.2)
            workers[0].process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(1.0)
            workers[0].process.send_signal(signal.SIGCONT)
            await asyncio.gather(*loads)

        asyncio.run(scenario())
        assert clients.seen[200] + clients.seen[503] == 8000
        assert workers[1].totals() == (clients.seen[200], 0)
