"""Tells the time since this boot of the machine, by the clock that host and containers share, and which boot it is."""

from __future__ import annotations

import time


def boot_time() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Return the id of this boot (random(4)), "" where it cannot be read."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
