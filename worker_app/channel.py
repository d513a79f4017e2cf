"""A connection: waitress's channel (parsing, output buffers, WSGI tasks) on our event loop.

Differences from waitress's own: interest is told to epoll when it changes instead of asked for before each wait; a request may
rest between its arrival and its answer (delay, commit) without a thread; and an answer is made first (`make`), sent later
(`send`).
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from waitress.channel import ClientDisconnected, HTTPChannel  # type: ignore[import-untyped]
from waitress.task import Task, WSGITask  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from worker_app.server import WorkerServer

READ = select.EPOLLIN | select.EPOLLRDHUP
GONE = select.EPOLLERR | select.EPOLLHUP
LINGER = 2.0  # seconds in which the rest of a refused request is read and dropped (RFC 9112 section 9.6)
_RST_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close sends a RST (socket(7))


class JsonTask(Task):  # type: ignore[misc]
    """An answer of the server itself, beside the application."""

    complete = True

    def __init__(self, channel: Channel, request: Any, status: str, body: bytes, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(channel, request)
        self.status = status
        self.content_length = len(body)
        self.response_headers = [("Content-Type", "application/json"), *headers]
        self._body = body

    def execute(self) -> None:
        self.write(b"" if self.request.command == "HEAD" else self._body)


class Channel(HTTPChannel):  # type: ignore[misc]
    """One connection. All methods run in the loop's thread, but for `service_in_thread` and what waitress calls from it."""

    server: WorkerServer
    requests: list[Any]
    current_outbuf_count: int

    def __init__(self, server: WorkerServer, sock: socket.socket, addr: Any, adj: Any, map: dict[int, Any]) -> None:
        self._mask = 0
        self._captured: list[bytes] | None = None
        self.counted = False  # a request that counts has not been answered to its last byte
        self._lingering = False
        self.hanging = False
        self.on_close: Callable[[], None] | None = None
        super().__init__(server, sock, addr, adj, map=map)

    # waitress's hooks

    def add_channel(self, map: dict[int, Any] | None = None) -> None:
        super().add_channel(map)
        self._mask = READ
        self.server.loop.register(self._fileno, READ, self._on_event)

    def del_channel(self, map: dict[int, Any] | None = None) -> None:
        fd = self._fileno
        super().del_channel(map)
        self.server.loop.unregister(fd)
        self.server.channel_closed()
        on_close, self.on_close = self.on_close, None
        if on_close is not None:
            on_close()

    def write_soon(self, data: Any) -> int:
        if self._captured is None:
            return int(super().write_soon(data))
        if data:
            self._captured.append(data)
        return len(data)

    def handle_close(self) -> None:
        if self.connected and not self.hanging:
            self._note_leaving()
        super().handle_close()

    def _note_leaving(self) -> None:
        if self.counted:
            self.counted = False
            self.server.client_left()

    def handle_read(self) -> None:
        if not self._lingering:
            super().handle_read()
            return
        try:
            self.recv(self.adj.recv_bytes)
        except OSError:
            self.handle_close()

    # Events

    def _on_event(self, mask: int) -> None:
        try:
            self._handle(mask)
        except Exception:
            self.server.log_exception(None)
            self.handle_close()

    def _handle(self, mask: int) -> None:
        if mask & GONE:
            self.handle_close()
            return
        if mask & READ:
            if self.readable():
                self.handle_read()
            elif self.hanging and mask & select.EPOLLRDHUP:
                self.handle_close()
            else:
                if mask & select.EPOLLRDHUP:
                    self._note_leaving()  # it may only have closed its own side: it gets its answer all the same
                self._show_interest(self._mask & ~READ)
        if mask & select.EPOLLOUT and self.connected:
            self.handle_write()
        self.refresh()

    def refresh(self) -> None:
        """Bring epoll's view up to date, and close what only waited for its last byte. Reading is switched off late, on the first event
        that is not wanted: most requests are answered before one comes."""
        if not self.connected:
            return
        if self.writable() and not self.total_outbufs_len:
            self.handle_write()  # nothing left to flush: it closes
            if not self.connected:
                return
        read = READ if self.readable() or self.hanging else self._mask & READ
        self._show_interest(read | (select.EPOLLOUT if self.total_outbufs_len else 0))

    def _show_interest(self, mask: int) -> None:
        if mask != self._mask and self.connected:
            self._mask = mask
            self.server.loop.modify(self._fileno, mask)

    # Answers

    def make(self, task: Any) -> bytes:
        """Run a task without sending: the bytes of its answer. Whatever the task raises comes out."""
        captured: list[bytes] = []
        self._captured = captured
        try:
            if self.server.draining:
                task.set_close_on_finish()
            task.start()
            task.execute()
            task.finish()
        finally:
            self._captured = None
        return b"".join(captured)

    def application_task(self, request: Any) -> Any:
        return WSGITask(self, request)

    def answer(self, data: bytes, task: Any) -> None:
        """Send an answer and end its request."""
        self.send_part(data)
        self.finish(task.close_on_finish)

    def send_part(self, data: bytes) -> bool:
        """Send what may be a part; False when the client has left."""
        try:
            super().write_soon(data)
        except ClientDisconnected:
            return False
        return True

    def finish(self, close: bool) -> None:
        """End the first request: the next one of a pipeline, or waiting for it, or the end of the connection (HTTPChannel.service)."""
        if not self.connected:
            self.requests = []
            return
        self.last_activity = time.time()
        self.counted = self.counted and bool(self.total_outbufs_len)
        if close or self.server.draining:
            self.close_when_flushed = True
            for request in self.requests:
                request.close()
            self.requests = []
        else:
            self.requests.pop(0).close()
            # A new output buffer per request: an old one is never freed while the connection lives.
            if self.current_outbuf_count > 0:
                self.current_outbuf_count = self.adj.outbuf_high_watermark
            if self.requests:
                self.server.add_task(self)
            elif self.request is not None and self.request.expect_continue and self.request.headers_finished and not self.sent_continue:
                self.send_continue()
        self.refresh()

    def serve_now(self) -> None:
        """Answer the first request in this thread."""
        request = self.requests[0]
        task = self.error_task_class(self, request) if request.error else self.application_task(request)
        try:
            data = self.make(task)
        except Exception:
            self.server.log_exception(request)
            task = JsonTask(self, request, "500 Internal Server Error", b'{"error":"internal server error"}')
            data = self.make(task)
        if request.error:
            self.send_part(data)
            self._linger()
        else:
            self.answer(data, task)

    def _linger(self) -> None:
        """Close for writing only, and drop what still comes: closing with unread bytes is a RST, which can overtake the answer."""
        self.requests = []
        if not self.connected:
            return
        self._lingering = True
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.handle_close()
            return
        self.server.loop.call_at(time.monotonic() + LINGER, lambda: self.handle_close() if self.connected else None)
        self.refresh()

    def service(self) -> None:
        """Called by waitress's dispatcher in a lane's thread: waitress's own way, then back to the loop."""
        try:
            super().service()
        finally:
            self.server.loop.call_from_thread(self.after_service)

    def after_service(self) -> None:
        if self.server.draining and not self.requests:
            self.close_when_flushed = True
        self.refresh()

    def abort(self) -> None:
        """Cut the connection with a RST instead of a FIN."""
        if self.connected:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
            self.requests = []
            self.counted = False
            self.handle_close()
