"""What listens at the engine's socket in place of an engine: scripted, for the bad weather that a real one does not
have on order.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def listening(*answers: bytes | None) -> Iterator[str]:
    """The path of a unix socket where each connection in turn gets the next answer; None leaves it without one until
    the end.
    """
    with (
        tempfile.TemporaryDirectory(prefix="comet-fake-", dir="/tmp") as folder,
        socket.socket(socket.AF_UNIX) as listener,
    ):
        path = os.path.join(folder, "sock")
        listener.bind(path)
        listener.listen(8)
        os.chmod(folder, 0o755)
        silent: list[socket.socket] = []

        def serve() -> None:
            for answer in answers:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                if answer is None:
                    silent.append(connection)
                    continue
                with connection, contextlib.suppress(OSError):
                    connection.recv(65536)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield path
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for connection in silent:
                connection.close()


def answer(status: str, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (status.encode(), len(body), body)
