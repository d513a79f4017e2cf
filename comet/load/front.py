"""Follows which load balancers clients may send to, while commands change them."""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from comet.common.errors import UserError
from comet.load.open_model import Address

STOPPED_STATES = ("stopping", "stopped")

FOLLOW_PAUSE = 0.1
"""Seconds between two looks which load balancers there are."""

Rows = Sequence[Mapping[str, Any]]


def present(rows: Rows, known: Collection[int]) -> dict[str, int]:
    """Return the ports of the load balancers that there are, by name.

    One that clients do not know yet counts once it is ready; a known one also while it is dead, as it comes back.
    """
    return {
        row["name"]: row["port"]
        for row in rows
        if row["role"] == "lb"
        and row["state"] not in STOPPED_STATES
        and (row["port"] in known or row["state"] == "ready")
    }


class Front:
    """The load balancers that a load is sent to; `redirect` gets their addresses, which begin with these."""

    def __init__(
        self, addresses: Sequence[Address], rows: Callable[[], Rows], redirect: Callable[[Sequence[Address]], None]
    ) -> None:
        self._addresses, self._rows, self._redirect = addresses, rows, redirect
        self._loop = asyncio.get_running_loop()
        self._leaving: Collection[str] = ()
        self.ports: dict[str, int] = {}
        """Those of the load balancers at the last look, by name."""

    async def follow(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(FOLLOW_PAUSE)

    @contextlib.contextmanager
    def without(self, names: Collection[str]) -> Iterator[None]:
        """Send nothing to these while a command in this block stops them; for threads other than the loop's."""
        self._leaving = names
        try:
            asyncio.run_coroutine_threadsafe(self._send_to_present(), self._loop).result()
            yield
        finally:
            self._leaving = ()

    async def look(self) -> None:
        with contextlib.suppress(UserError):  # Without a supervisor nothing changes them.
            self.ports = present(await asyncio.to_thread(self._rows), {port for _, port in self._addresses})
            await self._send_to_present()

    async def _send_to_present(self) -> None:
        host = self._addresses[0][0]
        there = [(host, port) for name, port in self.ports.items() if name not in self._leaving]
        self._addresses = there or self._addresses
        self._redirect(self._addresses)
