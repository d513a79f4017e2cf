"""Runs a client connection: waitress's channel (parsing, output buffers, WSGI tasks) on Comet's event loop.

Three things differ from waitress's own loop. Epoll learns of a change of interest when it happens, instead of asking
before each wait. A request may wait between its arrival and its response (delay, commit) without a thread. And a
response is first built (`run_task`) and sent later (`respond`).
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from waitress.channel import ClientDisconnected, HTTPChannel  # type: ignore[import-untyped]
from waitress.task import Task, WSGITask  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from worker_app.http.server import WorkerServer

READ = select.EPOLLIN | select.EPOLLRDHUP
ERROR_OR_HANGUP = select.EPOLLERR | select.EPOLLHUP
LINGER = 2.0
"""Seconds in which the rest of a refused request is read and discarded (RFC 9112 section 9.6)."""

_RST_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER on, 0 s: close sends a RST (socket(7))."""


class JsonTask(Task):  # type: ignore[misc]
    """A response of the server itself, without the application."""

    complete = True

    def __init__(
        self, channel: Channel, request: Any, status: str, body: bytes, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(channel, request)
        self.status = status
        self.content_length = len(body)
        self.response_headers = [("Content-Type", "application/json"), *headers]
        self._body = body

    def execute(self) -> None:
        self.write(b"" if self.request.command == "HEAD" else self._body)


class Channel(HTTPChannel):  # type: ignore[misc]
    """One client connection; all methods run in the loop's thread, except `service` and what waitress calls from it."""

    server: WorkerServer
    requests: list[Any]
    current_outbuf_count: int

    def __init__(self, server: WorkerServer, sock: socket.socket, addr: Any, adj: Any, map: dict[int, Any]) -> None:
        self._mask = 0
        self._captured: list[bytes] | None = None
        self.counted = False  # the response to a counted request is not sent completely
        self._lingering = False
        self.hanging = False
        self.on_close: Callable[[], None] | None = None
        super().__init__(server, sock, addr, adj, map=map)

    # Overridden methods of waitress

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
            self._count_disconnect()
        super().handle_close()

    def _count_disconnect(self) -> None:
        if self.counted:
            self.counted = False
            self.server.client_disconnected()

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
        if mask & ERROR_OR_HANGUP:
            self.handle_close()
            return
        if mask & READ:
            if self.readable():
                self.handle_read()
            elif self.hanging and mask & select.EPOLLRDHUP:
                self.handle_close()
            else:
                if mask & select.EPOLLRDHUP:
                    self._count_disconnect()  # the client may only have closed its side; it still gets its response
                self._set_event_mask(self._mask & ~READ)
        if mask & select.EPOLLOUT and self.connected:
            self.handle_write()
        self.refresh()

    def refresh(self) -> None:
        """Update the epoll mask, and close the connection if only its last byte was outstanding.

        Reading is switched off late, on the first unwanted event: most responses are sent before one comes.
        """
        if not self.connected:
            return
        if self.writable() and not self.total_outbufs_len:
            self.handle_write()  # nothing left to flush: this closes the connection
            if not self.connected:
                return
        read = READ if self.readable() or self.hanging else self._mask & READ
        self._set_event_mask(read | (select.EPOLLOUT if self.total_outbufs_len else 0))

    def _set_event_mask(self, mask: int) -> None:
        if mask != self._mask and self.connected:
            self._mask = mask
            self.server.loop.modify(self._fileno, mask)

    # Responses

    def run_task(self, task: Any) -> bytes:
        """Run a task and return the bytes of its response without sending them; exceptions of the task pass through."""
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

    def respond(self, data: bytes, task: Any) -> None:
        """Send a response and end its request."""
        self.send_part(data)
        self.finish_request(task.close_on_finish)

    def send_part(self, data: bytes) -> bool:
        """Send a part of a response; return False if the client has disconnected."""
        try:
            super().write_soon(data)
        except ClientDisconnected:
            return False
        return True

    def finish_request(self, close: bool) -> None:
        """End the first request; serve the next one of a pipeline, wait for one, or close (see HTTPChannel.service)."""
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
            # Use a new output buffer per request: waitress frees none while the connection is open.
            if self.current_outbuf_count > 0:
                self.current_outbuf_count = self.adj.outbuf_high_watermark
            if self.requests:
                self.server.add_task(self)
            elif (
                self.request is not None
                and self.request.expect_continue
                and self.request.headers_finished
                and not self.sent_continue
            ):
                self.send_continue()
        self.refresh()

    def serve_inline(self) -> None:
        """Serve the first request in this thread."""
        request = self.requests[0]
        task = self.error_task_class(self, request) if request.error else self.application_task(request)
        try:
            data = self.run_task(task)
        except Exception:
            self.server.log_exception(request)
            task = JsonTask(self, request, "500 Internal Server Error", b'{"error":"internal server error"}')
            data = self.run_task(task)
        if request.error:
            self.send_part(data)
            self._linger()
        else:
            self.respond(data, task)

    def _linger(self) -> None:
        """Close for writing, then discard what is received.

        A close with unread bytes would send a RST, which can discard the response.
        """
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
        """Serve as waitress does, in a thread of the statistics dispatcher, then continue in the loop."""
        try:
            super().service()
        finally:
            self.server.loop.call_from_thread(self.after_service)

    def after_service(self) -> None:
        if self.server.draining and not self.requests:
            self.close_when_flushed = True
        self.refresh()

    def announce(self, kind: str) -> None:
        """Let a load balancer know that a fault is injected that leaves no answer to mark; it keeps this to itself.

        An interim response (RFC 9110 section 15.2) goes to HTTP/1.1 alone, and only to what forwards requests: any
        other client would see it in place of nothing.
        """
        request = self.requests[0]
        if request.version == "1.1" and "X_FORWARDED_FOR" in request.headers:
            with contextlib.suppress(OSError):  # A connection that is full or gone gets no announcement.
                self.socket.send(b"HTTP/1.1 103 Early Hints\r\nX-Comet-Injected: %s\r\n\r\n" % kind.encode())

    def reset(self) -> None:
        """Close the connection with a RST instead of a FIN."""
        if self.connected:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
            self.requests = []
            self.counted = False
            self.handle_close()
