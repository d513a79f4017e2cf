"""Answers the commands that come over the control socket (`comet.state.control_socket`).

The server only passes commands to the loop and waits for their results. A client that hangs or sends invalid data does
not affect the others.
"""

import asyncio
import contextlib
import json
import os
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from comet.common.errors import Busy, UserError, os_error_text
from comet.common.json_values import decode, has_shape, mapping
from comet.concurrency.cancellation import Stopped
from comet.host import files
from comet.state.control_socket import MAX_LINE, PING, SOCKET
from comet.state.directory import Cluster

BACKLOG = 1024
"""Connections that may wait to be accepted."""

MAX_PEERS = 256
"""Connections held at a time; above that, the connection that has been idle longest is closed."""

Handler = Callable[[dict[str, Any]], Awaitable[Any]]

Shapes = Mapping[str, Mapping[str, Any]]
"""The types of the fields of each command; a field that may be null may be missing.

Commands that are not listed have no fields, or check theirs themselves.
"""


class ControlServer:
    """Answers the commands for which `handlers` has an entry."""

    def __init__(self, cluster: Cluster, handlers: Mapping[str, Handler], shapes: Shapes) -> None:
        self._cluster = cluster
        self._shapes = shapes
        self._handlers = handlers
        self._server: asyncio.Server | None = None
        self._file_status: os.stat_result | None = None
        self._peers: dict[asyncio.StreamWriter, bool] = {}
        """The connected clients, the longest idle first, and whether each waits for an answer."""

    async def open(self) -> None:
        listener = self._cluster.listen(SOCKET)
        self._file_status = files.lstat(self._cluster.path("run", SOCKET))
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=MAX_LINE, backlog=BACKLOG)

    async def repair(self) -> bool:
        """Listen again if the socket's file is gone or replaced, and return whether it was.

        Connected clients stay connected.
        """
        if self._server is None or files.is_same(self._cluster.path("run", SOCKET), self._file_status):
            return False
        former, peers = self._server, self._peers
        await self.open()
        self._peers = peers
        former.close()
        return True

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for peer in list(self._peers):
            peer.close()
        files.discard(self._cluster.path("run", SOCKET))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._close_idle_peer()
        self._peers[writer] = False
        try:
            while line := await reader.readline():
                self._peers[writer] = True
                answer = await self._answer(line)
                self._peers.pop(writer, None)
                self._peers[writer] = False  # Clients are ordered by idle time, so this one moves to the end.
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except ConnectionError:
            pass  # The client disconnected.
        except asyncio.CancelledError:
            pass  # The supervisor has ended while this client waited. Python 3.11 would report it as an error.
        except ValueError:  # The line is too long, so the start of the next one is unknown.
            writer.write(
                json.dumps({"error": f"not a command: longer than {MAX_LINE} bytes", "exit_code": 2}).encode() + b"\n"
            )
        finally:
            self._peers.pop(writer, None)
            writer.close()

    def _close_idle_peer(self) -> None:
        idle = next((peer for peer, busy in self._peers.items() if not busy), None)
        if len(self._peers) >= MAX_PEERS and idle is not None:
            del self._peers[idle]
            idle.transport.abort()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = read(line, self._shapes)
            if request["command"] == PING:
                return {"ok": {}}
            handler = self._handlers.get(request["command"])
        except ValueError as error:
            return {"error": f"not a command: {error}", "exit_code": 2}
        if handler is None:
            return {"error": f"{request['command'][:40]!r}: not a command of this version", "exit_code": 2}
        try:
            return {"ok": await handler(request)}
        except Stopped:
            return {"error": "the cluster is being stopped", "exit_code": 1, "kind": Busy.__name__}
        except UserError as error:
            return {"error": error.message, "exit_code": error.exit_code, "kind": type(error).__name__}
        except OSError as error:
            named = f"{error.filename}: " if error.filename else ""
            return {"error": f"{named}{os_error_text(error)}", "exit_code": 1}
        except Exception as error:
            with contextlib.suppress(OSError):  # The disk of the log is full.
                traceback.print_exc()
            return {"error": f"internal error: {error!r} (the supervisor's log has more)", "exit_code": 1}


def read(line: bytes, shapes: Shapes) -> dict[str, Any]:
    """Return the request in a line, with its `command` and checked fields; raise ValueError that says what is wrong."""
    request = mapping(decode(line, MAX_LINE))
    command = request.get("command")
    if not isinstance(command, str):
        raise ValueError("command: not a text")
    for name, hint in shapes.get(command, {}).items():
        if not has_shape(request.get(name), hint):
            raise ValueError(f"{command}: {name}: missing, or not of its type")
    return request
