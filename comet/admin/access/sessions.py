"""Signs and checks sessions (the dashboard's cookie) and the one-time links that give one.

Pure. Both prove the right to write without the token. Both are texts with an HMAC under our own keys, so a wrong guess
costs nothing. A session is bound to the uid of the client that received it: browsers send cookies to every port of a
host, so another user's server on this machine may see one, but cannot use it. Times are seconds since boot, which no
clock change affects. Keys live as long as one supervisor, and with them everything that they signed.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass

SESSION_LIFE = 12 * 3600
"""Seconds for which a session is valid."""

LINK_LIFE = 300
"""Seconds within which a link must be opened."""

_SESSION = re.compile(r"(\d{1,12})\.(\d{1,10}|-)\.([\w-]{16,64})\.([0-9a-f]{64})", re.ASCII)
_LINK = re.compile(r"(\d{1,12})\.([\w-]{16,64})\.([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True)
class Keys:
    """The keys that sign sessions and links.

    The link's key belongs to one server process, because the record of opened links dies with that process.
    """

    session: str
    link: str


def new_session(keys: Keys, uid: int | None, nonce: str, now: float) -> str:
    """Return a session for this uid; `nonce` is an unpredictable text of 16 or more characters."""
    content = f"{int(now) + SESSION_LIFE}.{'-' if uid is None else uid}.{nonce}"
    return f"{content}.{_signature(keys.session, content)}"


def is_session(keys: Keys, text: str, uid: int | None, now: float) -> bool:
    """Return whether this is a valid session of the user at the other end of the connection that carried it."""
    match = _SESSION.fullmatch(text)
    if match is None or not hmac.compare_digest(match[4], _signature(keys.session, text.rpartition(".")[0])):
        return False
    return now < int(match[1]) and match[2] == ("-" if uid is None else str(uid))


def new_link(keys: Keys, nonce: str, now: float) -> str:
    content = f"{int(now) + LINK_LIFE}.{nonce}"
    return f"{content}.{_signature(keys.link, content)}"


def link_nonce(keys: Keys, text: str, now: float) -> str | None:
    """Return the nonce of a valid, unexpired link token; None for any other text."""
    match = _LINK.fullmatch(text)
    if (
        match is None
        or not hmac.compare_digest(match[3], _signature(keys.link, text.rpartition(".")[0]))
        or now >= int(match[1])
    ):
        return None
    return match[2]


def _signature(key: str, content: str) -> str:
    return hmac.new(key.encode(), content.encode(), hashlib.sha256).hexdigest()
