"""The engine clients of one command or run, each connected when it is first asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from comet.common.errors import UserError
from comet.engine import connection

if TYPE_CHECKING:
    import docker


T = TypeVar("T")


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
        if self.local is None:
            self.local = self._asked(connection.connect)
        return self.local

    def has_containers(self, label: str) -> bool:
        """Return whether this machine's engine has containers with a label; UserError where none answers."""
        return self._asked(lambda: connection.has_containers(label))

    def has_services(self, label: str) -> bool:
        """Return whether a swarm that this machine's engine manages has services with a label; UserError as above."""
        return self._asked(lambda: connection.has_services(label))

    def _asked(self, question: Callable[[], T]) -> T:
        if self._failure is not None:
            raise self._failure
        try:
            return question()
        except UserError as error:
            self._failure = error
            raise

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
