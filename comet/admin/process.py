"""Starts the admin server from the supervisor's loop, feeds it, and restarts it when it dies.

Nothing here waits for the server. Updates go into a buffer that the loop empties as the socket accepts it; while it is
not empty, no further state is rendered. The server acknowledges what it has read; a server that acknowledges nothing
for HANG_TIMEOUT seconds is killed and so replaced.
"""

import asyncio
import contextlib
import json
import os
import secrets
import socket
import stat
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from comet.admin.access.write_access import TOKEN, new_keys, new_link
from comet.events.event import Event
from comet.host import files
from comet.reconcile.restart_policy import RestartPolicy
from comet.runtimes.process.helper import Helper
from comet.state.directory import Cluster

PUBLISH_INTERVAL = 0.1
"""Minimum seconds between two published states: a burst of changes causes at most ten a second."""

PUBLISH_DELAY = 0.02
"""Seconds from a change to its publication: the work that the change triggers (a restart) goes first."""

END_TIMEOUT = 2.5
"""Seconds that a server may take to end after the cluster has stopped; open pages learn of the stop meanwhile."""

END_INTERVAL = 0.02
"""Seconds between two checks whether the server has ended."""

HANG_TIMEOUT = 10.0
START_TIMEOUT = 60.0
"""Seconds without an acknowledgment after which a server is killed: one that was ready, one that starts."""

Message = dict[str, Any]


def ensure_token(cluster: Cluster) -> None:
    """Create `.comet/admin.token` unless there is one that only its owner can read.

    Raises OSError if it cannot be written.
    """
    path = cluster.path(TOKEN)
    with contextlib.suppress(OSError):
        known = files.lstat(path)
        if known is not None and _is_private(known) and known.st_size > 32:
            return
    files.write(path, secrets.token_urlsafe(32) + "\n")


def _is_private(known: os.stat_result) -> bool:
    return (
        stat.S_ISREG(known.st_mode)
        and stat.S_IMODE(known.st_mode) == 0o600
        and (known.st_uid, known.st_nlink) == (os.getuid(), 1)
    )


class AdminProcess(Helper):
    """Keeps one admin server running on `listener`.

    `make_state` returns the message with the current state, `make_history` the first message to a new server.
    """

    event, log = "admin_exited", "admin.log"

    def __init__(
        self,
        cluster: Cluster,
        listener: socket.socket,
        notify: Callable[[Event], None],
        make_state: Callable[[], Message],
        make_history: Callable[[], Message],
        policy: RestartPolicy,
    ) -> None:
        super().__init__(cluster, notify, policy)
        self._listener = listener
        self._make_state = make_state
        self._make_history = make_history
        self._keys = new_keys()
        self._feed: socket.socket | None = None
        self._pending = bytearray()
        self._acknowledged_at = 0.0
        self._unacknowledged = 0
        self._changed = False
        self._published_at = 0.0
        self._publish_timer: asyncio.TimerHandle | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/"

    def link(self) -> str:
        """Return a URL of the page that gives a session to the first client that opens it."""
        return f"{self.url}?token={new_link(self._keys)}"

    def _begin(self) -> None:
        self._ready = False
        self._acknowledged_at, self._unacknowledged = self._started_at, 0
        self._feed, theirs = socket.socketpair()
        self._feed.setblocking(False)
        fds = self._listener.fileno(), theirs.fileno()
        argv = [sys.executable, "-m", "comet.admin", str(self._cluster.present), *map(str, fds)]
        try:
            self._launch(argv, fds)
        finally:
            theirs.close()
        self._loop.add_reader(self._feed, self._on_acknowledgment)
        # Sessions outlive the server. A link does not, because only the server knows which links were opened.
        self._keys = replace(self._keys, link=new_keys().link)
        self._send({"keys": asdict(self._keys)})
        self._send(self._make_history())
        self.mark_changed()

    def mark_changed(self) -> None:
        """Schedule one publication for all changes until then."""
        self._changed = True
        if self._publish_timer is None and not self._closed:
            delay = max(PUBLISH_DELAY, self._published_at + PUBLISH_INTERVAL - self._loop.time())
            self._publish_timer = self._loop.call_later(delay, self._publish)

    def send(self, message: Message) -> None:
        """Send the server a message about what the state does not contain."""
        if self._feed is not None:
            self._send(message)

    async def finish(self) -> None:
        """Send the last state, let the server end once the open pages know of the stop, and close."""
        self._closed = True
        if self._ready:
            self.send(self._make_state())
            self.send({"type": "end"})
            deadline = self._loop.time() + END_TIMEOUT
            while self._process is not None and self._loop.time() < deadline:
                await asyncio.sleep(END_INTERVAL)
        self.close()

    def close(self) -> None:
        """Kill the server, which needs no time to end; the caller keeps the socket."""
        self._closed = True
        for timer in (self._publish_timer, self._restart_timer):
            if timer is not None:
                timer.cancel()
        self._release()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _publish(self) -> None:
        self._publish_timer = None
        self._published_at = self._loop.time()
        if self._feed is None:
            return
        self._unacknowledged += 1
        # Count as well as time: after a pause of this process (a suspended machine), acknowledgments may still be
        # unread.
        timeout = HANG_TIMEOUT if self._ready else START_TIMEOUT
        if (
            self._unacknowledged > timeout / 2
            and self._published_at - self._acknowledged_at > timeout
            and self._process is not None
        ):
            self._process.kill()
        if self._pending:
            self.mark_changed()
        elif self._changed:
            self._changed = False
            self._send(self._make_state())

    def _send(self, message: Message) -> None:
        self._pending += json.dumps(message, separators=(",", ":")).encode() + b"\n"
        self._flush()

    def _flush(self) -> None:
        feed = self._feed
        if feed is None:
            return
        try:
            while self._pending:
                del self._pending[: feed.send(self._pending)]
            self._loop.remove_writer(feed)
        except BlockingIOError:
            self._loop.add_writer(feed, self._flush)
        except OSError:
            self._pending.clear()  # It is dying; the pidfd reports that.
            self._loop.remove_writer(feed)

    def _on_acknowledgment(self) -> None:
        """Handle the server's report that it accepts connections, then one byte for each message that it has read."""
        assert self._feed is not None
        try:
            received = self._feed.recv(4096)
        except OSError:
            received = b""
        self._acknowledged_at, self._unacknowledged = self._loop.time(), 0
        if received and not self._ready and self._process is not None:
            self._ready = True
            start_ms = round((self._loop.time() - self._started_at) * 1000, 1)
            self._notify(Event("admin_ready", None, {"pid": self._process.pid, "url": self.url, "start_ms": start_ms}))
        elif not received:
            self._loop.remove_reader(self._feed)

    def _release(self) -> None:
        super()._release()
        if self._feed is not None:
            self._loop.remove_reader(self._feed)
            self._loop.remove_writer(self._feed)
            self._feed.close()
            self._feed = None
        self._pending.clear()
