"""Waits for what a test observes."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 4
"""A busy machine is several times slower than a quiet one. Each bound is multiplied by this: a bound only ends a wait
that would never end.
"""


def wait_until(condition: Callable[[], T], seconds: float = 30.0, what: str = "") -> T:
    """Poll until `condition()` is true and return its value; fail after `seconds` of a quiet machine.

    A condition that is expensive to read is read less often: the wait leaves the processor to what it waits for.
    """
    deadline = time.monotonic() + seconds * PATIENCE
    while True:
        began = time.monotonic()
        answer = condition()
        now = time.monotonic()
        if answer:
            return answer
        if now > deadline:
            raise AssertionError(f"not within {seconds * PATIENCE:g} s: {what or condition}")
        time.sleep(min(0.25, max(0.01, 3 * (now - began))))
