"""Removes passwords from messages.

Messages reach terminals, logs, events and other people. A value in the wrong place of a config, or a URL in an engine's
error, must not reveal its password there. The functions have no side effects.
"""

import re

HIDDEN = "***"

_USERINFO = re.compile(r"(\w:/{1,3}[^\s/@:'\"]{0,256}:)[^\s'\"]{0,2048}@|(\w://)[^\s/@:'\"]{20,256}@")
"""user:password@ of a URL, or user@ where the user is long and is a token.

The password ends at the last @ of the word.
"""

_SECRET = (
    r"(?:passw(?:or)?d|pwd|passphrase|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|credentials?|\bauth)"
)
_VALUE = r"""("[^"]*"?|'[^']*'?|[^\s&;'",\]})]+)"""

_NAMED = re.compile(rf"""(\b[\w.-]{{0,64}}{_SECRET}[\w.-]{{0,64}}["']?\s*(?:=|%3d)\s*){_VALUE}""", re.IGNORECASE)
"""name=value, where the name says that the value is a secret.

It occurs in queries, environments, command lines and libpq's connection strings.
"""

_OPTION = re.compile(
    r"""(--?[\w-]{0,64}(?:passw(?:or)?d|secret|token|api-?key)["',]{0,3}\s+["']?)([^\s"',-][^\s"',]*)""", re.IGNORECASE
)
"""--password value of a command line, including one that is quoted as a list."""

_PAIR = re.compile(rf"""(["'][\w.-]{{0,64}}{_SECRET}[\w.-]{{0,64}}["']\s*:\s*){_VALUE}""", re.IGNORECASE)
"""'NAME': value of a mapping, as Python and JSON write it."""


def concealed(text: str) -> str:
    """Return the text with every password in it replaced."""
    if "=" not in text and "@" not in text and ":" not in text and "-" not in text and "%3" not in text:
        return text
    text = _USERINFO.sub(lambda match: f"{match[1] or match[2]}{HIDDEN}@", text)
    for pattern in (_NAMED, _PAIR, _OPTION):
        text = pattern.sub(lambda match: match[1] + HIDDEN, text)
    return text
