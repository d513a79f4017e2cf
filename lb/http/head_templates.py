"""Matches request heads against templates, made from earlier heads, instead of parsing them line by line.

A program sends the same fields in the same order and changes only their values. So a parsed head serves as a model: its
`HeadTemplate` is one regular expression that contains literally the method, the version, Host, the field names and
every field that the proxy must understand (framing, Connection, Via and so on). Only the target and the values of
ordinary fields are variable. A head that matches means the same as the model, and one match takes a fraction of the
time of parsing.

A template accepts less than the parser, never more, and gives the same result. A variable value contains no control
character and no white space at its ends, so it is already normalized. A model whose own result its template would not
give gets no template. All repetitions are possessive: no input may cost more than its length (RFC 9112 section 11).

Pure: no I/O, no clock.
"""

import re
from collections.abc import Callable
from typing import Final

from lb.http.fields import FORWARD, NO_CONTROLS
from lb.http.request_head import RequestHead

_TARGET: Final = rb"/[\x21\x22\x24-\x7e]*+"
_VALUE: Final = rb": (?! )[^\r]*+(?<! )\r\n"

_NO_CONTROLS: Final = NO_CONTROLS.replace(b"\t", b"")
"""Bytes to delete from a head so that its control characters remain: one pass costs less than a set in the pattern."""


class HeadTemplate:
    """The pattern of heads that mean the same as `model`."""

    __slots__ = ("_ends", "_host", "_match", "_rest", "_single", "model", "pattern")

    def __init__(self, pattern: bytes, lines: int, model: RequestHead) -> None:
        compiled = re.compile(pattern)
        self._match = compiled.fullmatch
        self._single = compiled.groups == 1
        self._ends = b"\r\n" * lines
        self._host = self._rest = b""
        self.pattern = pattern
        self.model = model

    def prefix(self, raw: bytes) -> bytes | None:
        """Return what to send of `raw` (see `RequestHead.prefix`), or None if it does not match."""
        match = self._match(raw)
        if match is None or raw.translate(None, _NO_CONTROLS) != self._ends:
            return None
        if self._single:
            return match[1] + self._rest
        line, *fields = match.groups()
        return b"".join((line, self._host, *fields, self._rest))

    def derive_literals(self, raw: bytes) -> bool:
        """Take the literal parts of the prefix from the model's head `raw`; return False if that is not possible."""
        match, sent = self._match(raw), self.model.prefix
        if match is None:
            return False
        if not self._single:
            at = len(match[1])
            self._host = sent[at : sent.index(b"\r\n", at) + 2]
        kept = self.prefix(raw)
        if kept is None or not sent.startswith(kept):
            return False
        self._rest = sent[len(kept) :]
        return True


def pattern_of(raw: bytes, kind_of: Callable[[bytes], int]) -> tuple[bytes, int]:
    """Return the pattern for heads like `raw` and their number of lines; `kind_of` maps a field's name to its kind.

    The groups contain what is forwarded unchanged: the request line and ordinary fields. If Host comes first in its
    usual form and all other fields are ordinary, one group contains everything, Host included. Otherwise the first
    group is the request line.
    """
    first, *fields = raw[:-4].split(b"\r\n")
    kept = [kind_of(line.partition(b":")[0]) == FORWARD for line in fields]
    one_group = fields[0].startswith(b"Host: ") and all(kept[1:]) if fields else False
    pattern = [b"(", re.escape(first[: first.index(b" ") + 1]), _TARGET, rb" HTTP/1\.1\r\n", b"" if one_group else b")"]
    is_open = one_group
    for line, ordinary in zip(fields, kept, strict=True):
        if is_open != (ordinary or one_group):
            is_open = not is_open
            pattern.append(b"(" if is_open else b")")
        pattern.append(re.escape(line.partition(b":")[0]) + _VALUE if ordinary else re.escape(line) + rb"\r\n")
    pattern.append(rb")\r\n" if is_open else rb"\r\n")
    return b"".join(pattern), len(fields) + 2


class HeadTemplates:
    """The templates in use, the last matched first; trying all of them costs less than parsing a head."""

    __slots__ = ("_until_next", "known")

    CAPACITY: Final = 4
    LEARN_INTERVAL: Final = (
        256  # each N-th unmatched head becomes a model: compiling costs as much as parsing 100 heads
    )

    def __init__(self) -> None:
        self.known: list[HeadTemplate] = []
        self._until_next = 1

    def prefer(self, template: HeadTemplate) -> None:
        """Move a template that matched to the front."""
        self.known.remove(template)
        self.known.insert(0, template)

    def learn(self, raw: bytes, head: RequestHead, kind_of: Callable[[bytes], int]) -> None:
        """Make each N-th parsed head without a match a model."""
        self._until_next -= 1
        if self._until_next:
            return
        self._until_next = self.LEARN_INTERVAL
        pattern, lines = pattern_of(raw, kind_of)
        if all(pattern != each.pattern for each in self.known):
            template = HeadTemplate(pattern, lines, head)
            if template.derive_literals(raw):
                self.known[self.CAPACITY - 1 :] = []
                self.known.insert(0, template)

    def forget(self) -> None:
        """Drop all templates, because the limits under which their models were parsed have changed."""
        self.known.clear()
