"""Kills one process and measures what clients see of it: the time to the next 200, and every failed attempt before it.

Attempts follow each other, but an attempt without a quick answer is left waiting while the next one starts: a published
port may accept and stay silent while its container starts (the engine's proxy repeats its SYN after a second), and such
an attempt must not delay later ones.
"""

import os
import select
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from scripts.bench.proc import BenchError

PAUSE = 0.0002  # seconds between two attempts: a client in a hurry that still leaves the core to others
KILL_TIMEOUT = 30.0
QUICK_ANSWER = 0.02  # seconds that an attempt is waited for before the next one goes
ANSWER_TIMEOUT = 10.0  # seconds until an attempt is over without an answer


class Attempt:
    """One GET on its own connection; it is over when `word` is "200" or another status, "refused", "broken" or
    "timeout".
    """

    def __init__(self, port: int, path: str) -> None:
        self.word = ""
        self.at = 0.0
        self._answer = b""
        self._began = time.monotonic()
        self._socket = socket.socket()
        self._socket.settimeout(ANSWER_TIMEOUT)
        self._request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode()
        try:
            self._socket.connect(("127.0.0.1", port))
            self._socket.sendall(self._request)
        except ConnectionRefusedError:
            self._end("refused")
        except TimeoutError:
            self._end("timeout")
        except OSError:
            self._end("broken")

    def advance(self, seconds: float) -> str:
        """Wait for the answer for at most `seconds`, and read what has come; return `word`."""
        until = time.monotonic() + seconds
        while not self.word:
            if time.monotonic() > self._began + ANSWER_TIMEOUT:
                self._end("timeout")
            elif not select.select([self._socket], [], [], max(0.0, until - time.monotonic()))[0]:
                break
            else:
                self._read()
        return self.word

    def close(self) -> None:
        self._socket.close()

    def _read(self) -> None:
        try:
            piece = self._socket.recv(65536)
        except OSError:
            self._end("broken")
            return
        self._answer += piece
        if not piece:
            whole = self._answer.startswith(b"HTTP/1.1 ") and b"\r\n\r\n" in self._answer
            self._end(self._answer[9:12].decode() if whole else "broken")

    def _end(self, word: str) -> None:
        self.word, self.at = word, time.monotonic()
        self.close()


def ask(port: int, path: str) -> str:
    """Run one attempt to its end."""
    attempt = Attempt(port, path)
    return attempt.advance(ANSWER_TIMEOUT + 1)


def first_200(port: int, path: str, seconds: float, wait_for_all: bool = False) -> tuple[float | None, dict[str, int]]:
    """Send requests until an answer is 200, for at most `seconds`.

    Return its time (monotonic), and the failed attempts before it by kind. With `wait_for_all` the attempts still open
    then are waited for.
    """
    met: Counter[str] = Counter()
    waiting: list[Attempt] = []
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until:
            attempt = Attempt(port, path)
            waiting.append(attempt)
            attempt.advance(QUICK_ANSWER)
            for each in waiting:
                each.advance(0)
            if good := [each.at for each in waiting if each.word == "200"]:
                if wait_for_all:
                    met.update(each.advance(ANSWER_TIMEOUT + 1) for each in waiting)
                    del met["200"]
                return min(good), dict(met)
            met.update(each.word for each in waiting if each.word)
            waiting = [each for each in waiting if not each.word]
            if attempt.word:
                time.sleep(PAUSE)
    finally:
        for each in waiting:
            each.close()
    return None, dict(met)


@dataclass(frozen=True)
class Target:
    """The process to kill and the port where it is missed. `beside` is a port where nothing of the kill should be seen
    (a load balancer in front of a worker).
    """

    name: str
    what: str
    port: int
    path: str
    pid: Callable[[], int | None]
    beside: int | None = None


@dataclass
class Outcome:
    """Milliseconds from the kill to the death and to the first 200 (None: none), and the failed attempts meanwhile by
    kind.
    """

    at: float
    died_ms: float
    answer_ms: float | None
    attempts: dict[str, int] = field(default_factory=dict)
    beside: dict[str, int] = field(default_factory=dict)


class Bystander(threading.Thread):
    """Sends requests to another port meanwhile, and counts the answers."""

    def __init__(self, port: int, path: str) -> None:
        super().__init__(daemon=True)
        self._port, self._path = port, path
        self._over = threading.Event()
        self.seen: dict[str, int] = {}

    def run(self) -> None:
        while not self._over.is_set():
            answer = ask(self._port, self._path)
            self.seen[answer] = self.seen.get(answer, 0) + 1
            time.sleep(0.005)

    def finish(self) -> dict[str, int]:
        self._over.set()
        self.join()
        return self.seen


def kill_and_wait(pid: int) -> float:
    """Kill with SIGKILL and return the time of death (monotonic), which a pidfd reports.

    On a busy machine a death takes a while. ProcessLookupError if the process is dead already, BenchError if it does
    not die.
    """
    descriptor = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        if not select.select([descriptor], [], [], 10)[0]:
            raise BenchError(f"process {pid} does not die")
        return time.monotonic()
    finally:
        os.close(descriptor)


def kill(target: Target) -> Outcome:
    """Kill with SIGKILL, wait for the death, and send requests until the answer is 200 or GIVE_UP has passed.
    BenchError if there is nothing to kill.
    """
    pid = target.pid()
    if pid is None:
        raise BenchError(f"{target.name}: no process to kill")
    bystander = Bystander(target.beside, target.path) if target.beside is not None else None
    if bystander is not None:
        bystander.start()
    at, began = time.time(), time.monotonic()
    died = kill_and_wait(pid)
    answered, attempts = first_200(target.port, target.path, KILL_TIMEOUT)
    seen = bystander.finish() if bystander is not None else {}
    return Outcome(at, (died - began) * 1000, None if answered is None else (answered - began) * 1000, attempts, seen)
