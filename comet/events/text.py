"""An event as text in three columns: time, subject, sentence. The time is local; the journal keeps UTC."""

import time
from collections.abc import Mapping
from typing import Any

from comet.common.clock import parse
from comet.events.event import line, visible


def clock(record: Mapping[str, Any]) -> str:
    """Return the local time of day with milliseconds."""
    at = parse(str(record.get("at", ""))) or 0.0
    return f"{time.strftime('%H:%M:%S', time.localtime(at))}.{int(at * 1000) % 1000:03d}"


def columns(record: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the time (`clock`), the subject (a replica, or `cluster`), and the sentence."""
    subject = visible(str(record.get("replica") or ""))
    return clock(record), subject or "cluster", line(record).removeprefix(f"{subject} ")
