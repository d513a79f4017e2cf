"""One control connection to a load balancer, seen from the supervisor.

It never waits: what the peer does not take yet is queued, and a load balancer that hangs costs the memory of one
routing table at most. A message that is not valid is ignored; one that cannot be read at all ends the connection.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable

from lb.interface import messages


class LbLink:
    """One non-blocking control connection to a load balancer.

    Calls `on_message(message)` for each message, and `on_close()` once at the end.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        peer: socket.socket,
        on_message: Callable[[messages.Message], None],
        on_close: Callable[[], None],
    ) -> None:
        self.name = ""
        self._loop = loop
        self._peer = peer
        self._on_message = on_message
        self._on_close = on_close
        self._decoder = messages.Decoder()
        self._sending = b""
        self._queue: deque[tuple[bytes, bool]] = deque()
        self._closed = False
        peer.setblocking(False)
        loop.add_reader(peer, self._readable)

    def send(self, *batch: messages.Message, table: bool = False) -> None:
        """Queue messages, in order.

        A table replaces one that is still queued, so that a hung peer costs the memory of one table at most.
        """
        if self._closed:
            return
        idle = not self._sending
        if table:
            self._queue = deque(queued for queued in self._queue if not queued[1])
        self._queue.append((b"".join(messages.encode(message) for message in batch), table))
        if idle:
            self._writable()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._queue.clear()
        self._loop.remove_reader(self._peer)
        self._loop.remove_writer(self._peer)
        self._peer.close()
        self._on_close()

    def _writable(self) -> None:
        try:
            while self._sending or self._queue:
                if not self._sending:
                    self._sending = self._queue.popleft()[0]
                self._sending = self._sending[self._peer.send(self._sending) :]
        except BlockingIOError:
            self._loop.add_writer(self._peer, self._writable)
        except OSError:
            self.close()
        else:
            self._loop.remove_writer(self._peer)

    def _readable(self) -> None:
        try:
            data = self._peer.recv(65536)
            received = self._decoder.feed(data)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            self.close()
            return
        if not data:
            self.close()
            return
        for message in received:
            try:
                checked = messages.read(message)
            except ValueError:
                continue  # Ignored: the watchdog replaces a load balancer that gives no valid answer.
            self._on_message(checked)
