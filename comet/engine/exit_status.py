"""Decodes how a container ended, as an engine or a swarm's manager reports it. Pure.

Signals are only named here; none is sent.
"""

from signal import Signals

from comet.common.clock import iso, parse
from comet.reconcile.observations import Exit

KILLED = 128 + Signals.SIGKILL
"""The exit code of a container that SIGKILL ended, or a shell in it that passes on the end of a child."""


def of_container(code: int | None, at: str, noticed: float, oom: bool = False) -> Exit:
    """Return the exit for this code, which is 128 + N for signal N (docker run(1)).

    `at` is when the container ended, in ISO 8601 (Docker's zero time: not known), `noticed` the wall time at which the
    end was noticed.
    """
    ended = parse(at)
    detect_ms = None if ended is None else round(max(0.0, noticed - ended) * 1000, 1)
    return Exit(
        code=code, signal=_signal(code), oom=oom, at=iso(ended) if ended is not None else None, detect_ms=detect_ms
    )


def _signal(code: int | None) -> str | None:
    try:
        return Signals(code - 128).name if code is not None and code > 128 else None
    except ValueError:
        return None
