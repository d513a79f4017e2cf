"""Reserves TCP ports among the programs of Comet, from their choice until the process ends.

A port that was free when it was chosen may be taken when it is bound, and the port of a replica is free between two of
its lives. Clusters that start side by side would choose the same ports. A reservation is an abstract UNIX socket
(unix(7)) with the port in its name: the kernel gives a name to one socket at a time, in the same network namespace that
the port belongs to, and releases it however its holder dies. Other programs do not see reservations.
"""

import socket
from collections.abc import Iterator

NAME = "\0comet-port-{}"


class PortReservations:
    """The ports that this process has reserved."""

    def __init__(self) -> None:
        self._held: dict[int, socket.socket] = {}

    def __contains__(self, port: int) -> bool:
        return port in self._held

    def __iter__(self) -> Iterator[int]:
        return iter(list(self._held))

    def take(self, port: int) -> bool:
        """Reserve a port and return whether this process has it; False where another program has reserved it."""
        if port in self._held:
            return True
        holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            holder.bind(NAME.format(port))
        except OSError:
            holder.close()
            return False
        self._held[port] = holder
        return True

    def release(self, port: int) -> None:
        holder = self._held.pop(port, None)
        if holder is not None:
            holder.close()

    def close(self) -> None:
        for port in self:
            self.release(port)
