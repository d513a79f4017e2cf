"""One request for `/api/v1/hello` from its arrival to its answer, without a thread of its own while it waits.

admitted -> [waits for a place] -> delayed -> [burns] -> made -> committed -> sent. Each step is a call on the event loop; the
commit is the ledger's and comes back as `settled`. A draw that hangs or resets ends early and is noted, not counted.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from worker_app.channel import Channel, JsonTask
from worker_app.draws import Draw
from worker_app.layout import ID_LENGTH
from worker_app.ledger import VERDICT
from worker_app.tally import Record

if TYPE_CHECKING:
    from worker_app.server import WorkerServer

ENVIRON_KEY = "comet.exchange"
UNAVAILABLE = b'{"error":"statistics unavailable"}'
INTERNAL = b'{"error":"internal server error"}'
SLOW_STEP = 0.1  # seconds between two pieces of a slow body


class Exchange:
    """`draw` says what the application is to answer; it sets `unplanned` when it met an exception of its own."""

    __slots__ = ("_arrived", "_body_left", "_data", "_server", "_task", "channel", "deadline", "draw", "record", "request", "unplanned")

    record: Record
    deadline: float

    def __init__(self, server: WorkerServer, channel: Channel, draw: Draw) -> None:
        self._server = server
        self._arrived = time.monotonic()
        self._data = b""
        self._body_left = b""
        self._task: Any = None
        self.channel = channel
        self.request = channel.requests[0]
        channel.counted = True
        self.draw = draw
        self.unplanned = False

    def begin(self) -> None:
        """A place is free."""
        kind = self.draw.kind
        if kind == "hang":
            self._server.note_injection("hang")
            self.channel.hanging = True
            self.channel.on_close = self._end
            self.channel.refresh()
        elif kind == "reset":
            self._server.note_injection("reset")
            self.channel.abort()
            self._server.done(self)
        elif self.draw.delay > 0.0:
            self._server.call_after(self.draw.delay, self.after_delay)
        else:
            self.after_delay()

    def after_delay(self) -> None:
        burn = self.draw.settings.cpu
        if burn > 0.0:
            self._server.burn(burn / 1000.0, self.make)
        else:
            self.make()

    def make(self) -> None:
        """Let the application make the answer, and hand the request in to be counted."""
        task = self.channel.application_task(self.request)
        try:
            task.get_environment()[ENVIRON_KEY] = self
            self._data = self.channel.make(task)
        except Exception:
            self._server.log_exception(self.request)
            self.unplanned = True
            task = JsonTask(self.channel, self.request, "500 Internal Server Error", INTERNAL)
            self._data = self.channel.make(task)
        self._task = task
        now = time.monotonic()
        self.deadline = now + VERDICT
        failed = self.unplanned or self.draw.kind is not None
        self.record = Record(failed, round((now - self._arrived) * 1e6), self.unplanned, self._injected(), self._id())
        self._server.to_commit.append(self)

    def _injected(self) -> tuple[str, ...]:
        settings = self.draw.settings
        kinds = [] if self.draw.kind is None else [self.draw.kind]
        if settings.slow_body > 0.0:
            kinds.append("slow-body")
        if settings.cpu > 0.0:
            kinds.append("cpu")
        return tuple(kinds)

    def _id(self) -> str | None:
        """What the request is kept by, where requests are kept one by one."""
        if not self._server.keeps_requests:
            return None
        given: str = self.request.headers.get("X_REQUEST_ID", "")
        # PostgreSQL's text has no NUL.
        return given.replace("\0", "")[:ID_LENGTH]

    def settled(self, committed: bool) -> None:
        """The ledger's word: send what was made, or that it could not be counted."""
        channel = self.channel
        if not committed:
            self._task = JsonTask(channel, self.request, "503 Service Unavailable", UNAVAILABLE)
            self._data = channel.make(self._task)
        if self.draw.kind == "truncate" and committed:
            end = self._data.index(b"\r\n\r\n") + 4
            channel.send_part(self._data[: end + (len(self._data) - end) // 2])
            channel.finish(close=True)
        elif self.draw.settings.slow_body > 0.0 and committed:
            end = self._data.index(b"\r\n\r\n") + 4
            self._body_left = self._data[end:]
            channel.send_part(self._data[:end])
            self._drip()
            return
        else:
            channel.answer(self._data, self._task)
        self._server.done(self)

    def _end(self) -> None:
        self._server.done(self)

    def _drip(self) -> None:
        rate = self.draw.settings.slow_body
        step = max(SLOW_STEP, 1.0 / rate)
        size = max(1, round(rate * step))
        piece, self._body_left = self._body_left[:size], self._body_left[size:]
        if not self.channel.send_part(piece) or not self._body_left:
            self.channel.finish(self._task.close_on_finish)
            self._server.done(self)
            return
        self.channel.refresh()
        self._server.loop.call_at(time.monotonic() + step, self._drip)
