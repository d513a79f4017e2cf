"""Real workers for the tests: started as processes on a port from the OS, and clients that keep their own books."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.waiting import PATIENCE, wait_until
from worker_app import database

HELLO = b"GET /api/v1/hello HTTP/1.1\r\nHost: test\r\n\r\n"
QUIET = {"avg-delay": 0, "failure": 0}

PATIENT = f"import worker_app.http.exchange as e; e.COMMIT_TIMEOUT *= {PATIENCE}"
"""A worker's prelude: where no response may be refused, a slow machine must not refuse one either."""


class Worker:
    """One worker process. Use as a context manager: it is gone afterwards, whatever happened."""

    def __init__(
        self,
        directory: Path,
        name: str = "worker-0",
        faults: dict[str, Any] | None = None,
        args: tuple[str, ...] = (),
        database: Path | str | None = None,
        prelude: str = "",
    ) -> None:
        directory.mkdir(exist_ok=True)
        self.database = Path(database or directory / "stats.db")
        url = database if isinstance(database, str) else f"sqlite:///{self.database}"
        self.log = directory / f"{name}.log"
        self.faults_file = directory / f"{name}.json"
        self.write_faults(QUIET if faults is None else faults)
        command = [
            sys.executable,
            "-m",
            "worker_app",
            "--listen",
            "127.0.0.1:0",
            "--name",
            name,
            "--faults",
            str(self.faults_file),
            *args,
        ]
        if prelude:  # runs in the worker before anything else
            code = f"{prelude}\nimport sys; from worker_app.__main__ import main; sys.exit(main({command[3:]!r}))"
            command = [sys.executable, "-c", code]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, env={**os.environ, "COMET_DATABASE": url}, stderr=log)
        self.port = 0

    def __enter__(self) -> Worker:
        def listening() -> re.Match[str] | None:
            assert self.process.poll() is None, self.log.read_text()
            return re.search(r"listening on [\d.]+:(\d+),", self.log.read_text())

        self.port = int(wait_until(listening, 20.0)[1])
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.ended()

    @property
    def pid(self) -> int:
        return self.process.pid

    def connections(self) -> int:
        """How many it has accepted and not closed: its sockets but the listening one, and but those to a server."""
        ends = []
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                ends.append(str(link.readlink()))
        return sum(end.startswith("socket:") for end in ends) - 1

    def write_faults(self, faults: dict[str, Any]) -> None:
        draft = self.faults_file.with_suffix(".new")
        draft.write_text(json.dumps(faults))
        os.replace(draft, self.faults_file)

    def set_faults(self, faults: dict[str, Any]) -> None:
        """Change the faults and wait until they are active."""
        before = self.log.read_text().count("active faults")
        self.write_faults(faults)
        wait_until(lambda: self.log.read_text().count("active faults") > before)

    def get(self, path: str, timeout: float = 10.0) -> tuple[int, bytes]:
        url = f"http://127.0.0.1:{self.port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=timeout * PATIENCE) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def stats(self) -> dict[str, list[dict[str, float]]]:
        status, body = self.get("/worker/stats")
        assert status == 200, body
        answer: dict[str, list[dict[str, float]]] = json.loads(body)
        return answer

    def totals(self) -> tuple[float, float]:
        """Successful and failed of all workers."""
        answer = self.stats()
        return answer["SuccessfulRequests"][0]["total"], answer["FailedRequests"][0]["total"]

    def terminate(self, timeout: float = 15.0) -> int:
        self.process.terminate()
        return self.ended(timeout)

    def ended(self, timeout: float = 10.0) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(timeout * PATIENCE)


@contextlib.contextmanager
def exclusively(path: Path, seconds: float | None = None) -> Iterator[None]:
    """Somebody holds the database for so long from now on, or while the block runs."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10 * PATIENCE)
    connection.execute("BEGIN EXCLUSIVE")
    timer = threading.Timer(seconds or 0.0, lambda: connection.execute("ROLLBACK"))
    if seconds is not None:
        timer.start()
    try:
        yield
    finally:
        if seconds is not None:
            timer.join()
        connection.close()


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """One answer with Content-Length; IncompleteReadError when it was cut short."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    assert length is not None
    return int(head[9:12]), await reader.readexactly(int(length[1]))


class Clients:
    """Keep-alive clients that count each complete answer they saw; `cut` are requests without one."""

    def __init__(self) -> None:
        self.seen: Counter[int] = Counter()
        self.cut = 0
        self.refused = 0
        self.sent = 0
        self.stopping = False

    async def one(self, port: int, requests: int) -> None:
        """One client; negative `requests`: until stopped or cut off."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            self.refused += 1
            return
        try:
            while requests and not self.stopping:
                requests -= 1
                self.sent += 1
                try:
                    writer.write(HELLO)
                    status, _ = await read_answer(reader)
                except (OSError, asyncio.IncompleteReadError):
                    self.cut += 1
                    return
                self.seen[status] += 1
        finally:
            writer.close()

    async def all_asked(self, worker: Worker, clients: int) -> None:
        """Return when each of so many clients has sent a request, and the worker has accepted its connection."""
        async with asyncio.timeout(30 * PATIENCE):
            while self.sent < clients or worker.connections() < clients:
                await asyncio.sleep(0.01)

    async def many(self, ports: list[int], clients: int, requests: int) -> None:
        await asyncio.gather(*(self.one(ports[number % len(ports)], requests) for number in range(clients)))


def exchange(worker: Worker, request: bytes = HELLO, timeout: float = 10.0 * PATIENCE) -> bytes:
    """Everything that comes until the worker closes; OSError when it resets."""
    with socket.create_connection(("127.0.0.1", worker.port), timeout=timeout) as client:
        client.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        received = b""
        while piece := client.recv(65536):
            received += piece
        return received


def injections(worker: Worker) -> Any:
    return json.loads(database.report(str(worker.database)))["workers"][0]["injections"]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100.0


def counted(path: Path) -> tuple[int, int]:
    """Successful and failed of all rows, read from outside."""
    answer = json.loads(database.stats(str(path)))
    return answer["SuccessfulRequests"][0]["total"], answer["FailedRequests"][0]["total"]
