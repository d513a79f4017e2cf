"""The line between the command line and a running supervisor: a UNIX socket in `.comet/run/`, reachable by the cluster's user only.

One JSON object a line each way: {"command": "ps", …} is answered by {"ok": …} or {"error": "…", "exit_code": N, "kind": the name of its
class}. The server only hands
commands to the loop and waits for their outcome; a client that hangs or talks nonsense costs nobody else anything.
"""

import asyncio
import contextlib
import json
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from comet.cluster import Cluster
from comet.errors import Busy, Unknown, UserError
from comet.interruptible import Stopped

SOCKET = "supervisor.sock"
MAX_LINE = 1 << 20

Handler = Callable[[dict[str, Any]], Awaitable[Any]]


class Silent(UserError):
    """A supervisor is there and gives no answer."""


class ControlServer:
    """Answers the commands that `handlers` name."""

    def __init__(self, cluster: Cluster, handlers: Mapping[str, Handler]) -> None:
        self._cluster = cluster
        self._handlers = handlers
        self._server: asyncio.Server | None = None
        self._peers: set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        listener = self._cluster.listen(SOCKET)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=MAX_LINE)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for peer in self._peers:
            peer.close()
        self._cluster.path("run", SOCKET).unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._peers.add(writer)
        try:
            while line := await reader.readline():
                answer = await self._answer(line)
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):
            pass  # It went away, or sent more than a line may hold.
        finally:
            self._peers.discard(writer)
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            handler = self._handlers[request["command"]]
        except (ValueError, KeyError, TypeError):
            return {"error": "not a command of this version", "exit_code": 2}
        try:
            return {"ok": await handler(request)}
        except Stopped:
            return {"error": "the cluster is being stopped", "exit_code": 1, "kind": Busy.__name__}
        except UserError as error:
            return {"error": error.message, "exit_code": error.exit_code, "kind": type(error).__name__}
        except Exception as error:
            traceback.print_exc()
            return {"error": f"internal error: {error!r} (the supervisor's log has more)", "exit_code": 1}


def call(cluster: Cluster, command: str, timeout: float = 30.0, **fields: Any) -> Any:
    """Have the running supervisor carry out a command and return its answer.

    UserError: its refusal; Silent: it is there and does not answer within `timeout` seconds; ConnectionError: none is there.
    """
    try:
        peer = cluster.connect(SOCKET)
    except OSError as error:
        raise ConnectionError(str(error)) from None
    with contextlib.closing(peer):
        peer.settimeout(timeout)
        try:
            peer.sendall(json.dumps({"command": command, **fields}).encode() + b"\n")
            line = b""
            while not line.endswith(b"\n"):
                data = peer.recv(65536)
                if not data:
                    raise Silent("the supervisor hung up")
                line += data
        except TimeoutError:
            raise Silent(f"the supervisor does not answer within {timeout:g} s") from None
        except OSError as error:
            raise Silent(f"the supervisor hung up: {error.strerror}") from None
    answer = json.loads(line)
    if "error" in answer:
        kind = {"Busy": Busy, "Unknown": Unknown}.get(answer.get("kind"), UserError)
        raise kind(answer["error"], answer.get("exit_code", 1))
    return answer["ok"]
