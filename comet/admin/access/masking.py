"""Masks the state for readers without the right to write: only what is known to be harmless is shown.

Pure. It is an allow-list, not a list of secrets: a key, field or sentence that is added later is hidden until it is
listed here. Numbers and booleans are shown. Texts may contain a service's passwords (its command, its environment, its
output, what an engine reports about it).
"""

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "(hidden)"
"""Replaces what is not shown; the page says how to see it: by the right to write."""

CONFIG = frozenset(
    (
        "runtime", "stats-dir", "load-balancer-host", "worker-host", "balance", "balance-key", "balance-cookie",
        "weights", "trusted-proxies", "tls", "health-status",
        "delay-distribution", "fault-point",
        "registry",
        "health-path", "worker-image", "worker-user", "limits", "faults",
    )
)  # fmt: skip
"""Keys of config.yaml whose texts are shown."""

NAMES_ONLY = frozenset(("worker-environment",))
"""Keys whose values are pairs of a name and a value, of which only the names are shown."""

FIELDS = frozenset(
    (
        "at", "event", "replica", "kind", "id", "name", "role", "state", "signal", "node", "version", "url", "changed",
        "lb", "worker",
        "scenario", "file", "delay-distribution",
    )
)  # fmt: skip
"""Fields of events, replicas and edges whose texts are shown; none of them is free text."""

WORDS = """
a address after again an and answer answered answering answers are as assign at bad balancer balancers be been
before but by cannot check checks client clients closed code command connect connecting connection connections cont
container containers continue crashed database dead denied device did died disk do docker does down drained draining
during ejected empty end ended engine errors exit exited failed files first for free full gateway given gone grace
head health healthy host http hung in is it its keep keeps kill killed lb lease left load locked longer lost many
memory more network new no nobody nobody's node not nothing of on one only oom open or other out path permission
ping port process progress read ready refused removed request requested requests reset resolved response responses
restarted route row run running runs s seconds server some space start started starting state status stop stopped
stopping supervisor task than that the they this time timed timeout to told too understood unhealthy unknown
unreachable until up use used was where while with within without worker workers write
"""
VOCABULARY = frozenset(WORDS.split())
"""The words of Comet's own reasons; a reason with any other word may quote a foreign text."""

_TOKEN = re.compile(
    r"(?:lb|worker)-\d{1,4}\b|\bSIG[A-Z]{2,7}\b|\b\d{1,9}(?:\.\d{1,6})?(?:ms|s|m|h|%|\b)|\b[A-Za-z']+\b|[\s,;:.()-]",
    re.ASCII,
)
_NAME = re.compile(r"(?:lb|worker)-\d+|SIG[A-Z]+|[^A-Za-z]+|\d.*", re.ASCII)
_CHECK = re.compile(r"(not ready within [\d.]+ s: )?GET (/[\w.~/-]{0,200})(\?[^\s:]*)?: (.*)", re.ASCII | re.DOTALL)
_IMAGE = re.compile(r"[a-z0-9][\w.\-/:]*(?:@sha256:[0-9a-f]{64})?", re.ASCII)


def sentence(text: str) -> str:
    """Return a reason if it consists only of known words, replica names and short numbers; else HIDDEN.

    The request of a readiness check is shown as far as the config shows it: its query is hidden.
    """
    check = _CHECK.fullmatch(text)
    if check is not None:
        return f"{check[1] or ''}GET {check[2]}{f'?{HIDDEN}' if check[3] else ''}: {sentence(check[4])}"
    tokens = _TOKEN.findall(text[:300])
    is_known = all(_NAME.fullmatch(token) or token.lower() in VOCABULARY for token in tokens)
    return text if is_known and "".join(tokens) == text else HIDDEN


def config(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config as the admin server shows it, masked."""
    return {key: _setting(key, value) for key, value in values.items()}


def _setting(key: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if key in NAMES_ONLY:
        return [[pair[0], HIDDEN] for pair in value]
    if key == "health-path" and isinstance(value, str):
        return value.partition("?")[0] + (f"?{HIDDEN}" if "?" in value else "")
    if key == "worker-image" and isinstance(value, str):
        return value if _IMAGE.fullmatch(value) else HIDDEN
    if key in CONFIG:
        return value
    return HIDDEN if value else value


def masked(value: Any, field: str = "") -> Any:
    """Return a record (an event, a replica, an edge), or any part of one, masked.

    `field` is the name under which the value stands.
    """
    if isinstance(value, str):
        return value if field in FIELDS else sentence(value)
    if isinstance(value, Mapping):
        return {name: masked(each, name) for name, each in value.items()}
    return [masked(each, field) for each in value] if isinstance(value, list | tuple) else value


def cluster(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer of /api/v1/cluster, masked."""
    special = {"config": config, "front": _front}
    return {name: special[name](value) if name in special else masked(value, name) for name, value in state.items()}


def _front(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return where clients ask: the host, and the path without its query."""
    return {**value, "path": value["path"].partition("?")[0]}
