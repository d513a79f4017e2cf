"""Control peers: any number of AF_UNIX stream connections that speak `lb.messages`, usually one, the supervisor's.

Raw sockets on the loop's readers, because a descriptor has to travel (SCM_RIGHTS). A peer that is slow to read is dropped
rather than waited for: the data plane never depends on the control plane.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable

from lb import messages
from lb.messages import Message

logger = logging.getLogger("lb")

Handler = Callable[["Peer", Message], None]


class Peer:
    """One control connection."""

    def __init__(self, hub: "ControlHub", sock: socket.socket) -> None:
        self._hub = hub
        self._sock = sock
        self._decoder = messages.Decoder()
        sock.setblocking(False)
        hub.loop.add_reader(sock, self._readable)

    def send(self, message: Message, fds: list[int] | None = None) -> None:
        """Send one message, with descriptors if given."""
        line = messages.encode(message)
        try:
            sent = socket.send_fds(self._sock, [line], fds) if fds else self._sock.send(line)
            if sent < len(line):
                self._sock.setblocking(True)
                self._sock.settimeout(0.2)
                self._sock.sendall(line[sent:])
                self._sock.setblocking(False)
        except OSError:
            self.close()

    def close(self) -> None:
        """Forget the peer."""
        if self in self._hub.peers:
            self._hub.peers.discard(self)
            self._hub.loop.remove_reader(self._sock)
            self._sock.close()

    def _readable(self) -> None:
        try:
            data = self._sock.recv(65536)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        try:
            for message in self._decoder.feed(data):
                self._hub.handle(self, message)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            logger.warning("control peer dropped: %s", error)
            self.close()


class ControlHub:
    """All peers. `greet` is called with each new one, `handle` with each message."""

    def __init__(self, loop: asyncio.AbstractEventLoop, greet: Callable[[Peer], None], handle: Handler) -> None:
        self.loop = loop
        self.peers: set[Peer] = set()
        self.handle = handle
        self._greet = greet
        self._listener: socket.socket | None = None

    def add(self, sock: socket.socket) -> None:
        """Serve a connected socket."""
        peer = Peer(self, sock)
        self.peers.add(peer)
        self._greet(peer)

    def listen(self, listener: socket.socket) -> None:
        """Serve whoever connects to `listener`."""
        listener.setblocking(False)
        self._listener = listener
        self.loop.add_reader(listener, self._accept)

    def tell(self, message: Message) -> None:
        """Send to every peer."""
        for peer in list(self.peers):
            peer.send(message)

    def close(self) -> None:
        """Close all."""
        for peer in list(self.peers):
            peer.close()
        if self._listener is not None:
            self.loop.remove_reader(self._listener)
            self._listener.close()

    def _accept(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(OSError):
            sock, _ = self._listener.accept()
            self.add(sock)
