"""One kill and what a client sees of it: the time to the next 200, and every refused or broken attempt on the way there."""

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from scripts.bench.proc import BenchError

PAUSE = 0.0002  # seconds between two attempts: a client in a hurry that still leaves the core to others
GIVE_UP = 30.0


def ask(port: int, path: str, timeout: float = 10.0) -> str:
    """One GET on a connection of its own: "200" or another status, "refused", "broken" or "timeout"."""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
            connection.sendall(request)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "timeout"
    except OSError:
        return "broken"
    return answer[9:12].decode() if answer.startswith(b"HTTP/1.1 ") and b"\r\n\r\n" in answer else "broken"


@dataclass(frozen=True)
class Target:
    """What is killed and where it is missed. `beside` is a port through which nothing should be seen of it (an LB before a worker)."""

    name: str
    what: str
    port: int
    path: str
    pid: Callable[[], int | None]
    beside: int | None = None


@dataclass
class Outcome:
    """Milliseconds from the kill to death and to the first 200 (None: it did not come), and what the attempts in between met."""

    at: float
    died_ms: float
    answer_ms: float | None
    attempts: dict[str, int] = field(default_factory=dict)
    beside: dict[str, int] = field(default_factory=dict)


class Bystander(threading.Thread):
    """Asks through another port all the while, and counts the answers."""

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
    """Kill by SIGKILL; when the death was seen (a pidfd tells), in monotonic seconds. On a busy machine it takes its time.
    ProcessLookupError: it is dead already. BenchError: it does not die."""
    descriptor = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        if not select.select([descriptor], [], [], 10)[0]:
            raise BenchError(f"process {pid} does not die")
        return time.monotonic()
    finally:
        os.close(descriptor)


def kill(target: Target) -> Outcome:
    """Kill by SIGKILL, wait for the death, ask until the answer is 200 or GIVE_UP is over. BenchError: nothing to kill."""
    pid = target.pid()
    if pid is None:
        raise BenchError(f"{target.name}: no process to kill")
    bystander = Bystander(target.beside, target.path) if target.beside is not None else None
    if bystander is not None:
        bystander.start()
    at, began = time.time(), time.monotonic()
    died = kill_and_wait(pid)
    attempts: dict[str, int] = {}
    answered: float | None = None
    while answered is None and time.monotonic() < began + GIVE_UP:
        answer = ask(target.port, target.path)
        if answer == "200":
            answered = time.monotonic()
        else:
            attempts[answer] = attempts.get(answer, 0) + 1
            time.sleep(PAUSE)
    seen = bystander.finish() if bystander is not None else {}
    return Outcome(at, (died - began) * 1000, None if answered is None else (answered - began) * 1000, attempts, seen)
