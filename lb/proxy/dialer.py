"""Connects to a host by address or by name: tries the addresses of a name in turn, and looks names up again.

The addresses of a name may change while the load balancer runs, and not all of them may accept connections: localhost
is ::1 and 127.0.0.1, and most services listen on one of them. The address that accepted last is tried first. The
addresses left to try share the remaining time, so that one that drops packets does not prevent an attempt at the next.

A lookup is used for CACHE_SECONDS. After a failed lookup the previous addresses stay in use, so that a resolver that
is down stops no traffic.
"""

import asyncio
import errno
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from time import monotonic
from typing import Any, Final

from lb.system.shortage import is_local_shortage

CACHE_SECONDS: Final = 5.0
"""Seconds for which the addresses of a name are used before the next lookup."""

LOOKUP_SHARE: Final = 0.5
"""Part of the time for a connection that a lookup may take."""

Lookup = Callable[[str, int], Awaitable[list[str]]]


class Name:
    """The addresses of one name, the best first."""

    __slots__ = ("addresses", "until")

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.until = 0.0

    def update(self, found: list[str]) -> None:
        """Use the result of a new lookup; the first address stays first if it is in there."""
        first = [each for each in self.addresses[:1] if each in found]
        self.addresses = first + [each for each in found if each not in first]

    def prefer(self, address: str) -> None:
        """Try this address first from now on."""
        if address in self.addresses:
            self.addresses = [address, *(each for each in self.addresses if each != address)]


def _weight(error: OSError) -> int:
    """Return how well an error explains why no address accepted; without IPv6, EADDRNOTAVAIL for ::1 explains least."""
    if is_local_shortage(error):
        return 0 if error.errno == errno.EADDRNOTAVAIL else 3
    return 2 if isinstance(error, ConnectionRefusedError) else 1


class Dialer:
    """Makes connections; `lookup` returns the addresses of a name, or raises OSError."""

    def __init__(self, loop: asyncio.AbstractEventLoop, lookup: Lookup | None = None) -> None:
        self._loop = loop
        self._lookup = lookup or self._resolve
        self._names: dict[str, Name | None] = {}

    async def connect(self, factory: Callable[[], Any], host: str, port: int, timeout: float) -> Any:
        """Return the transport of a connection whose protocol `factory` made.

        OSError or TimeoutError: no address accepted.
        """
        end = monotonic() + timeout
        name = self._name(host)
        if name is None:
            transport, _ = await self._loop.create_connection(factory, host, port)  # The caller has a timeout too.
            return transport
        addresses = await self._addresses(name, host, port, timeout * LOOKUP_SHARE)
        errors: list[OSError] = []
        for number, address in enumerate(addresses):
            share = max(end - monotonic(), 0.0) / (len(addresses) - number)
            try:
                transport = await self._attempt(factory, address, port, share)
            except OSError as error:  # TimeoutError is one.
                errors.append(error)
            else:
                name.prefer(address)
                return transport
        name.until = 0.0  # No address accepted: the name may have other addresses now.
        raise max(errors, key=_weight)

    async def _attempt(self, factory: Callable[[], Any], address: str, port: int, timeout: float) -> Any:
        async with asyncio.timeout(timeout):
            transport, _ = await self._loop.create_connection(factory, address, port)
        return transport

    def _name(self, host: str) -> Name | None:
        """Return the entry of a name, or None if the host is an address."""
        if host not in self._names:
            try:
                ip_address(host.partition("%")[0])
                self._names[host] = None
            except ValueError:
                self._names[host] = Name()
        return self._names[host]

    async def _addresses(self, name: Name, host: str, port: int, timeout: float) -> list[str]:
        if monotonic() >= name.until:
            try:
                async with asyncio.timeout(timeout):
                    name.update(await self._lookup(host, port))
            except (OSError, ValueError):  # ValueError: not a valid name
                if not name.addresses:
                    raise
            name.until = monotonic() + CACHE_SECONDS
        return name.addresses

    async def _resolve(self, host: str, port: int) -> list[str]:
        found = await self._loop.getaddrinfo(host, port, type=1)  # SOCK_STREAM
        return list(dict.fromkeys(str(address[0]) for *_, address in found))
