"""Says what differs between two configs: a `reload` applies it, and its result and its event show it.

Pure.
"""

from collections.abc import Iterable
from typing import Any

from comet.common.redaction import concealed
from comet.config.keys import KEYS, LIMITS
from comet.config.schema import Config

SIMPLE = (bool, int, float, str, type(None))
"""The types of values that are shown as they are."""


def changed_keys(before: Config, after: Config) -> list[str]:
    """Return the keys whose values differ, in the order of the table of keys."""
    names = {key: key.replace("-", "_") for key in KEYS | LIMITS if key != "limits"}
    return [key for key, name in names.items() if getattr(before, name) != getattr(after, name)]


def changed_values(before: Config, after: Config, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the old and the new value of each of these keys that has a simple value: a number, a word or none."""
    fields = {key: key.replace("-", "_") for key in keys}
    pairs = {key: {"old": getattr(before, name), "new": getattr(after, name)} for key, name in fields.items()}
    return {
        key: {side: concealed(value) if isinstance(value, str) else value for side, value in pair.items()}
        for key, pair in pairs.items()
        if all(isinstance(value, SIMPLE) for value in pair.values())
    }
