"""An event for people: when, who, what, as columns. Local time, as people read it; the journal keeps UTC."""

import time
from collections.abc import Mapping
from typing import Any

from comet.events import line
from comet.wallclock import parse


def clock(record: Mapping[str, Any]) -> str:
    """The time of day with milliseconds."""
    at = parse(str(record.get("at", ""))) or 0.0
    return f"{time.strftime('%H:%M:%S', time.localtime(at))}.{int(at * 1000) % 1000:03d}"


def columns(record: Mapping[str, Any]) -> tuple[str, str, str]:
    """When (`clock`), the subject (a replica, or `cluster`), and the sentence."""
    subject = str(record.get("replica") or "")
    return clock(record), subject or "cluster", line(record).removeprefix(f"{subject} ")
