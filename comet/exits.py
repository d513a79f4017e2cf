"""How a container ended, as an engine or a swarm's manager tells it. Pure: signals are only named here, none is sent."""

from signal import Signals

from comet.observation import Exit
from comet.wallclock import iso, parse


def of_container(code: int | None, at: str, noticed: float, oom: bool = False) -> Exit:
    """The exit with this code, which is 128 + N for signal N (docker run(1)). `at` is when it ended, ISO 8601 (Docker's zero time: not
    known), `noticed` the wall time at which it was heard of."""
    ended = parse(at)
    detect_ms = None if ended is None else round(max(0.0, noticed - ended) * 1000, 1)
    return Exit(code=code, signal=_signal(code), oom=oom, at=iso(ended) if ended is not None else None, detect_ms=detect_ms)


def _signal(code: int | None) -> str | None:
    try:
        return Signals(code - 128).name if code is not None and code > 128 else None
    except ValueError:
        return None
