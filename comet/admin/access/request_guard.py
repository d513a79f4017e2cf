"""Decides which requests may read and which may write.

Pure: header values in, a refusal or None out.

A read needs only a valid Host. A page of another site whose own name resolves to 127.0.0.1 (DNS rebinding) sends that
name, and is refused. A write needs the token of `.comet/admin.token`, or a session (see
`comet.admin.access.write_access`) together with an Origin that is ours: cookies ignore ports, so another server on this
host would otherwise count as the same site.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, overload

NAMES = ("127.0.0.1", "localhost", "[::1]")
_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE | re.ASCII)

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src "
    "'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Header fields of every answer: no content from other origins, no framing by other pages, no caching."""


_INLINE = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def page_policy(page: str) -> str:
    """Return the policy of one of our pages with inline scripts, which it allows by their SHA-256.

    See CSP level 3, 2.3.1, hash-source. `page` is the file as stored: content that is filled in later must not be able
    to allow itself.
    """
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in _INLINE.findall(page)]
    return CONTENT_SECURITY_POLICY.replace(
        "script-src 'self'", " ".join(["script-src 'self'", *(f"'sha256-{each}'" for each in hashes)])
    )


class Fields(Protocol):
    """Header fields by name, case-insensitive."""

    @overload
    def get(self, key: str) -> str | None: ...

    @overload
    def get(self, key: str, default: str) -> str: ...


@dataclass(frozen=True)
class Refusal:
    """The status and the message with which a request is refused."""

    status: int
    error: str


def check_host(hosts: list[str]) -> Refusal | None:
    """Refuse a request whose Host is none of this machine's own NAMES, with any port."""
    if len(hosts) == 1 and _HOST.fullmatch(hosts[0]):
        return None
    return Refusal(403, f"Host must be one of {', '.join(NAMES)}")


PROXY_FIELDS = (
    "forwarded",
    "via",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
)


def is_direct(names: Iterable[str], protocol: str) -> bool:
    """Return whether a request shows no trace of a proxy.

    Traces are fields that proxies add, and HTTP/1.0, which nginx speaks and no browser does.
    """
    fields = [name.lower() for name in names]
    return protocol == "HTTP/1.1" and not any(name in PROXY_FIELDS or name.startswith("x-forwarded") for name in fields)


def is_same_site(headers: Fields) -> bool:
    """Return whether the browser sent this neither for another site nor for another server on this host."""
    return headers.get("Sec-Fetch-Site", "none") in ("same-origin", "none")


def has_token(headers: Fields, token: str) -> bool:
    scheme, _, credentials = headers.get("Authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(credentials.strip().encode(), token.encode())


_CREDENTIALS = (
    "'Authorization: Bearer' with the token in .comet/admin.token, or the dashboard's session: "
    "open the link that `python supervisor.py dashboard` prints"
)
WRITE_REFUSED = f"a write needs {_CREDENTIALS}"
INSPECTION_REFUSED = f"an inspection needs {_CREDENTIALS}"
LOGS_REFUSED = f"reading logs needs {_CREDENTIALS}"


def check_write(headers: Fields, token: str, session: bool) -> Refusal | None:
    """Refuse a write from another site, or from a client that has neither token nor session."""
    origin = headers.get("Origin")
    is_own_origin = origin is not None and origin.lower() == f"http://{headers.get('Host', '')}".lower()
    if (origin is not None and not is_own_origin) or not is_same_site(headers):
        return Refusal(403, "writes from another site are refused")
    if headers.get("Authorization"):
        return None if has_token(headers, token) else Refusal(401, "the token is not that of .comet/admin.token")
    if not session:
        return Refusal(401, WRITE_REFUSED)
    return None if is_own_origin else Refusal(403, "a session's write needs the Origin of the dashboard")
