"""Real workers for the tests: started as processes on a port from the OS, and clients that keep their own books."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

HELLO = b"GET /api/v1/hello HTTP/1.1\r\nHost: test\r\n\r\n"
QUIET = {"avg-delay": 0, "failure": 0}


def wait_until(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Poll until the condition holds; its last value, or a failed assertion."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


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
        command = [sys.executable, "-m", "worker_app", "--listen", "127.0.0.1:0", "--name", name, "--faults", str(self.faults_file), *args]
        if prelude:  # runs in the worker before anything else
            code = f"{prelude}\nimport sys; from worker_app.__main__ import main; sys.exit(main({command[3:]!r}))"
            command = [sys.executable, "-c", code]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, env={**os.environ, "COMET_DATABASE": url}, stderr=log)
        self.port = 0

    def __enter__(self) -> Worker:
        def listening() -> re.Match[str] | None:
            assert self.process.poll() is None, self.log.read_text()
            return re.search(r"listening on [\d.]+:(\d+)", self.log.read_text())

        self.port = int(wait_until(listening, 20.0)[1])
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait(10)

    @property
    def pid(self) -> int:
        return self.process.pid

    def write_faults(self, faults: dict[str, Any]) -> None:
        draft = self.faults_file.with_suffix(".new")
        draft.write_text(json.dumps(faults))
        os.replace(draft, self.faults_file)

    def set_faults(self, faults: dict[str, Any]) -> None:
        """Change the faults and wait until they are in force."""
        before = self.log.read_text().count("faults in force")
        self.write_faults(faults)
        wait_until(lambda: self.log.read_text().count("faults in force") > before, 2.0)

    def get(self, path: str, timeout: float = 10.0) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=timeout) as answer:
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
        return self.process.wait(timeout)


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

    async def many(self, ports: list[int], clients: int, requests: int) -> None:
        await asyncio.gather(*(self.one(ports[number % len(ports)], requests) for number in range(clients)))
