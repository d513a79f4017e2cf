"""A crowd of clients on a test machine: each asks for one safe request after another, and keeps what it got."""

import http.client
import threading
import time
from collections import Counter
from contextlib import suppress
from types import TracebackType

from tests.support.overload import is_overload
from tests.swarm.hosts import Hosts

CLIENTS = 6


class ClosedModel:
    """Clients on machine `number`, spread over these local ports, from the block's begin to its end. `answers` counts
    200s and 500s, others in the words of who gave them, and errors by name; `moments` has each answer's end (monotonic
    seconds), its wait (s) and its worker; `slowest` is the longest wait (s).
    """

    def __init__(self, lab: Hosts, number: int, ports: list[int], clients: int = CLIENTS, pause: float = 0.02) -> None:
        self._lab = lab
        self._number = number
        self._ports = ports
        self._clients = clients
        self._pause = pause
        self._end = threading.Event()
        self._threads: list[threading.Thread] = []
        self._noting = threading.Lock()
        self.answers: Counter[str] = Counter()
        self.by_worker: Counter[str] = Counter()
        self.moments: list[tuple[float, float, str]] = []
        self.slowest = 0.0

    @property
    def failures(self) -> dict[str, int]:
        return {told: count for told, count in self.answers.items() if told != "200"}

    def __enter__(self) -> "ClosedModel":
        def begin() -> None:
            for index in range(self._clients):
                thread = threading.Thread(target=self._ask, args=(self._ports[index % len(self._ports)],), daemon=True)
                thread.start()
                self._threads.append(thread)

        self._lab.within(self._number, begin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _ask(self, port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=45)
        while not self._end.is_set():
            began, worker = time.monotonic(), ""
            try:
                connection.request("GET", "/api/v1/hello")
                answer = connection.getresponse()
                body = answer.read()
                if is_overload(answer.status, body.decode(errors="replace"), time.monotonic() - began):
                    continue
                told, worker = str(answer.status), answer.headers.get("X-Comet-Worker", "")
                if answer.status not in (200, 500):
                    told = (
                        f"{told} {body.decode(errors='replace').strip()} by {answer.headers.get('X-Comet-LB')} {worker}"
                    ).rstrip()
            except (OSError, http.client.HTTPException) as error:
                told = type(error).__name__
                with suppress(OSError):
                    connection.close()
            ended = time.monotonic()
            with self._noting:  # An addition reads and writes, and another thread may come in between.
                self.answers[told] += 1
                self.by_worker[worker] += told == "200"
                self.moments.append((ended, ended - began, worker))
                self.slowest = max(self.slowest, ended - began)
            self._end.wait(self._pause)
        connection.close()
