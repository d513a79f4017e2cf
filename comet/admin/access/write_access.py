"""Decides which clients may write: those with the token or with a session.

Only the cluster's user, root, and a client that opens a one-time link get a session.

The client's uid is that of the process at the other end of the connection. A request that came through a proxy has the
proxy's uid, which says nothing about the client. A request that shows any trace of a proxy therefore gets a session by
link only.
"""

import secrets
import threading
import time
from collections.abc import Collection, Iterable

from comet.admin.access import request_guard, sessions
from comet.admin.access.request_guard import Fields
from comet.admin.access.sessions import LINK_LIFE, Keys

TOKEN = "admin.token"
"""The file in `.comet/` with the token that every write may show."""


def now() -> float:
    """Return seconds since boot, including sleep: the same for every process."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def new_keys() -> Keys:
    return Keys(secrets.token_urlsafe(32), secrets.token_urlsafe(32))


def new_link(keys: Keys) -> str:
    """Return the token of a link that is valid once."""
    return sessions.new_link(keys, secrets.token_urlsafe(24), now())


class Access:
    """Access rights of requests; `owners` are the uids that get a session by opening the dashboard."""

    def __init__(self, token: str, keys: Keys, owners: Collection[int]) -> None:
        self._token = token
        self._keys = keys
        self._owners = owners
        self._lock = threading.Lock()
        self._opened_links: dict[str, float] = {}
        """Opening time of each link by nonce, kept as long as the link could be opened again."""

    def is_owner(self, uid: int | None, names: Iterable[str], protocol: str) -> bool:
        """Return whether a request is known to come from an owner's own client, without a proxy.

        `names` are the names of its header fields.
        """
        return uid in self._owners and request_guard.is_direct(names, protocol)

    def has_session(self, cookies: Iterable[str], uid: int | None) -> bool:
        """Return whether one of these cookies is a session of this client.

        A server on another port may have set other cookies of the same name.
        """
        moment = now()
        return any(sessions.is_session(self._keys, cookie, uid, moment) for cookie in cookies)

    def may_see_all(self, headers: Fields, session: bool) -> bool:
        """Return whether a reader also has the right to write."""
        return request_guard.has_token(headers, self._token) or (session and request_guard.is_same_site(headers))

    def refusal(self, headers: Fields, session: bool) -> request_guard.Refusal | None:
        """Return why a write is refused; None if it is allowed."""
        return request_guard.check_write(headers, self._token, session)

    def new_session(self, uid: int | None) -> str:
        return sessions.new_session(self._keys, uid, secrets.token_urlsafe(24), now())

    def open_link(self, text: str) -> bool:
        """Return whether this is a valid link token that has not been used, and mark it as used."""
        moment = now()
        nonce = sessions.link_nonce(self._keys, text, moment)
        if nonce is None:
            return False
        with self._lock:
            self._opened_links = {each: at for each, at in self._opened_links.items() if moment - at <= LINK_LIFE}
            if nonce in self._opened_links:
                return False
            self._opened_links[nonce] = moment
        return True
