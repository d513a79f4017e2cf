"""Who may read and who may write. Pure: header values in, a refusal or nothing out.

Reads need nothing but an honest Host: a page of another site that has its own name resolve to 127.0.0.1 (DNS rebinding) sends its own
name, and is refused. Writes need the token of `.comet/admin.token`, or the session that `GET /` gave to the browser, and then an Origin
that is ours: cookies know no ports, so another server on this host would otherwise count as the same site.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, overload

NAMES = ("127.0.0.1", "localhost", "[::1]")
_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE | re.ASCII)

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; "
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
"""Fields of every answer: nothing is loaded from elsewhere, nobody frames us, nothing is kept."""


_INLINE = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def page_policy(page: str) -> str:
    """The policy of a page of ours that has scripts written in it: these run too, known by their SHA-256 (CSP level 3, 2.3.1, hash-source).

    `page` is the file as it is kept: what is filled in later must not be able to allow itself.
    """
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in _INLINE.findall(page)]
    return CONTENT_SECURITY_POLICY.replace("script-src 'self'", " ".join(["script-src 'self'", *(f"'sha256-{each}'" for each in hashes)]))


class Fields(Protocol):
    """Header fields by name, whatever its case."""

    @overload
    def get(self, key: str) -> str | None: ...

    @overload
    def get(self, key: str, default: str) -> str: ...


@dataclass(frozen=True)
class Refusal:
    """What a request is refused with."""

    status: int
    error: str


def check_host(hosts: list[str]) -> Refusal | None:
    """Refuse a request that was not sent to this machine by one of its own NAMES, any port."""
    if len(hosts) == 1 and _HOST.fullmatch(hosts[0]):
        return None
    return Refusal(403, f"Host must be one of {', '.join(NAMES)}")


def check_write(headers: Fields, token: str, session: Callable[[], bool]) -> Refusal | None:
    """Refuse a write of another site, or of somebody who has neither token nor session. `session` says whether the cookie is ours."""
    origin, fetch = headers.get("Origin"), headers.get("Sec-Fetch-Site")
    ours = origin is not None and origin.lower() == f"http://{headers.get('Host', '')}".lower()
    if (origin is not None and not ours) or (fetch is not None and fetch not in ("same-origin", "none")):
        return Refusal(403, "writes from another site are refused")
    scheme, _, given = headers.get("Authorization", "").partition(" ")
    if scheme:
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode()):
            return None
        return Refusal(401, "the token is not that of .comet/admin.token")
    if not session():
        return Refusal(401, "a write needs 'Authorization: Bearer' with the token in .comet/admin.token, or the dashboard's session")
    return None if ours else Refusal(403, "a session's write needs the Origin of the dashboard")
