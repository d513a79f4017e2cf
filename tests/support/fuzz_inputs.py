"""Inputs for readers: random bytes, random YAML and JSON, and good documents with something changed at random."""

import copy
import json
import os
import random
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

FULL = bool(os.environ.get("COMET_TEST_FULL"))
INPUTS = 10_000 if FULL else 40

ODD_NUMBERS = [
    0,
    -1,
    1,
    2**31,
    2**53,
    2**63,
    2**64,
    -(2**63),
    10**30,
    1e308,
    -1e308,
    0.1,
    float("inf"),
    float("nan"),
    True,
    False,
]


ODD_TEXTS = [
    "",
    " ",
    "\0",
    "\x1b[2J",
    "a\nb",
    "\ud800",
    "é",
    "٩",
    "²",
    "../x",
    "/",
    "a" * 300,
    "NaN",
    "none",
    "{x}",
    "{",
    "%s",
    "lb-0",
]


ODD = st.one_of(
    st.none(), st.sampled_from(ODD_NUMBERS), st.sampled_from(ODD_TEXTS), st.integers(), st.floats(), st.text(max_size=8)
)


VALUES = st.recursive(
    ODD, lambda each: st.lists(each, max_size=4) | st.dictionaries(st.text(max_size=6), each, max_size=4), max_leaves=8
)


DEEP = st.builds(
    lambda count, mark: mark * count, st.sampled_from([70, 2_000, 200_000]), st.sampled_from(["[", '{"a":', "- ", "[["])
)


MARKS = [
    '"',
    "'",
    "\\UFFFFFFFF",
    "\\x",
    "&a ",
    "*a",
    "<<: ",
    "!!int ",
    "! ",
    "%YAML 1.",
    "|",
    "? ",
    "- ",
    ": ",
    "{",
    "}",
    "\t",
    "\n",
    "---\n",
    "#",
]


SYNTAX = st.lists(st.sampled_from(MARKS), min_size=1, max_size=4).map("".join)
"""What YAML and JSON give a meaning to."""


DIGITS = st.builds(lambda count: "9" * count, st.sampled_from([30, 5_000, 100_000]))


def mutated(value: Any, chance: random.Random, odd: Any) -> Any:
    """The document with one thing changed: a value, a key, an element too few or twice."""
    value = copy.deepcopy(value)
    places = list(_places(value))
    if not places:
        return odd
    holder, key = chance.choice(places)
    match chance.randrange(4):
        case 0:
            holder.pop(key)
        case 1 if isinstance(holder, dict):
            holder[str(odd)] = holder.pop(key)
        case 2 if isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        case _:
            holder[key] = odd
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key, below in (
        list(value.items()) if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield value, key
        yield from _places(below)


def spoiled(data: bytes, chance: random.Random, junk: bytes) -> bytes:
    """The bytes with some of them replaced."""
    at = chance.randrange(len(data) + 1)
    return data[:at] + junk + data[min(len(data), at + chance.randrange(4)) :]


def text_of(value: Any) -> bytes:
    return json.dumps(value).encode()


def inputs(good: Any) -> st.SearchStrategy[bytes]:
    whole = good if isinstance(good, bytes) else text_of(good)
    changed_documents = (
        st.builds(lambda chance, odd: text_of(mutated(good, chance, odd)), st.randoms(use_true_random=False), VALUES)
        if not isinstance(good, bytes)
        else st.nothing()
    )
    return st.one_of(
        changed_documents,
        st.builds(
            lambda chance, junk: spoiled(whole, chance, junk), st.randoms(use_true_random=False), st.binary(max_size=6)
        ),
        st.builds(
            lambda chance, marks: spoiled(whole, chance, marks.encode()), st.randoms(use_true_random=False), SYNTAX
        ),
        st.binary(max_size=60),
        VALUES.map(text_of),
        st.one_of(DEEP, DIGITS).map(str.encode),
        st.builds(
            lambda chance, digits: spoiled(whole, chance, digits.encode()), st.randoms(use_true_random=False), DIGITS
        ),
    )
