"""Blocking work for many replicas: in order for each name, side by side for different ones."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

Work = Callable[[], None]


class Lanes:
    """A queue per name over a shared pool of threads. Work must not raise; what it raises is handed to `failed`."""

    def __init__(self, threads: int, failed: Callable[[str, Exception], None]) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="lane")
        self._failed = failed
        self._lock = threading.Lock()
        self._queues: dict[str, deque[Work]] = {}

    def put(self, name: str, work: Work) -> None:
        """Queue work behind what `name` already has."""
        with self._lock:
            queue = self._queues.get(name)
            if queue is not None:
                queue.append(work)
                return
            self._queues[name] = deque((work,))
        self._pool.submit(self._run, name)

    def close(self) -> None:
        """Take no more work; what runs is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, name: str) -> None:
        while True:
            with self._lock:
                queue = self._queues[name]
                if not queue:
                    del self._queues[name]
                    return
                work = queue.popleft()
            try:
                work()
            except Exception as error:
                self._failed(name, error)
