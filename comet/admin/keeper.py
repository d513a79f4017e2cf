"""The supervisor's side of the admin server: starts it, feeds it, starts it again when it dies. Runs in the supervisor's loop.

Nothing here waits for the server. What is new goes into a buffer that the loop empties as the socket takes it; while it is not empty no
further picture is rendered. The server answers what it has taken in; one that answers nothing for HUNG_AFTER seconds is killed and so
replaced. Its deaths are pushed by a
pidfd and follow the restart policy of the replicas; they are told as events and touch nothing else.
"""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from comet.backoff import RestartPolicy
from comet.cluster import Cluster, write_atomically
from comet.drivers.execute import open_log
from comet.events import Event

TOKEN = "admin.token"

PUBLISH_PAUSE = 0.1
"""Seconds between two pictures at the least: a storm of deaths costs no more than ten a second."""

SETTLE = 0.02
"""Seconds from a change to its picture: what the change asks for (a restart) goes first."""

HUNG_AFTER = 10.0
START_PATIENCE = 60.0
"""Seconds without an answer after which a server is killed: one that was ready, one that starts."""

Message = dict[str, Any]


def ensure_token(cluster: Cluster) -> None:
    """Make `.comet/admin.token` where there is none that only its owner can read; OSError where it cannot be written."""
    path = cluster.path(TOKEN)
    with contextlib.suppress(OSError):
        known = path.lstat()
        if stat.S_ISREG(known.st_mode) and stat.S_IMODE(known.st_mode) == 0o600 and known.st_uid == os.getuid() and known.st_size > 32:
            return
    write_atomically(path, secrets.token_urlsafe(32) + "\n")


class Keeper:
    """Keeps one admin server on `listener` alive. `picture` makes the message that shows the present, `past` the one that a new
    server begins with."""

    def __init__(
        self,
        cluster: Cluster,
        listener: socket.socket,
        tell: Callable[[Event], None],
        picture: Callable[[], Message],
        past: Callable[[], Message],
        policy: RestartPolicy,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._cluster = cluster
        self._listener = listener
        self._tell = tell
        self._picture = picture
        self._past = past
        self._policy = policy
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd: int | None = None
        self._feed: socket.socket | None = None
        self._pending = bytearray()
        self._heard_at = 0.0
        self._unanswered = 0
        self._stale = False
        self._published_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._restart: asyncio.TimerHandle | None = None
        self._started_at = 0.0
        self._failures = 0
        self._ready = False
        self._closed = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start a server. One that cannot be started (no memory, no processes left) is tried again like one that died."""
        self._restart = None
        self._started_at, self._ready = self._loop.time(), False
        self._heard_at, self._unanswered = self._started_at, 0
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        argv = [sys.executable, "-m", "comet.admin", str(self._cluster.folder), str(self._listener.fileno()), str(theirs.fileno())]
        try:
            with open_log(self._cluster.path("logs", "admin.log")) as log:
                self._process = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment(self._cluster), start_new_session=True,
                    pass_fds=(self._listener.fileno(), theirs.fileno()),
                )  # fmt: skip
            self._pidfd = os.pidfd_open(self._process.pid)
        except OSError as error:
            ours.close()
            self._ended(None, f"cannot be started: {error.strerror}")
            return
        finally:
            theirs.close()
        self._feed = ours
        self._loop.add_reader(self._pidfd, self._died)
        self._loop.add_reader(ours, self._heard)
        self._say(self._past())
        self.touch()

    def touch(self) -> None:
        """Something has changed: show it soon, once for all changes until then."""
        self._stale = True
        if self._timer is None and not self._closed:
            delay = max(SETTLE, self._published_at + PUBLISH_PAUSE - self._loop.time())
            self._timer = self._loop.call_later(delay, self._publish)

    def say(self, message: Message) -> None:
        """Tell the server of something that the picture does not hold."""
        if self._feed is not None:
            self._say(message)

    def close(self) -> None:
        """End the server; it needs no time for that. The socket is the caller's."""
        self._closed = True
        for timer in (self._timer, self._restart):
            if timer is not None:
                timer.cancel()
        self._release()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _publish(self) -> None:
        self._timer = None
        self._published_at = self._loop.time()
        if self._feed is None:
            return
        self._unanswered += 1
        # Counted as well as timed: after a pause of our own (a suspended machine) its answers are still to be read.
        patience = HUNG_AFTER if self._ready else START_PATIENCE
        if self._unanswered > patience / 2 and self._published_at - self._heard_at > patience and self._process is not None:
            self._process.kill()
        if self._pending:
            self.touch()
        elif self._stale:
            self._stale = False
            self._say(self._picture())

    def _say(self, message: Message) -> None:
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
            self._pending.clear()  # It is dying: the pidfd will tell.
            self._loop.remove_writer(feed)

    def _heard(self) -> None:
        """The server says that it accepts, then a byte for each message that it has taken in."""
        assert self._feed is not None
        try:
            told = self._feed.recv(4096)
        except OSError:
            told = b""
        self._heard_at, self._unanswered = self._loop.time(), 0
        if told and not self._ready and self._process is not None:
            self._ready = True
            took = round((self._loop.time() - self._started_at) * 1000, 1)
            self._tell(Event("admin_ready", None, {"pid": self._process.pid, "url": self.url, "start_ms": took}))
        elif not told:
            self._loop.remove_reader(self._feed)

    def _died(self) -> None:
        assert self._process is not None
        code = self._process.wait()
        self._process = None
        self._ended(code, None)

    def _ended(self, code: int | None, reason: str | None) -> None:
        self._release()
        if self._closed:
            return
        name = signal.Signals(-code).name if code is not None and code < 0 else None
        fields = {"code": code, "signal": name} | ({"reason": reason} if reason else {})
        self._tell(Event("admin_exited", None, fields))
        if self._ready and self._loop.time() - self._started_at >= self._policy.stable:
            self._failures = 0
        self._failures += 1
        self._restart = self._loop.call_later(self._policy.delay(self._failures, 0.0), self.start)

    def _release(self) -> None:
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        if self._feed is not None:
            self._loop.remove_reader(self._feed)
            self._loop.remove_writer(self._feed)
            self._feed.close()
            self._feed = None
        self._pending.clear()


def _environment(cluster: Cluster) -> dict[str, str]:
    """Ours, the place of our packages, and the mark by which everything of a cluster is found."""
    sources = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    known = os.environ.get("PYTHONPATH", "")
    path = known if sources in known.split(os.pathsep) else os.pathsep.join(filter(None, (sources, known)))
    return os.environ | {"PYTHONPATH": path, "COMET_CLUSTER": cluster.id or "", "SPT_NOENV": "1"}
