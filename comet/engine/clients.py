"""The engine clients of one command or run, each connected when it is first asked for."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from comet.common.errors import UserError
from comet.engine import connection

if TYPE_CHECKING:
    import docker


class Engines:
    """The clients; not for concurrent use. A failure to connect is kept, so that a silent engine is waited for once.

    A run sets `local` or `manager` when it connects them itself.
    """

    def __init__(self) -> None:
        self.local: docker.DockerClient | None = None
        self.manager: docker.DockerClient | None = None
        self._failure: UserError | None = None

    def get_local(self) -> docker.DockerClient:
        """Return a client of this machine's engine; UserError where none answers."""
        if self._failure is not None:
            raise self._failure
        if self.local is None:
            try:
                self.local = connection.connect()
            except UserError as error:
                self._failure = error
                raise
        return self.local

    def get_manager(self) -> docker.DockerClient:
        """Return a client of the swarm's manager; UserError where it cannot be used."""
        if self.manager is None:
            self.manager = connection.connect_manager()
        return self.manager

    def close(self) -> None:
        for client in (self.local, self.manager):
            if client is not None:
                with contextlib.suppress(OSError):
                    client.close()
