"""Heads alike: requests that differ from one read before only in the target and in the values of ordinary fields.

A program sends the same fields in the same order, whatever their values. So a head that was read in full serves as model: from it a
`Template` is made, one regular expression in which the method, the version, Host, the names and every field that the proxy must
understand (framing, Connection, Via and so on) stand literally, and only target and ordinary values are open. What matches is
understood as the model was, and one match takes a fraction of the time of reading line by line.

A template accepts less than the reader does, never more, and gives the same result: an open value takes no control character and
begins and ends with no white space, so that it is its own usual form, and a model whose own result the template would not give
makes none. All repetitions are possessive (RFC 9112 section 11: no input may cost more than its length).

Pure: no I/O, no clock.
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from lb.fields import FORWARD, NO_CONTROLS

if TYPE_CHECKING:
    from lb.request import RequestHead

_TARGET: Final = rb"/[\x21\x22\x24-\x7e]*+"
_VALUE: Final = rb": (?! )[^\r]*+(?<! )\r\n"
_NO_CONTROLS: Final = NO_CONTROLS.replace(
    b"\t", b""
)  # What is deleted of a head to see its controls: one pass costs less than a set in the pattern.


class Template:
    """What a head must look like to be understood as `model` was."""

    __slots__ = ("_ends", "_host", "_match", "_rest", "_single", "model", "pattern")

    def __init__(self, pattern: bytes, lines: int, model: "RequestHead") -> None:
        compiled = re.compile(pattern)
        self._match = compiled.fullmatch
        self._single = compiled.groups == 1
        self._ends = b"\r\n" * lines
        self._host = self._rest = b""
        self.pattern = pattern
        self.model = model

    def prefix(self, raw: bytes) -> bytes | None:
        """Return what is to be sent of `raw` (as `RequestHead.prefix`), or None: it is not alike."""
        match = self._match(raw)
        if match is None or raw.translate(None, _NO_CONTROLS) != self._ends:
            return None
        if self._single:
            return match[1] + self._rest
        line, *fields = match.groups()
        return b"".join((line, self._host, *fields, self._rest))

    def settle(self, raw: bytes) -> bool:
        """Take from the model, which came as `raw`, what is sent beside the groups; False when it does not fit."""
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
    """Return the pattern for heads like `raw`, and the number of its lines. `kind_of` tells the kind of a field by its name.

    In the groups stands what is sent on as it came: the request line, after it Host if that comes first and as usual, ordinary fields.
    If all is in one group nothing stands between: several begin with the request line alone.
    """
    first, *fields = raw[:-4].split(b"\r\n")
    kept = [kind_of(line.partition(b":")[0]) == FORWARD for line in fields]
    usual = fields[0].startswith(b"Host: ") and all(kept[1:]) if fields else False
    pattern = [b"(", re.escape(first[: first.index(b" ") + 1]), _TARGET, rb" HTTP/1\.1\r\n", b"" if usual else b")"]
    is_open = usual
    for line, ordinary in zip(fields, kept, strict=True):
        if is_open != (ordinary or usual):
            is_open = not is_open
            pattern.append(b"(" if is_open else b")")
        pattern.append(re.escape(line.partition(b":")[0]) + _VALUE if ordinary else re.escape(line) + rb"\r\n")
    pattern.append(rb")\r\n" if is_open else rb"\r\n")
    return b"".join(pattern), len(fields) + 2


class Templates:
    """The templates in use, the latest first: so few that trying them all costs less than reading a head."""

    __slots__ = ("_until", "known")

    CAPACITY: Final = 4
    EVERY: Final = 256  # One in so many heads that are alike to nothing is made a model: compiling costs as much as reading a hundred.

    def __init__(self) -> None:
        self.known: list[Template] = []
        self._until = 1

    def prefer(self, template: Template) -> None:
        """Let one that fitted be tried first."""
        self.known.remove(template)
        self.known.insert(0, template)

    def learn(self, raw: bytes, head: "RequestHead", kind_of: Callable[[bytes], int]) -> None:
        """Take a head for a model that no template fitted and that was read in full, now and then."""
        self._until -= 1
        if self._until:
            return
        self._until = self.EVERY
        pattern, lines = pattern_of(raw, kind_of)
        if all(pattern != each.pattern for each in self.known):
            template = Template(pattern, lines, head)
            if template.settle(raw):
                self.known[self.CAPACITY - 1 :] = []
                self.known.insert(0, template)

    def forget(self) -> None:
        """Drop all: the limits changed under which the models were read."""
        self.known.clear()
