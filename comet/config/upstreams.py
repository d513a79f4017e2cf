"""The key `upstreams`: the addresses of what already runs, in place of workers. Pure."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from comet.common.values import shown
from comet.config.runtimes import RUNTIMES

ALLOWED = "a list of http://HOST or http://HOST:PORT"
RUNTIME = next(name for name, traits in RUNTIMES.items() if not traits.supervised)

_URL = re.compile(r"http://(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z_.\-]+))(?::([0-9]{1,5}))?/?")
_OF_WORKERS = ("runtime", "stats-dir", "registry", "request-ledger", "health-restart")
"""Keys about what Comet starts, besides those that begin with `worker`."""


def addresses(value: Any) -> tuple[tuple[str, int], ...]:
    """Return host and port of each URL."""
    if not isinstance(value, list):
        raise ValueError(f"{shown(value)} is not a list")
    return tuple(map(_address, value))


def _address(url: Any) -> tuple[str, int]:
    if isinstance(url, str) and url.lower().startswith("https:"):
        raise ValueError(
            f"{shown(url)}: the load balancers speak plain HTTP to upstreams (put a proxy that ends TLS before it)"
        )
    match = _URL.fullmatch(url) if isinstance(url, str) else None
    port = 0 if match is None else int(match[3] or 80)
    if match is None or not 0 < port < 65536:
        raise ValueError(f"{shown(url)} is not the address of an upstream")
    return match[1] or match[2], port


def imply(values: dict[str, Any], lines: Mapping[str, int]) -> None:
    """Set what follows from the upstreams where the file does not say it."""
    if values["upstreams"]:
        values["worker"] = len(values["upstreams"])
        values["runtime"] = RUNTIME
        if "health-path" not in lines:
            values["health-path"] = "/"


def problems(values: Mapping[str, Any], lines: Mapping[str, int], name: str) -> Iterator[str]:
    """Yield the settings that do not go together with upstreams."""
    if not values["upstreams"]:
        return
    for key in lines:
        if key.startswith("worker") or key in _OF_WORKERS:
            yield f"{name}:{lines[key]}: {key}: is for what Comet starts, and upstreams run already (leave it out)"
    if values["fault-point"] == "worker":
        yield (
            f"{name}:{lines['fault-point']}: fault-point: acts in the built-in worker only (with upstreams, leave it "
            "out: it is lb)"
        )
