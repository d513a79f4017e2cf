"""Keeps the span exporter running while the cluster serves (`trace-endpoint`).

The supervisor holds the socket to which the load balancers send spans, so that one exporter goes on where the last one
ended; what comes meanwhile waits in the socket's buffer, or is lost.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec

from comet.common.errors import UserError, os_error_text
from comet.config.schema import Config
from comet.events.event import Event
from comet.host import files
from comet.reconcile.restart_policy import RestartPolicy
from comet.runtimes.process.helper import Helper
from comet.state.directory import Cluster
from comet.tracing import SOCKET

BUFFER = 4 << 20
"""Bytes of spans that may wait in the socket, as far as the kernel allows."""

END_TIMEOUT = 1.0
"""Seconds in which an exporter may send its last spans when the cluster stops."""


class SpanExport(Helper):
    """The span exporter of one cluster; without `open` there is none."""

    event, log = "span_exporter_exited", "tracing.log"

    def __init__(self, cluster: Cluster, notify: Callable[[Event], None]) -> None:
        super().__init__(cluster, notify, RestartPolicy())
        self._endpoint = ""
        self._socket: socket.socket | None = None
        self._owner = -1

    def open(self, config: Config) -> None:
        """Start the exporter where the config names a collector; UserError where its packages are missing."""
        if config.trace_endpoint is None:
            return
        if find_spec("opentelemetry.sdk") is None or find_spec("opentelemetry.exporter.otlp.proto.http") is None:
            place = f"{config.path.name}:{config.lines.get('trace-endpoint', 1)}: trace-endpoint"
            raise UserError(f"{place}: OpenTelemetry is not installed: pip install 'comet-cluster[tracing]'", 2)
        self._endpoint = config.trace_endpoint
        self._policy = RestartPolicy(maximum=config.restart_backoff_max, stable=config.restart_stable)
        try:
            self._listen()
        except OSError as error:
            path = self._cluster.path("run", SOCKET)
            raise UserError(f"{path}: cannot be made: {os_error_text(error)}") from None
        self.start()

    def repair(self) -> list[str]:
        """Make the socket again where its file was removed, and return its name; OSError where that fails."""
        if self._socket is None or files.lstat(self._cluster.path("run", SOCKET)) is not None:
            return []
        self._listen()
        if self._process is not None:
            self._process.kill()  # Its successor has the new socket.
        return [f"run/{SOCKET}"]

    async def close(self) -> None:
        """End the exporter, which may send what it has."""
        process, self._process = self._process, None
        self._release()
        if self._restart_timer is not None:
            self._restart_timer.cancel()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if process is not None:
            await asyncio.to_thread(_end, process)

    def _listen(self) -> None:
        files.remove(self._cluster.path("run", SOCKET))
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            made.bind(self._cluster.socket_address(SOCKET))
        except OSError:
            made.close()
            raise
        if self._socket is not None:
            self._socket.close()
        self._socket = made

    def _begin(self) -> None:
        assert self._socket is not None
        owner, self._owner = os.pipe()
        spans = self._socket.fileno()
        argv = [sys.executable, "-m", "comet.tracing", self._cluster.id or "", self._endpoint, str(spans), str(owner)]
        try:
            self._launch(argv, (spans, owner))
        finally:
            os.close(owner)

    def _release(self) -> None:
        super()._release()
        if self._owner >= 0:
            os.close(self._owner)  # It reads this as the order to end.
            self._owner = -1


def _end(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_TIMEOUT)
    process.kill()
    process.wait()
