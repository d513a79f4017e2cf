"""Is it ready? Asked over HTTP, by `requests`, until it answers with a status from 200 to 399.

Each attempt runs on a thread of a small pool; between two attempts a replica costs nothing. Not every connection refused is news: a
starting worker refuses, resets (Docker's proxy accepts before the worker does) or is slow, and is simply asked again.
"""

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor

import requests

from comet.drivers.base import Sink
from comet.observation import Ready

PAUSE = 0.025
"""Seconds between two attempts; what it adds to a start is half of that on average."""

SLOW_PAUSE = 0.25
"""Seconds between two attempts once a start has taken 5 s."""

PATIENT_ATTEMPTS = 200

LISTENING = "X-Comet-Listening"


class Prober:
    """Asks the replicas it is told to watch, and tells the sink `Ready` once for each."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sink: Sink, timeout: float) -> None:
        self._loop = loop
        self._sink = sink
        self.timeout = timeout
        self._pool = ThreadPoolExecutor(16, thread_name_prefix="probe")
        self._wanted: dict[str, tuple[int, str]] = {}
        self._closed = False

    def watch(self, name: str, instance: int, url: str) -> None:
        """Ask `url` until it answers, another instance or place is watched under this name, or `forget` is called."""
        self._wanted[name] = instance, url
        self._ask(name, instance, url, 0)

    async def passes(self, url: str, timeout: float) -> bool:
        """Whether it answers one of two questions."""
        for _ in range(2):
            if await self._loop.run_in_executor(self._pool, answers, url, timeout) is not None:
                return True
        return False

    def forget(self, name: str) -> None:
        self._wanted.pop(name, None)

    def close(self) -> None:
        self._closed = True
        self._wanted.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, name: str, instance: int, url: str, attempt: int) -> None:
        if self._wanted.get(name) != (instance, url):
            return
        future = self._loop.run_in_executor(self._pool, answers, url, self.timeout)
        future.add_done_callback(lambda done: self._answered(done, name, instance, url, attempt))

    def _answered(self, done: "asyncio.Future[Ready | None]", name: str, instance: int, url: str, attempt: int) -> None:
        if self._closed or done.cancelled() or self._wanted.get(name) != (instance, url):
            return
        answer = None if done.exception() is not None else done.result()
        if answer is not None:
            del self._wanted[name]
            self._sink(name, instance, answer)
            return
        pause = PAUSE if attempt < PATIENT_ATTEMPTS else SLOW_PAUSE
        self._loop.call_later(pause, self._ask, name, instance, url, attempt + 1)


def answers(url: str, timeout: float) -> Ready | None:
    """Whether a GET of `url` is answered with a status from 200 to 399 within `timeout` seconds: as the load balancers' checks see it.

    The built-in worker tells in a field when it began to listen, on the monotonic clock that containers and host share.
    """
    headers = {"Connection": "close", "User-Agent": "comet-probe"}
    # A session of its own: no proxy settings of the environment, no connection kept to a replica that may be replaced.
    with contextlib.suppress(requests.RequestException), requests.Session() as session:
        session.trust_env = False
        with session.get(url, timeout=timeout, headers=headers, allow_redirects=False, stream=True) as answer:
            if 200 <= answer.status_code < 400:
                return Ready(_moment(answer.headers.get(LISTENING, "")))
    return None


def _moment(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
