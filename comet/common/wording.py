"""Words in messages: the known one that a mistyped one probably means, singular and plural. Pure."""

import difflib
from collections.abc import Iterable
from string import digits as DIGITS

MAX_COMPARED = 60
"""Characters of a word that are compared; the time that it takes grows with their square."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is most like this one, None where none is.

    Names that differ in their number alone are no mistyped ones: `worker-9` does not mean `worker-0`.
    """
    typed = word[:MAX_COMPARED].lower().replace("_", "-")
    near = difflib.get_close_matches(typed, list(known), n=1)
    is_other_number = bool(near) and near[0] != typed and near[0].rstrip(DIGITS) == typed.rstrip(DIGITS)
    return near[0] if near and not is_other_number else None


def hint(word: str, known: Iterable[str], lead: str = "allowed") -> str:
    """Return `did you mean worker-1?`; where no known word is like this one, `allowed: ` and the known ones."""
    words = list(known)
    near = nearest(word, words)
    return f"did you mean {near}?" if near else f"{lead}: {', '.join(words)}"


def there_are(word: str, known: Iterable[str], others: Iterable[str] = ()) -> str:
    """Return `there are worker-0, lb-0`, and which of them, or of the others, was probably meant."""
    words = list(known)
    near = nearest(word, [*words, *others])
    return f"there are {', '.join(words) or 'none'}" + (f"; did you mean {near}?" if near else "")


def counted(number: int, things: str) -> str:
    """Return `3 workers`, or `1 worker`; `things` is a plural in -s."""
    return f"{number} {things[:-1] if number == 1 else things}"
