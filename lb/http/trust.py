"""Says whose description of a client is believed: which peers are trusted proxies, and what is read of their requests.

Without `trusted_proxies` all peers are treated alike: X-Forwarded-For is kept and appended to, other fields of that
kind are dropped or overwritten. With it, those of trusted peers are kept, and those of all others dropped, also
X-Forwarded-For. Pure.
"""

import re
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final

from lb.http.fields import REQUEST_KINDS, TRUSTED_REQUEST_KINDS, UNTRUSTED_REQUEST_KINDS
from lb.http.request import RequestReader
from lb.interface.settings import Settings, parse_networks

_TRAIL: Final = b"\r\nX-Forwarded-For: "
_SCOPE: Final = rb"(?:%[0-9A-Za-z._~\-]+)?"
_SIX: Final = rb"[0-9A-Fa-f:.]+"
_NODE = re.compile(
    rb'"?(?:(%b)(?::[0-9]{1,5})?|(%b)%b|\[(%b)%b\](?::[0-9]{1,5})?)"?' % (rb"[0-9.]+", _SIX, _SCOPE, _SIX, _SCOPE)
).fullmatch


def client_address(peer: Any) -> bytes:
    """Return a client's address as in X-Forwarded-For."""
    try:
        if ":" not in peer[0]:
            return str(peer[0]).encode() or b"unknown"
        address = ip_address(peer[0].partition("%")[0])
    except (TypeError, ValueError, IndexError, AttributeError):
        return b"unknown"
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return str(address).encode()


def _said_address(text: bytes) -> bytes:
    """Return the address in a member of X-Forwarded-For, where it may have a port; nothing if it is no address."""
    found = _NODE(text)
    if found is None:
        return b""
    four, six, bracketed = found.groups()
    try:
        address = ip_address((four or six or bracketed).decode())
    except ValueError:
        return b""
    return client_address((str(address),))


class Readers:
    """The readers of request heads: `trusted` for trusted peers, `others` for all other ones."""

    def __init__(self, settings: Settings, local_host: bytes) -> None:
        self._local_host = local_host
        self.networks: list[IPv4Network | IPv6Network] = parse_networks(settings.trusted_proxies or "")
        others = REQUEST_KINDS if settings.trusted_proxies is None else UNTRUSTED_REQUEST_KINDS
        self.others = self._reader(settings, others)
        self.trusted = self._reader(settings, TRUSTED_REQUEST_KINDS)

    def _reader(self, settings: Settings, kinds: dict[bytes, int]) -> RequestReader:
        return RequestReader(
            settings.max_request_line,
            settings.max_fields,
            self._local_host,
            max_head=settings.max_head,
            kinds=kinds,
            scheme=b"http" if settings.tls_certificate is None else b"https",
        )

    def configure(self, settings: Settings) -> None:
        """Apply limits that changed while running."""
        for reader in (self.others, self.trusted):
            reader.set_limits(settings.max_request_line, settings.max_fields, settings.max_head)

    def trusts(self, address: bytes) -> bool:
        """Say whether this is the address of a trusted proxy."""
        if not self.networks:
            return False
        try:
            found = ip_address(address.decode("latin-1"))
        except ValueError:
            return False
        if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        return any(found in network for network in self.networks)

    def client_of(self, peer: bytes, prefix: bytes) -> bytes:
        """Return the address of the client: the last one in X-Forwarded-For, or the peer's, that is not trusted.

        What is no address (`unknown`, `_hidden`) ends the search: then it is the last trusted one.
        """
        client = peer
        for each in reversed(prefix.rpartition(_TRAIL)[2].split(b",")):
            if not (member := each.strip(b" \t")):
                continue
            if not self.trusts(client) or not (said := _said_address(member)):
                break
            client = said
        return client
