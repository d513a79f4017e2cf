"""Handles one request for `/api/v1/hello` from its arrival to its response, without a thread while it waits.

The steps: admitted, [waiting for a free place], delayed, [using processor time], response built, committed, sent. Each
step is a call on the event loop; the commit queue commits and calls `on_committed`. A request that hangs or is reset
ends early: it changes the side counters and is not counted.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from fault_rules import Sample
from worker_app.http.connection import Channel, JsonTask
from worker_app.stats.batch import Record
from worker_app.stats.commit_queue import COMMIT_TIMEOUT
from worker_app.stats.layout import ID_LENGTH

if TYPE_CHECKING:
    from worker_app.http.server import WorkerServer

ENVIRON_KEY = "comet.exchange"
UNAVAILABLE = b'{"error":"statistics unavailable"}'
INTERNAL = b'{"error":"internal server error"}'
SLOW_BODY_INTERVAL = 0.1
"""Seconds between two parts of a slow body."""


class Exchange:
    """One request; `sample` selects the response, and the application sets `unplanned` on an exception."""

    __slots__ = (
        "_arrived",
        "_body_left",
        "_data",
        "_server",
        "_task",
        "channel",
        "deadline",
        "record",
        "request",
        "sample",
        "unplanned",
    )

    record: Record
    deadline: float

    def __init__(self, server: WorkerServer, channel: Channel, sample: Sample) -> None:
        self._server = server
        self._arrived = time.monotonic()
        self._data = b""
        self._body_left = b""
        self._task: Any = None
        self.channel = channel
        self.request = channel.requests[0]
        channel.counted = True
        self.sample = sample
        self.unplanned = False

    def start(self) -> None:
        """Start serving: a place is free."""
        kind = self.sample.kind
        if kind == "hang":
            self._server.note_injection("hang")
            self.channel.announce("hang")
            self.channel.hanging = True
            self.channel.on_close = self._end
            self.channel.refresh()
        elif kind == "reset":
            self._server.note_injection("reset")
            self.channel.announce("reset")
            self.channel.reset()
            self._server.done(self)
        elif self.sample.delay > 0.0:
            self._server.call_after(self.sample.delay, self.after_delay)
        else:
            self.after_delay()

    def after_delay(self) -> None:
        cpu_ms = self.sample.settings.cpu
        if cpu_ms > 0.0:
            self._server.use_cpu(cpu_ms / 1000.0, self.build_response)
        else:
            self.build_response()

    def build_response(self) -> None:
        """Let the application build the response, and submit the request to be counted."""
        task = self.channel.application_task(self.request)
        try:
            task.get_environment()[ENVIRON_KEY] = self
            self._data = self.channel.run_task(task)
        except Exception:
            self._server.log_exception(self.request)
            self.unplanned = True
            task = JsonTask(self.channel, self.request, "500 Internal Server Error", INTERNAL)
            self._data = self.channel.run_task(task)
        self._task = task
        now = time.monotonic()
        self.deadline = now + COMMIT_TIMEOUT
        failed = self.unplanned or self.sample.kind is not None
        self.record = Record(failed, round((now - self._arrived) * 1e6), self.unplanned, self._injected(), self._id())
        self._server.to_commit.append(self)

    def _injected(self) -> tuple[str, ...]:
        settings = self.sample.settings
        kinds = [] if self.sample.kind is None else [self.sample.kind]
        if settings.slow_body > 0.0:
            kinds.append("slow-body")
        if settings.cpu > 0.0:
            kinds.append("cpu")
        return tuple(kinds)

    def _id(self) -> str | None:
        """Return the request id to store, or None where request ids are not stored."""
        if not self._server.keep_request_ids:
            return None
        given: str = self.request.headers.get("X_REQUEST_ID", "")
        # PostgreSQL text cannot contain NUL.
        return given.replace("\0", "")[:ID_LENGTH]

    def on_committed(self, committed: bool) -> None:
        """Send the response, or 503 if the request could not be counted."""
        channel = self.channel
        if not committed:
            self._task = JsonTask(channel, self.request, "503 Service Unavailable", UNAVAILABLE)
            self._data = channel.run_task(self._task)
        if self.sample.kind == "truncate" and committed:
            end = self._data.index(b"\r\n\r\n") + 4
            channel.send_part(self._data[: end + (len(self._data) - end) // 2])
            channel.finish_request(close=True)
        elif self.sample.settings.slow_body > 0.0 and committed:
            end = self._data.index(b"\r\n\r\n") + 4
            self._body_left = self._data[end:]
            channel.send_part(self._data[:end])
            self._send_slowly()
            return
        else:
            channel.respond(self._data, self._task)
        self._server.done(self)

    def _end(self) -> None:
        self._server.done(self)

    def _send_slowly(self) -> None:
        rate = self.sample.settings.slow_body
        step = max(SLOW_BODY_INTERVAL, 1.0 / rate)
        size = max(1, round(rate * step))
        piece, self._body_left = self._body_left[:size], self._body_left[size:]
        if not self.channel.send_part(piece) or not self._body_left:
            self.channel.finish_request(self._task.close_on_finish)
            self._server.done(self)
            return
        self.channel.refresh()
        self._server.loop.call_at(time.monotonic() + step, self._send_slowly)
