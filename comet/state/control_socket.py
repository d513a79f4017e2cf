"""Connects the command line to a running supervisor over a UNIX socket; `comet.state.control_server` answers.

The socket lies in `.comet/run/`, reachable only by the cluster's user. Each side sends one JSON object a line:
{"command": "ps", …} is answered by {"ok": …} or {"error": "…", "exit_code": N, "kind": the name of its class}.

A command may take an hour. A client therefore first asks whether a supervisor is there (`ping`, answered at once), and
then keeps asking the kernel whether the supervisor is stopped. If the ping is not answered, the command is not sent, so
that it is not carried out unexpectedly later.
"""

import contextlib
import json
import socket
import struct
import time
from typing import Any

from comet.common.errors import Busy, Unknown, UserError
from comet.common.json_values import MAX_BYTES, decode, has_shape, mapping
from comet.host.process_identity import is_stopped
from comet.state.directory import Cluster
from comet.state.lock import Lock

SOCKET = "supervisor.sock"
MAX_LINE = 1 << 20
PING = "ping"

ANSWER_TIMEOUT = 5.0
"""Seconds within which a supervisor answers a ping."""

STOP_CHECK_PAUSE = 1.0
"""Seconds between two checks whether a supervisor that carries out a command is stopped."""

SOCKET_TIMEOUT = 4.0
"""Seconds to wait for the socket of a living supervisor."""


class NotAnswering(UserError):
    """The supervisor exists and does not answer."""


class SupervisorStopped(NotAnswering):
    """The supervisor exists and is stopped; it does nothing until it is continued."""


def read_answer(line: bytes) -> dict[str, Any]:
    """Return the answer in a line, with `ok` or with `error` and its fields.

    Raise ValueError where it is neither.
    """
    answer = mapping(decode(line))
    if "error" in answer:
        if (
            not isinstance(answer["error"], str)
            or not has_shape(answer.get("exit_code", 1), int)
            or not has_shape(answer.get("kind"), str | None)
        ):
            raise ValueError("not an error")
    elif "ok" not in answer:
        raise ValueError("neither ok nor error")
    return answer


def _connected(cluster: Cluster, ping_timeout: float) -> socket.socket:
    """Return a connection to the supervisor; raise ConnectionError if there is no supervisor.

    A supervisor whose socket was removed creates it again within a second or two.
    """
    deadline = time.monotonic() + SOCKET_TIMEOUT
    while True:
        try:
            return _connect(cluster, ping_timeout)
        except BlockingIOError:
            raise _no_answer(cluster, ping_timeout) from None
        except OSError as error:
            holder = Lock(cluster).holder()
            if holder is None:
                raise ConnectionError(str(error)) from None
            if is_stopped(holder):
                raise _no_answer(cluster, ping_timeout) from None
            if time.monotonic() > deadline:
                raise NotAnswering(
                    f"the supervisor (PID {holder}) cannot be reached: {cluster.path('run', SOCKET)} is missing"
                ) from None
        time.sleep(0.05)


def ping(cluster: Cluster) -> None:
    """Check that the supervisor answers.

    Raise NotAnswering if it does not, and ConnectionError if it has no socket (any more).
    """
    try:
        peer = _connect(cluster, ANSWER_TIMEOUT)
    except BlockingIOError:
        raise _no_answer(cluster, ANSWER_TIMEOUT) from None
    except OSError as error:
        raise ConnectionError(str(error)) from None
    with contextlib.closing(peer):
        try:
            _exchange(cluster, peer, {"command": PING}, ANSWER_TIMEOUT)
        except OSError as error:
            raise NotAnswering(f"the supervisor hung up: {error.strerror}") from None


def call(cluster: Cluster, command: str, timeout: float = 30.0, **fields: Any) -> Any:
    """Have the running supervisor carry out a command and return its answer.

    Raise UserError if it refuses, NotAnswering if it exists and does not answer within `timeout` seconds, and
    ConnectionError if there is none.
    """
    ping_timeout = min(timeout, ANSWER_TIMEOUT)
    peer = _connected(cluster, ping_timeout)
    with contextlib.closing(peer):
        try:
            _exchange(cluster, peer, {"command": PING}, ping_timeout)
            answer = _exchange(cluster, peer, {"command": command, **fields}, timeout)
        except OSError as error:
            raise NotAnswering(f"the supervisor hung up: {error.strerror}") from None
    if "error" in answer:
        kind = {"Busy": Busy, "Unknown": Unknown}.get(str(answer.get("kind")), UserError)
        raise kind(answer["error"], answer.get("exit_code", 1))
    return answer["ok"]


def _connect(cluster: Cluster, ping_timeout: float) -> socket.socket:
    """Connect, waiting for room in the queue of connections; raise BlockingIOError if there is none in time."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The kernel waits for room only in a blocking connect(2), and for at most this time.
        peer.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(ping_timeout), int(ping_timeout % 1 * 1e6))
        )
        peer.connect(cluster.socket_address(SOCKET))
    except OSError:
        peer.close()
        raise
    return peer


def _exchange(cluster: Cluster, peer: socket.socket, request: dict[str, Any], timeout: float) -> dict[str, Any]:
    """Send a request and return its answer; raise NotAnswering if none comes in time, or the supervisor is stopped."""
    line, deadline, stopped_since = bytearray(), time.monotonic() + timeout, None
    try:
        peer.settimeout(timeout)
        peer.sendall(json.dumps(request).encode() + b"\n")
        while not line.endswith(b"\n"):
            peer.settimeout(max(0.01, min(STOP_CHECK_PAUSE, deadline - time.monotonic())))
            try:
                data = peer.recv(65536)
            except TimeoutError:
                now = time.monotonic()
                stopped_since = (stopped_since or now) if is_stopped(Lock(cluster).holder()) else None
                if now >= deadline or (
                    stopped_since is not None and now - stopped_since >= ANSWER_TIMEOUT - STOP_CHECK_PAUSE
                ):
                    raise
                continue
            if not data or len(line) > MAX_BYTES:
                raise NotAnswering("the supervisor hung up" if not data else "the supervisor's answer has no end")
            line += data
    except TimeoutError:
        raise _no_answer(cluster, timeout) from None
    try:
        return read_answer(bytes(line))
    except ValueError as error:
        raise NotAnswering(
            f"the supervisor's answer is not understood ({error}); it may be of another version: restart it"
        ) from None


def _no_answer(cluster: Cluster, timeout: float) -> NotAnswering:
    pid = Lock(cluster).holder()
    if is_stopped(pid):
        return SupervisorStopped(
            f"the supervisor (PID {pid}) does not answer: it is stopped; continue it with: kill -CONT {pid}"
        )
    return NotAnswering(
        f"the supervisor does not answer within {timeout:g} s: it is hung, or very busy (see "
        ".comet/logs/supervisor.log)"
    )


def problem(pid: int) -> str:
    """Return in a few words what is wrong with a running supervisor that did not answer."""
    return "not answering" + (f": it is stopped; continue it with: kill -CONT {pid}" if is_stopped(pid) else "")
