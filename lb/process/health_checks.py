"""Runs active health checks: requests the `health_path` of each upstream, independently of the others.

Each check has its own connection. It passes if a status of `health_status` arrives within `health_timeout`, which
includes connecting. A worker that hangs delays no check but its own. The interval between checks is
`health_interval`, or 1 s while a state is changing. The first checks are spread over the interval, so that a cluster
is not checked all at once. A worker may say in its answer how much of its counted faults is left (COUNTS_FIELD): the
supervisor shows that. `lb.proxy.upstream_pool` and `lb.proxy.dispatcher` decide what a check means.

An upstream that was removed is still checked, at once and every second, while requests are in flight on it. A process
that ends closes its connections, but an unreachable machine does not even do that, and only these checks notice it for
the requests that wait.
"""

import asyncio
import contextlib
import errno
import re
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple, cast

from fault_rules import COUNTS_FIELD, read_counts
from lb.interface.settings import Settings, is_among, parse_statuses
from lb.proxy.dialer import Dialer
from lb.proxy.dispatcher import Dispatcher
from lb.proxy.upstream_pool import Upstream
from lb.system.shortage import is_local_shortage

QUICK_INTERVAL: Final = 1.0
"""Seconds between checks while a state is changing."""

_UNREACHABLE: Final = frozenset((errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN))

MAX_READ: Final = 256
"""Bytes of a response within which its status has to be."""

MAX_FIELDS: Final = 8192
"""Bytes at the beginning of a response in which fields are looked for, as far as they come together with the status.

An interim response may have as many.
"""

_NO_COUNTS: Final[Mapping[str, int]] = MappingProxyType({})
_COUNTS = re.compile(rb"\r\n%b:[ \t]*([ -~]*)\r\n" % COUNTS_FIELD.encode(), re.IGNORECASE).search

_STATUS = re.compile(rb"[\r\n]*HTTP/1\.[0-9][ \t]+([1-9][0-9][0-9])[ \t\r\n]").match
_VALID_PREFIX = re.compile(rb"[\r\n]*(?:HTTP/1\.?[^\r\n]*|HTTP/?|HTT?|H?)").fullmatch


def _is_interim(status: re.Match[bytes]) -> bool:
    """Return whether a final response follows (RFC 9110 section 15.2); none does after 101."""
    return status[1].startswith(b"1") and status[1] != b"101"


class CheckResult(NamedTuple):
    """Result of a check.

    `reason` is why it failed (empty: it passed). `silent` means no sign of life at all. `own` means that a shortage on
    this side prevented the check, which says nothing about the upstream. `counts_left` is what the upstream says of its
    counted leases.
    """

    reason: str
    silent: bool = False
    own: bool = False
    counts_left: Mapping[str, int] = _NO_COUNTS


class Probe(asyncio.Protocol):
    """One check: sends the request and completes `result`."""

    def __init__(self, request: bytes, statuses: list[tuple[int, int]], result: asyncio.Future[CheckResult]) -> None:
        self._request = request
        self._statuses = statuses
        self._result = result
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        came = self._data + data
        while (match := _STATUS(came[:MAX_READ])) is not None and _is_interim(match):
            _, end, rest = came.partition(b"\r\n\r\n")
            if not end:
                break
            came = rest
        self._data = came[:MAX_FIELDS]
        if match is None:
            if len(came) >= MAX_READ or not _VALID_PREFIX(came):
                self._finish(f"no HTTP answer: {came[:32]!r}")
        elif not _is_interim(match):
            head, end, _ = self._data.partition(b"\r\n\r\n")
            counts = _COUNTS(head + end)
            left = _NO_COUNTS if counts is None else read_counts(counts[1].decode())
            self._finish("" if is_among(int(match[1]), self._statuses) else f"status {int(match[1])}", left)
        elif len(came) >= MAX_FIELDS:
            self._finish(f"no HTTP answer: {came[:32]!r}")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._data:
            self._finish(f"no HTTP answer: {self._data[:32]!r}")
        else:
            self._finish("connection reset" if exc is not None else "closed without an answer")

    def _finish(self, reason: str, counts_left: Mapping[str, int] = _NO_COUNTS) -> None:
        if not self._result.done():
            self._result.set_result(CheckResult(reason, counts_left=counts_left))


async def probe(dialer: Dialer, upstream: Upstream, settings: Settings) -> CheckResult:
    """Make one check."""
    result: asyncio.Future[CheckResult] = asyncio.get_running_loop().create_future()
    path = upstream.health_path or settings.health_path
    address = f"[{upstream.host}]" if ":" in upstream.host else upstream.host
    host = upstream.health_host or settings.health_host or f"{address}:{upstream.port}"
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: comet-health\r\nConnection: close\r\n\r\n"
    timeout, statuses = settings.health_timeout, parse_statuses(settings.health_status)
    transport: asyncio.BaseTransport | None = None
    try:
        async with asyncio.timeout(timeout):
            transport = await dialer.connect(
                lambda: Probe(request.encode(), statuses, result), *upstream.check_address, timeout
            )
            return await result
    except ConnectionRefusedError:
        return CheckResult("connection refused")
    except TimeoutError:
        return CheckResult(f"no answer in {timeout:g} s", silent=True)
    except (OSError, ValueError, MemoryError) as error:  # ValueError: an invalid host
        words = getattr(error, "strerror", None) or type(error).__name__
        return CheckResult(words, silent=getattr(error, "errno", None) in _UNREACHABLE, own=is_local_shortage(error))
    finally:
        if transport is not None:
            transport.close()


class HealthChecker:
    """Runs a loop of checks per upstream; `check_now` ends its pause."""

    def __init__(self, proxy: Dispatcher) -> None:
        self._proxy = proxy
        self._loops: dict[Upstream, asyncio.Task[None]] = {}
        self._urgent: dict[Upstream, asyncio.Event] = {}
        self._removed: set[Upstream] = set()
        self._durations: dict[str, float] = {}
        self._counts: dict[str, Mapping[str, int]] = {}

    def update(self) -> None:
        """Check the present upstreams, and removed ones for which requests still wait."""
        order = self._proxy.pool.order
        for upstream in [each for each in self._loops if each not in order and each not in self._removed]:
            if upstream.in_flight:
                self._removed.add(upstream)
                self._urgent[upstream].set()
            else:
                self._loops[upstream].cancel()
                self._stop_checks(upstream)
        for place, upstream in enumerate(order):
            if upstream not in self._loops:
                spread = self._proxy.settings.health_interval * (place + 1) / len(order)
                delay = spread if upstream.health.healthy else 0.0
                self._urgent[upstream] = asyncio.Event()
                self._loops[upstream] = asyncio.get_running_loop().create_task(self._run_checks(upstream, delay))

    def check_now(self, upstream: Upstream) -> None:
        """Check at once, because the upstream is suspect."""
        if (urgent := self._urgent.get(upstream)) is not None:
            urgent.set()

    def take_durations(self) -> dict[str, float]:
        """Return how long the last check of each upstream took (ms), of those checked since the last call."""
        taken, self._durations = self._durations, {}
        return taken

    def take_counts(self) -> dict[str, Mapping[str, int]]:
        """Return what upstreams said of their counted leases in the last checks since the last call."""
        taken, self._counts = self._counts, {}
        return taken

    def stop(self) -> None:
        """End all checks."""
        for task in self._loops.values():
            task.cancel()
        self._loops.clear()
        self._urgent.clear()
        self._removed.clear()

    def _stop_checks(self, upstream: Upstream) -> None:
        self._removed.discard(upstream)
        del self._loops[upstream], self._urgent[upstream]

    async def _run_checks(self, upstream: Upstream, delay: float) -> None:
        urgent, silences = self._urgent[upstream], 0
        while True:
            with contextlib.suppress(
                TimeoutError
            ):  # Not wait_for: before Python 3.12 it may swallow `stop`'s cancellation.
                async with asyncio.timeout(delay):
                    await urgent.wait()
            urgent.clear()
            settings = self._proxy.settings
            began = time.monotonic()
            reason, silent, own, counts_left = await probe(self._proxy.dialer, upstream, settings)
            self._durations[upstream.name] = round((time.monotonic() - began) * 1000, 2)
            if counts_left:
                self._counts[upstream.name] = counts_left
            if own:
                self._proxy.on_shortage()
                delay = min(QUICK_INTERVAL, settings.health_interval)
                continue
            if upstream in self._removed:
                silences = silences + 1 if silent else 0
                if silences >= settings.health_fall:
                    self._proxy.fail_over_pending(upstream)
                if not upstream.in_flight:
                    return self._stop_checks(upstream)
                delay = QUICK_INTERVAL
                continue
            if reason and upstream.up_since > began:
                # It concerns what was there before: the upstream came into rotation during the check, and only a later
                # check says something about it.
                delay = min(QUICK_INTERVAL, settings.health_interval)
                continue
            self._proxy.checked(upstream, not reason, reason or "healthy")
            quick = upstream.health.changing or upstream.suspect
            delay = min(QUICK_INTERVAL, settings.health_interval) if quick else settings.health_interval
