"""Runs blocking work for many replicas: in order for each name, in parallel for different names."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

Work = Callable[[], None]


class KeyedWorkQueues:
    """A queue of work per name over a shared pool of threads.

    Work should not raise; an exception is passed to `failed`.
    """

    def __init__(self, threads: int, failed: Callable[[str, Exception], None]) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="lane")
        self._failed = failed
        self._lock = threading.Lock()
        self._queues: dict[str, deque[Work]] = {}
        self._closed = False

    def put(self, name: str, work: Work) -> None:
        """Queue work after what is already queued for `name`."""
        with self._lock:
            if self._closed:
                return
            queue = self._queues.get(name)
            if queue is not None:
                queue.append(work)
                return
            self._queues[name] = deque((work,))
            self._pool.submit(self._run, name)

    async def call(self, name: str, work: Work, timeout: float | None = None) -> None:
        """Queue work and return when it is done; raise what it raises.

        Raise TimeoutError after `timeout` seconds: work that has not begun by then never does.
        """
        done: Future[None] = Future()

        def carry_out() -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                work()
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(None)

        self.put(name, carry_out)
        async with asyncio.timeout(timeout):
            await asyncio.wrap_future(done)

    def close(self) -> None:
        """Accept no more work, without waiting for work that runs."""
        with self._lock:
            self._closed = True
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
