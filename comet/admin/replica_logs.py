"""Reads the last lines that replicas printed, as text that a page can show.

It is imported when a log is asked for, because the engine's library takes memory.
"""

import re
from collections.abc import Mapping
from typing import Any

from comet.common.errors import Unknown
from comet.events.event import visible
from comet.runtimes.logs import recent
from comet.state.directory import Cluster

_STYLE = re.compile(r"\x1b\[[0-9;:]*[A-Za-z]")
"""Terminal colors and the like (ECMA-48, CSI): the page shows none."""


def read(cluster: Cluster, state: Mapping[str, Any] | None, names: list[str], lines: int) -> list[dict[str, str]]:
    """Return the last lines of each named replica; Unknown if there is no such replica."""
    kinds = {row["name"]: row["kind"] for row in (state or {}).get("replicas", ())}
    for name in names:
        if name not in kinds:
            raise Unknown(f"{visible(name)[:60]}: no such replica")
    return [{"name": name, "text": shown(recent(cluster, name, kinds[name]), lines)} for name in names]


def shown(output: bytes, lines: int) -> str:
    """Return the last lines of the output, without styles and with other control characters escaped."""
    kept = output.decode("utf-8", errors="replace").splitlines()[-lines:]
    return "\n".join(visible(_STYLE.sub("", line)) for line in kept)
