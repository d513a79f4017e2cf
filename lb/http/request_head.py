"""Defines a validated request head, which `lb.http.request` parses and `lb.http.head_templates` matches (pure)."""

from typing import Final

CHUNKED: Final = -1
"""Length of a body in chunked coding."""

_IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))  # RFC 9110 section 9.2.2


class RequestHead:
    """One validated request head, rewritten for upstreams.

    `prefix` is the head without the client's address and the blank line. `length` is the length of the body, or
    CHUNKED. `keep_alive` says whether the client keeps its connection open. `fast_path` says that a complete response
    may take the fast path (no HEAD, upgrade, expectation or HTTP/1.0 with keep-alive), `fast_request` that the request
    may take it too, because it has no body. `options` are the Connection options that may name trailers.
    """

    __slots__ = (
        "expects",
        "fast_path",
        "fast_request",
        "idempotent",
        "is_head",
        "keep_alive",
        "length",
        "method",
        "minor",
        "options",
        "prefix",
        "size",
        "upgrades",
    )

    def __init__(
        self,
        method: bytes,
        minor: int,
        prefix: bytes,
        length: int,
        keep_alive: bool,
        upgrades: bool,
        expects: bool,
        size: int,
    ) -> None:
        self.method = method
        self.minor = minor
        self.prefix = prefix
        self.length = length
        self.keep_alive = keep_alive
        self.upgrades = upgrades
        self.expects = expects
        self.size = size
        self.options: list[bytes] = []
        self.is_head = method == b"HEAD"
        self.idempotent = method in _IDEMPOTENT
        self.fast_path = not (upgrades or expects or self.is_head or (minor == 0 and keep_alive))
        self.fast_request = self.fast_path and length == 0

    def with_prefix(self, prefix: bytes, size: int) -> "RequestHead":
        """Return a head with the same meaning as this one, but its own prefix and size."""
        head = RequestHead(
            self.method, self.minor, prefix, self.length, self.keep_alive, self.upgrades, self.expects, size
        )
        head.options = self.options
        return head

    def __repr__(self) -> str:
        body = "chunked" if self.length == CHUNKED else f"{self.length} bytes"
        return (
            f"<RequestHead {self.method.decode()} HTTP/1.{self.minor} {body} "
            f"{'keep-alive' if self.keep_alive else 'close'}>"
        )
