"""Accepts the admin server's connections at once, limits them per user, and drops the slowest.

waitress stops accepting at its limit, so a client that holds that many idle connections would shut out all others. Here
no client waits to be accepted. A connection beyond the limit of its user, or beyond the limit of all strangers together
(one user may own thousands of uids), costs that user's slowest connection: the one that has gone longest without a
finished request. The cluster's user and root have connections and threads of their own.
"""

import contextlib
import json
import resource
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from http import HTTPStatus
from typing import Any, Protocol, TypeVar

from waitress.adjustments import Adjustments  # type: ignore[import-untyped]
from waitress.channel import HTTPChannel  # type: ignore[import-untyped]
from waitress.server import TcpWSGIServer  # type: ignore[import-untyped]
from waitress.task import ErrorTask, ThreadedTaskDispatcher, WSGITask  # type: ignore[import-untyped]

from comet.admin.access.peers import peer_uid
from comet.admin.access.request_guard import HEADERS

PEER = "comet.peer"
"""Key of a request's environment with the uid of the client's process; None if it is not known."""

OWNER_CONNECTIONS = 128
"""Maximum connections of the cluster's user, and of root."""

STRANGER_CONNECTIONS = 64
ALL_STRANGERS = 128
"""Maximum connections of any other user, and of all of them together."""

OWNER_THREADS = 8
STRANGER_THREADS = 3

SPARE_DESCRIPTORS = 48
"""Descriptors that the process needs for purposes other than connections."""

MAX_REQUEST_TIME = 10.0
"""Maximum seconds from the first byte of a request to its last."""

MAX_READ_TIME = 60.0
"""Seconds within which a client must read an answer."""

IDLE_TIME = 30
"""Seconds without traffic after which a connection is closed."""

CHECK_INTERVAL = 1.0
"""Seconds between two checks for clients that take too long."""

MAX_ACCEPTS = 64
"""Connections accepted in one go, before the open ones are served again."""


class DroppableConnection(Protocol):
    """A connection that may be dropped for another.

    `served_at` is when it last finished a request, or was accepted.
    """

    uid: int | None
    served_at: float

    @property
    def busy(self) -> bool: ...


H = TypeVar("H", bound=DroppableConnection)


def admit(
    connections: Iterable[H], uid: int | None, owners: Collection[int], share: float = 1.0
) -> tuple[bool, H | None]:
    """Return whether one more connection of this user is accepted, and which one is dropped for it.

    The second value is None where none is dropped. `share` scales the limits.
    """
    all_connections = list(connections)
    same_user = [each for each in all_connections if each.uid == uid]
    if len(same_user) >= max(1, int(share * (OWNER_CONNECTIONS if uid in owners else STRANGER_CONNECTIONS))):
        return _slowest(same_user)
    if uid in owners:
        return True, None
    strangers = [each for each in all_connections if each.uid not in owners]
    if len(strangers) < max(1, int(share * ALL_STRANGERS)):
        return True, None
    top_uid = Counter(each.uid for each in strangers).most_common(1)[0][0]
    return _slowest([each for each in strangers if each.uid == top_uid])


def _slowest(candidates: Iterable[H]) -> tuple[bool, H | None]:
    """Return whether a connection can be dropped, and the slowest that is not busy.

    A busy connection is never dropped: if all are busy, the new connection is refused.
    """
    slowest = min((each for each in candidates if not each.busy), key=lambda each: each.served_at, default=None)
    return slowest is not None, slowest


class _Task(WSGITask):  # type: ignore[misc]
    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        environ[PEER] = self.channel.uid
        return environ


class _ErrorTask(ErrorTask):  # type: ignore[misc]
    """Answers what the application does not get, in the words and the form of the application's own errors."""

    def execute(self) -> None:
        error = self.request.error
        text = error.body[:1].lower() + error.body[1:] if error.code == HTTPStatus.BAD_REQUEST else error.reason.lower()
        body = json.dumps({"error": text}, separators=(",", ":")).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers.extend([("Content-Type", "application/json"), *HEADERS.items()])
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Channel(HTTPChannel):  # type: ignore[misc]
    """A connection, which waitress creates from the accepted socket.

    The uid of its client is determined before anything is read.
    """

    task_class = _Task
    error_task_class = _ErrorTask

    def __init__(self, server: "Server", sock: socket.socket, addr: Any, adj: Adjustments, map: Any = None) -> None:
        self.uid: int | None = server.accepting_uid
        self.served_at = self.request_started_at = time.monotonic()
        super().__init__(server, sock, addr, adj, map=map)

    @property
    def busy(self) -> bool:
        return bool(self.requests)

    def received(self, data: bytes) -> bool:
        if self.request is None:
            self.request_started_at = time.monotonic()
        return bool(super().received(data))

    def service(self) -> None:
        try:
            super().service()
        finally:
            self.served_at = time.monotonic()

    def is_late(self, now: float) -> bool:
        """Return whether the client takes too long to send a request or to read an answer."""
        if self.busy:
            return False
        if self.total_outbufs_len:
            return now - self.served_at > MAX_READ_TIME
        return self.request is not None and now - self.request_started_at > MAX_REQUEST_TIME


class Server(TcpWSGIServer):  # type: ignore[misc]
    """A server of `app` on a listening socket; `owners` are the uids with limits of their own."""

    channel_class = _Channel

    def __init__(
        self, app: Callable[..., Any], listener: socket.socket, owners: Collection[int], **settings: Any
    ) -> None:
        self.owners = owners
        self.accepting_uid: int | None = None
        self._next_check = 0.0
        self._dropped: list[socket.socket] = []
        self.share = _descriptor_share(2 * OWNER_CONNECTIONS + ALL_STRANGERS)
        self.strangers_dispatcher = ThreadedTaskDispatcher()
        self.strangers_dispatcher.set_thread_count(STRANGER_THREADS)
        # Proxy header fields must not be removed: they show that there is a proxy.
        adjustments = Adjustments(
            threads=OWNER_THREADS,
            channel_timeout=IDLE_TIME,
            asyncore_use_poll=True,
            ident=None,
            clear_untrusted_proxy_headers=False,
            **settings,
        )
        where = (listener.family, listener.type, listener.proto, listener.getsockname())
        super().__init__(app, None, True, listener, adj=adjustments, sockinfo=where, bind_socket=False)

    def add_task(self, task: _Channel) -> None:
        (self.task_dispatcher if task.uid in self.owners else self.strangers_dispatcher).add_task(task)

    def readable(self) -> bool:
        while self._dropped:
            self._dropped.pop().close()
        moment = time.monotonic()
        if moment >= self._next_check:
            self._next_check = moment + CHECK_INTERVAL
            self.maintenance(time.time())
        return True

    def maintenance(self, now: float) -> None:
        super().maintenance(now)
        moment = time.monotonic()
        for channel in self.active_channels.values():
            if channel.is_late(moment):
                channel.will_close = True

    def handle_accept(self) -> None:
        for _ in range(MAX_ACCEPTS):
            try:
                accepted = self.accept()
            except OSError as error:
                # For example, no descriptor is left. The next check tries again; without a pause the loop would do
                # nothing else.
                self.logger.warning("cannot accept a connection: %s", error.strerror)
                self._drop_any()
                return
            if accepted is None:
                return
            self._admit(*accepted)

    def _admit(self, connection: socket.socket, address: Any) -> None:
        self.accepting_uid = peer_uid(connection)
        accepted, dropped = admit(list(self.active_channels.values()), self.accepting_uid, self.owners, self.share)
        if dropped is not None:
            self._drop(dropped)
        if not accepted:
            connection.close()
            return
        try:
            self.set_socket_options(connection)
        except OSError:  # The client has disconnected.
            connection.close()
            return
        self.channel_class(self, connection, self.fix_addr(address), self.adj, map=self._map)

    def _drop(self, channel: _Channel) -> None:
        """End a connection, and close its socket when the loop's next round begins.

        A connection that is accepted in this round must not get the number of its descriptor: the loop may still hold
        an event of it, and would end the new connection for it.
        """
        self._dropped.append(channel.socket)
        channel.socket = None
        channel.handle_close()
        with contextlib.suppress(OSError):  # Its client has disconnected.
            self._dropped[-1].shutdown(socket.SHUT_RDWR)

    def _drop_any(self) -> None:
        """Drop one connection: the slowest of a stranger, else the slowest of all."""
        all_connections = list(self.active_channels.values())
        _, dropped = _slowest([each for each in all_connections if each.uid not in self.owners] or all_connections)
        if dropped is not None:
            self._drop(dropped)
        else:
            time.sleep(0.05)


def _descriptor_share(wanted: int) -> float:
    """Return the share of these connections for which the process has descriptors.

    The process first raises its limit as far as it may.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard > soft:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096) if hard > 0 else 4096), hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return min(1.0, max(1, soft - SPARE_DESCRIPTORS) / wanted)
