"""Active health checks: each upstream is asked for its `health_path` on a connection of its own, all independently of each other.

A check passes when a status of 200 to 399 arrives within `health_timeout`, connecting included; so a worker that hangs delays
nobody's check but its own. Between checks lie `health_interval` seconds, 1 s while a state is changing. First checks are spread
over the interval, so that a cluster is not asked all at once. What a check means is judged in `lb.upstream` and `lb.proxy`.

What is no upstream any more is asked on, at once and every second, while requests are in flight on it. A process that ends closes its
connections; a machine that is gone says nothing, not even that, and nobody else watches it for those who wait.
"""

import asyncio
import contextlib
import errno
import re
from typing import Final, NamedTuple, cast

from lb.proxy import Proxy
from lb.upstream import Upstream

QUICK: Final = 1.0  # seconds between checks while a state is changing
_UNREACHABLE: Final = frozenset((errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN))
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-9][0-9][0-9])[ \r]").match


class Finding(NamedTuple):
    """How a check ended: why it failed, in a few words (empty: it passed), and whether there was no sign of life at all."""

    reason: str
    silent: bool = False


class Probe(asyncio.Protocol):
    """One check: sends the request, completes `result` with the status code, or 0 when the connection ended without one."""

    def __init__(self, request: bytes, result: asyncio.Future[int]) -> None:
        self._request = request
        self._result = result
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self._data += data[:64]
        if len(self._data) >= 13:
            match = _STATUS(self._data)
            self._finish(int(match[1]) if match else 0)

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish(0)

    def _finish(self, status: int) -> None:
        if not self._result.done():
            self._result.set_result(status)


async def probe(upstream: Upstream, path: str, timeout: float) -> Finding:
    """Ask once."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[int] = loop.create_future()
    host = f"[{upstream.host}]" if ":" in upstream.host else upstream.host
    request = f"GET {path} HTTP/1.1\r\nHost: {host}:{upstream.port}\r\nUser-Agent: comet-health\r\nConnection: close\r\n\r\n"
    transport: asyncio.BaseTransport | None = None
    try:
        async with asyncio.timeout(timeout):
            transport, _ = await loop.create_connection(lambda: Probe(request.encode(), result), *upstream.address)
            status = await result
    except ConnectionRefusedError:
        return Finding("connection refused")
    except TimeoutError:
        return Finding(f"no answer in {timeout:g} s", silent=True)
    except (OSError, ValueError) as error:  # ValueError: a host that cannot be one
        words = getattr(error, "strerror", None) or type(error).__name__
        return Finding(words, silent=getattr(error, "errno", None) in _UNREACHABLE)
    finally:
        if transport is not None:
            transport.close()
    if 200 <= status < 400:
        return Finding("")
    return Finding(f"status {status}" if status else "closed without an answer")


class HealthChecker:
    """Runs a check loop per upstream. `check_now` cuts a pause short."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._loops: dict[Upstream, asyncio.Task[None]] = {}
        self._urgent: dict[Upstream, asyncio.Event] = {}
        self._former: set[Upstream] = set()

    def follow(self) -> None:
        """Check those that are upstreams now, and those that were and are still waited for."""
        order = self._proxy.pool.order
        for upstream in [each for each in self._loops if each not in order and each not in self._former]:
            if upstream.in_flight:
                self._former.add(upstream)
                self._urgent[upstream].set()
            else:
                self._loops[upstream].cancel()
                self._forget(upstream)
        for place, upstream in enumerate(order):
            if upstream not in self._loops:
                delay = self._proxy.settings.health_interval * (place + 1) / len(order)
                self._urgent[upstream] = asyncio.Event()
                self._loops[upstream] = asyncio.get_running_loop().create_task(self._watch(upstream, delay))

    def check_now(self, upstream: Upstream) -> None:
        """Ask at once: a sign needs a decision."""
        if (urgent := self._urgent.get(upstream)) is not None:
            urgent.set()

    def stop(self) -> None:
        """End all checks."""
        for task in self._loops.values():
            task.cancel()
        self._loops.clear()
        self._urgent.clear()
        self._former.clear()

    def _forget(self, upstream: Upstream) -> None:
        self._former.discard(upstream)
        del self._loops[upstream], self._urgent[upstream]

    async def _watch(self, upstream: Upstream, delay: float) -> None:
        urgent, silences = self._urgent[upstream], 0
        while True:
            with contextlib.suppress(TimeoutError):  # Not wait_for: before Python 3.12 it may swallow `stop`'s cancellation.
                async with asyncio.timeout(delay):
                    await urgent.wait()
            urgent.clear()
            settings = self._proxy.settings
            reason, silent = await probe(upstream, upstream.health_path or settings.health_path, settings.health_timeout)
            if upstream in self._former:
                silences = silences + 1 if silent else 0
                if silences >= settings.health_fall:
                    self._proxy.forsake(upstream)
                if not upstream.in_flight:
                    return self._forget(upstream)
                delay = QUICK
                continue
            self._proxy.checked(upstream, not reason, reason or "healthy")
            quick = upstream.judge.changing or upstream.suspect
            delay = min(QUICK, settings.health_interval) if quick else settings.health_interval
