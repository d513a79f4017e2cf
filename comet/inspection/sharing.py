"""Counts the memory that processes share with one another, page by page.

`smaps_rollup` says how much a process shares, not with whom. The page tables (/proc/PID/pagemap,
Documentation/admin-guide/mm/pagemap.rst) name the physical page behind each address: pages with one number are one
page. Reading the numbers needs CAP_SYS_ADMIN; without it the kernel writes zeros.
"""

import array
import contextlib
import os
from collections.abc import Mapping, Set
from typing import Final

from comet.inspection import proc_text
from comet.inspection.facts import DENIED, Fact, Missing, fact
from comet.inspection.proc import ProcessFolder

PAGE: Final = os.sysconf("SC_PAGE_SIZE")
ENTRY: Final = 8
"""Bytes of an entry of pagemap."""

PRESENT: Final = 1 << 63
NUMBER: Final = (1 << 55) - 1
"""Bits of an entry: the page is in memory; its number."""

MOST: Final = 1 << 22
"""Entries that are read of one process: 16 GiB of addresses."""

ALONE: Final = Missing("-", "name more replicas")
TOO_LARGE: Final = Missing("not known", "it maps more than 16 GiB")


def pages(folder: ProcessFolder) -> Fact[Set[int]]:
    """Return the numbers of the physical pages that a process has in memory."""
    ranges = fact(lambda: proc_text.resident_ranges(folder.text("smaps")))
    if isinstance(ranges, Missing):
        return ranges
    if sum(end - first for first, end in ranges) // PAGE > MOST:
        return TOO_LARGE
    return fact(lambda: _numbers(folder, ranges))


def _numbers(folder: ProcessFolder, ranges: list[tuple[int, int]]) -> Set[int]:
    found = set[int]()
    opened = folder.open("pagemap")
    try:
        for first, end in ranges:
            found |= _present(_entries(opened, first // PAGE, end // PAGE))
    finally:
        os.close(opened)
    found.discard(0)
    if ranges and not found:
        raise PermissionError("pagemap")
    return found


def _entries(opened: int, first: int, end: int) -> bytes:
    content = b""
    with contextlib.suppress(OverflowError, OSError):  # A range that the kernel does not let be read: [vsyscall].
        while len(content) < (end - first) * ENTRY:
            piece = os.pread(opened, (end - first) * ENTRY - len(content), first * ENTRY + len(content))
            if not piece:
                break
            content += piece
    return content[: len(content) // ENTRY * ENTRY]


def _present(content: bytes) -> Set[int]:
    return {entry & NUMBER for entry in array.array("Q", content) if entry & PRESENT}


def together(known: Mapping[str, Fact[Set[int]]]) -> dict[str, Fact[int]]:
    """Return how many bytes each replica shares with any other one of these."""
    found: dict[str, Fact[int]] = {}
    for name, own in known.items():
        others = [each for other, each in known.items() if other != name]
        if not others:
            found[name] = ALONE
        elif isinstance(own, Missing):
            found[name] = own
        elif any(isinstance(each, Missing) for each in others):
            found[name] = next((each for each in others if isinstance(each, Missing)), DENIED)
        else:
            union = set[int]().union(*(each for each in others if not isinstance(each, Missing)))
            found[name] = len(own & union) * PAGE
    return found
