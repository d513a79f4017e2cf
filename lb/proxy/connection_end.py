"""Ends a client's connection so that sent data arrives and an incomplete response is never taken for complete.

A response to HTTP/1.0 may be delimited by the end of the connection alone. Until such a response is complete, any close
of its connection sends a RST, also the end of this process; afterwards it ends with FIN. The framing of any other
response shows that it is incomplete. Such a connection is reset after what was sent before has arrived, or, if the
client does not read, ends with FIN.

Progress is measured at the socket: a client that reads slowly but steadily shortens the kernel's queue long before the
kernel accepts more data from this process.
"""

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Final

from lb.proxy.deadlines import UNSCHEDULED
from lb.system.sockets import reset, reset_at_close, unsent

if TYPE_CHECKING:
    from lb.proxy.dispatcher import Dispatcher

# States one by one, each with its number: then the compiled code contains the number in place of a lookup by name.
IDLE: Final = 0
HEAD: Final = 1
QUEUED: Final = 2
CONNECTING: Final = 3
WAITING: Final = 4
RESPONDING: Final = 5
BLOCKED: Final = 6
LINGER: Final = 7
CLOSED: Final = 8
TUNNEL: Final = 9
NAMES: Final = (
    "idle",
    "head",
    "queued",
    "connecting",
    "waiting",
    "responding",
    "blocked",
    "linger",
    "closed",
    "tunnel",
)
IN_EXCHANGE: Final = (QUEUED, CONNECTING, WAITING, RESPONDING)

MAX_LINGER: Final = 30.0
"""Seconds for which a client may send input that is discarded."""

RESET_POLL_INTERVAL: Final = 0.1
"""Seconds between two checks whether what was sent before a reset has arrived."""

FRAMED: Final = 0
OPEN: Final = 1
COMPLETE: Final = 2
"""Whether the end of the connection delimits the response, and whether that response is complete."""

UNKNOWN: Final = -1

MAX_STALLED_CHECKS: Final = 2
"""Successive checks without progress after which a connection is stalled; half a body_timeout lies between two."""


class Closing:
    """The part of a client connection that ends it; `Downstream` is the rest."""

    __slots__ = (
        "_delimited", "_proxy", "_reset_pending", "_stalled_checks", "_unsent", "_until", "blocked",
        "buffer", "deadline", "eof", "reading_held", "slot", "state", "transport",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, proxy: "Dispatcher") -> None:
        self._proxy = proxy
        self.state = IDLE
        self.buffer = b""
        self.deadline = 0.0
        self.slot = UNSCHEDULED
        self.eof = False
        self.blocked = False  # the client does not read
        self.reading_held = False
        self._delimited = FRAMED
        self._reset_pending = False
        self._until = 0.0
        self._unsent = UNKNOWN
        self._stalled_checks = 0

    def close(self) -> None:
        """Close after all written data has been sent."""
        self.close_at(monotonic())

    def close_at(self, now: float) -> None:
        """Do as `close`, where the time is known."""
        self.state = CLOSED
        self.watch_progress(now)
        self.transport.close()

    def linger(self) -> None:
        """Send FIN, then discard input: an immediate close could discard the response (RFC 9112 section 9.6)."""
        if self.eof:
            self.close()
            return
        self.state = LINGER
        self.buffer = b""
        self._unsent = UNKNOWN
        now = monotonic()
        self._until = now + MAX_LINGER
        self.deadline = now + self._proxy.settings.linger_timeout
        self._proxy.wheel.schedule_earlier(self, now)
        if self.transport.can_write_eof():  # TLS has no half-closed connections.
            self.transport.write_eof()
        if self.reading_held:
            self.reading_held = False
            self.transport.resume_reading()

    def extend_linger(self) -> None:
        """Extend the linger of a client that is still sending, so that it can finish and read the response."""
        self.deadline = max(self.deadline, min(self._until, monotonic() + self._proxy.settings.linger_timeout))

    def end_incomplete(self) -> None:
        """End an incomplete response with RST after what was sent of it, so that it is not taken for complete."""
        self.state = CLOSED
        if not unsent(self.transport):
            reset(self.transport)
            return
        now = monotonic()
        self._reset_pending = True
        self._until = now + self._proxy.body_timeout
        self.deadline = now + RESET_POLL_INTERVAL
        self._proxy.wheel.schedule_earlier(self, now)

    def abort(self) -> None:
        """Close at once; the client still gets what the kernel holds.

        FIN follows, or RST if only that shows that the response is incomplete.
        """
        if self._delimited == COMPLETE and self.transport.get_write_buffer_size():
            self._delimited = OPEN
        self.transport.abort()

    def give_up(self) -> None:
        """End a response that the client does not read."""
        self.state = CLOSED
        self.abort()

    def delimit_by_close(self) -> None:
        """Mark the response as delimited by the end of the connection."""
        self._delimited = OPEN
        reset_at_close(self.transport, True)

    def prepare_close(self, exc: Exception | None) -> None:
        """Prepare the close of the connection: after a complete response it ends with FIN, not RST."""
        if self._delimited == COMPLETE and exc is None:
            reset_at_close(self.transport, False)

    def watch_progress(self, now: float) -> None:
        """Start to measure whether the other side reads."""
        self._unsent = UNKNOWN
        self._stalled_checks = 0
        self.deadline = now + self._proxy.body_timeout / 2

    def is_peer_reading(self, transport: asyncio.Transport, now: float) -> bool:
        """Say whether the peer still reads what was written to `transport`; if so, schedule the next check."""
        left = unsent(transport)
        before, self._unsent = self._unsent, left
        settings = self._proxy.settings
        if left < before:
            self._stalled_checks = 0
        elif not left:
            return False
        else:
            self._stalled_checks += 1
        if self._stalled_checks >= MAX_STALLED_CHECKS:
            return False
        drained = settings.linger_timeout if self.state == LINGER else self._proxy.request_timeout
        self.deadline = now + (self._proxy.body_timeout / 2 if left else drained)
        return True

    def expire(self, now: float) -> None:
        """Handle the deadline of the current state."""
        self.expire_ending(now)

    def expire_ending(self, now: float) -> None:
        """Handle the deadline of a state after the last exchange."""
        if self._reset_pending:
            if not unsent(self.transport):
                reset(self.transport)
            elif now >= self._until:
                self.abort()
            self.deadline = now + RESET_POLL_INTERVAL
        elif not self.is_peer_reading(self.transport, now):
            self.deadline = now + 1.0
            self.abort()
