"""Every fault of a worker as a client meets it, and the files that order them."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import time
from pathlib import Path

import pytest

from tests.support.waiting import wait_until
from tests.support.workers import HELLO, Worker, cpu_seconds, exchange, exclusively, injections


def test_a_change_is_in_force_within_a_second(tmp_path: Path) -> None:
    with Worker(tmp_path) as worker:
        assert worker.get("/api/v1/hello")[0] == 200
        worker.write_faults({"avg-delay": 0, "failure": 100, "status": 503})
        wait_until(lambda: worker.get("/api/v1/hello")[0] == 503, 1.0)
        worker.write_faults({"avg-delay": 0, "failure": 0})
        wait_until(lambda: worker.get("/api/v1/hello")[0] == 200, 1.0)


def test_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    with Worker(tmp_path, faults={"avg-delay": 0, "failure": 100}) as worker:
        worker.faults_file.write_text("{")
        wait_until(lambda: "the current faults stay active" in worker.log.read_text(), 2.0)
        worker.faults_file.unlink()
        wait_until(lambda: "No such file" in worker.log.read_text(), 2.0)
        assert worker.get("/api/v1/hello")[0] == 500


def test_a_lease_ends_by_itself(tmp_path: Path) -> None:
    def now() -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    with Worker(tmp_path) as worker:
        for seconds in (1.0, 2.0, 4.0, 8.0):  # One that ends before it is noticed shows nothing.
            until = now() + seconds
            worker.set_faults(
                {"avg-delay": 0, "failure": 0, "overrides": [{"id": "x", "failure": 100, "until": until}]}
            )
            if worker.get("/api/v1/hello")[0] == 500:
                break
        else:
            pytest.fail("it is never in force")
        asked = now()
        while worker.get("/api/v1/hello")[0] == 500:
            assert asked < until
            asked = now()
        assert now() >= until


def test_the_next_n_requests(tmp_path: Path) -> None:
    with Worker(tmp_path) as worker:
        since = time.clock_gettime(time.CLOCK_BOOTTIME)
        worker.set_faults(
            {"avg-delay": 0, "failure": 0, "overrides": [{"id": "x", "failure": 100, "count": 2, "since": since}]}
        )
        assert [worker.get("/api/v1/hello")[0] for _ in range(4)] == [500, 500, 200, 200]
        assert injections(worker) == {"failure": 2}


def test_hang_never_answers_and_is_not_counted(tmp_path: Path) -> None:
    with Worker(tmp_path, faults={"avg-delay": 0, "failure": 0, "hang": 100}) as worker:
        for request in (HELLO, HELLO.replace(b"/api/v1/hello", b"/healthz")):
            with pytest.raises(TimeoutError):
                exchange(worker, request, timeout=0.7)
        # One that is not read yet would not hang any more.
        wait_until(lambda: injections(worker) == {"hang": 1})
        worker.set_faults({"avg-delay": 0, "failure": 0})
        assert worker.get("/healthz")[0] == 200
        assert worker.get("/api/v1/hello")[0] == 200
        assert worker.totals() == (1, 0)
        # Clients that gave up are let go of.
        wait_until(lambda: worker.connections() == 0)


def test_hang_below_a_hundred_leaves_the_health_check_alone(tmp_path: Path) -> None:
    with Worker(tmp_path, faults={"avg-delay": 0, "failure": 0, "hang": 99}) as worker:
        assert worker.get("/healthz") == (200, b'{"status":"ok"}')


def test_reset_cuts_the_connection(tmp_path: Path) -> None:
    with Worker(tmp_path, faults={"avg-delay": 0, "failure": 0, "reset": 100}) as worker:
        with pytest.raises(ConnectionResetError):
            exchange(worker)
        assert worker.totals() == (0, 0)
        wait_until(lambda: injections(worker) == {"reset": 1})


def test_truncate_cuts_the_body_short(tmp_path: Path) -> None:
    with Worker(tmp_path, faults={"avg-delay": 0, "failure": 0, "truncate": 100}) as worker:
        head, _, body = exchange(worker).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        whole = b'{"message":"hello from process: %d"}' % worker.pid
        assert b"Content-Length: %d" % len(whole) in head
        assert 0 < len(body) < len(whole)
        assert whole.startswith(body)
        assert worker.totals() == (0, 1)
        assert injections(worker) == {"truncate": 1}


def test_slow_body_takes_its_time(tmp_path: Path) -> None:
    with Worker(tmp_path, faults={"avg-delay": 0, "failure": 0, "slow-body": 50}) as worker:
        began = time.monotonic()
        body = exchange(worker).partition(b"\r\n\r\n")[2]
        assert json.loads(body)["message"].startswith("hello")
        assert time.monotonic() - began >= len(body) / 50 - 0.3
        assert injections(worker) == {"slow-body": 1}


def test_status_says_which_failure(tmp_path: Path) -> None:
    with Worker(tmp_path, faults={"avg-delay": 0, "failure": 100, "status": 502}) as worker:
        assert worker.get("/api/v1/hello") == (502, b'{"error":"injected failure"}')
        assert worker.totals() == (0, 1)


def test_cpu_burns_and_the_health_check_still_answers(tmp_path: Path) -> None:
    with Worker(tmp_path, faults={"avg-delay": 0, "failure": 0, "cpu": 300}) as worker:
        before = cpu_seconds(worker.pid)
        with socket.create_connection(("127.0.0.1", worker.port)) as client:
            client.sendall(HELLO)
            assert worker.get("/healthz", timeout=2.0)[0] == 200
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
        assert cpu_seconds(worker.pid) - before >= 0.25
        assert injections(worker) == {"cpu": 1}


def test_a_long_burn_does_not_hold_up_a_stop(tmp_path: Path) -> None:
    faults = {"avg-delay": 0, "failure": 0, "cpu": 60000}
    with (
        Worker(tmp_path, faults=faults, args=("--grace", "0.3")) as worker,
        socket.create_connection(("127.0.0.1", worker.port)) as client,
    ):
        client.sendall(HELLO)
        time.sleep(0.2)
        assert worker.terminate(5.0) == 0


def test_memory_grows_until_the_limit_kills_a_process(tmp_path: Path) -> None:
    with Worker(tmp_path, args=("--memory", str(128 << 20))) as worker:
        # It is counted before it ends the process, also where the database is busy for longer than that takes.
        with exclusively(worker.database, 2.0):
            worker.write_faults({"avg-delay": 0, "failure": 0, "memory": 500})
        assert worker.ended(20) == -9
        with contextlib.closing(sqlite3.connect(worker.database)) as connection:
            assert connection.execute("SELECT kind, count FROM injections").fetchall() == [("memory", 1)]


def test_memory_is_given_back(tmp_path: Path) -> None:
    def resident() -> int:
        return int(Path(f"/proc/{worker.pid}/statm").read_text().split()[1]) * 4096

    with Worker(tmp_path, args=("--memory", str(1 << 30))) as worker:
        before = resident()
        worker.set_faults({"avg-delay": 0, "failure": 0, "memory": 100})
        wait_until(lambda: resident() > before + (40 << 20))
        worker.set_faults({"avg-delay": 0, "failure": 0})
        wait_until(lambda: resident() < before + (20 << 20))
        assert worker.get("/api/v1/hello")[0] == 200
