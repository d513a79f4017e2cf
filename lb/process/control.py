"""Serves control peers: any number of AF_UNIX stream connections, usually the supervisor's alone.

The peers exchange the messages of `lb.interface.messages`. It uses raw sockets with the loop's readers, because a
descriptor has to be passed (SCM_RIGHTS). What a peer does not read waits, and one that leaves too much is disconnected:
the data plane never waits for the control plane.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Final

from lb.interface import messages
from lb.interface.messages import Message
from lb.system.shortage import is_local_shortage

logger = logging.getLogger("lb")

SHORTAGE_PAUSE: Final = 0.2
"""Seconds before the next accept after a shortage of descriptors."""

MAX_UNSENT: Final = 1 << 20
"""Bytes that a peer may leave unread; one that leaves more is dropped."""

Handler = Callable[["Peer", Message], None]


class Peer:
    """One control connection."""

    def __init__(self, hub: "ControlHub", sock: socket.socket) -> None:
        self._hub = hub
        self._sock = sock
        self._decoder = messages.Decoder()
        self._unsent = b""
        sock.setblocking(False)
        hub.loop.add_reader(sock, self._readable)

    def send(self, message: Message, fds: list[int] | None = None) -> None:
        """Send one message, with the given descriptors; what a peer does not take yet waits, up to MAX_UNSENT bytes."""
        line = messages.encode(message)
        try:
            if fds:
                if self._unsent:
                    raise BlockingIOError  # Descriptors cannot be queued; the peer connects again.
                line = line[socket.send_fds(self._sock, [line], fds) :]
        except OSError:
            self.close()
            return
        self._unsent += line
        if len(self._unsent) > MAX_UNSENT:
            self.close()
        else:
            self._flush()

    def _flush(self) -> None:
        try:
            self._unsent = self._unsent[self._sock.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._unsent:
            self._hub.loop.add_writer(self._sock, self._flush)
        else:
            self._hub.loop.remove_writer(self._sock)

    def close(self) -> None:
        """Close the connection and remove the peer."""
        if self in self._hub.peers:
            self._hub.peers.discard(self)
            self._hub.loop.remove_reader(self._sock)
            self._hub.loop.remove_writer(self._sock)
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
        except ValueError as error:
            logger.warning("control peer dropped: %s", error)
            self.close()


class ControlHub:
    """All peers; `greet` is called for each new one, `handle` for each message."""

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
        """Serve the connections to `listener`, and no longer those to a previous one."""
        if self._listener is not None:
            self.loop.remove_reader(self._listener)
            self._listener.close()
        listener.setblocking(False)
        self._listener = listener
        self._watch_listener()

    def _watch_listener(self) -> None:
        if self._listener is not None and self._listener.fileno() >= 0:
            self.loop.add_reader(self._listener, self._accept)

    def broadcast(self, message: Message) -> None:
        """Send a message to every peer."""
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
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if is_local_shortage(error) and not isinstance(error, BlockingIOError):
                # The listener stays readable: without a pause the loop would be busy with it.
                self.loop.remove_reader(self._listener)
                self.loop.call_later(SHORTAGE_PAUSE, self._watch_listener)
            return
        self.add(sock)
