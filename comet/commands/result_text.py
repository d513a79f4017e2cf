"""Says in one line what a command has done, where the result alone would have to be decoded.

Pure. Each function takes the JSON of the result, so that the line never says more than the JSON does.
"""

from collections.abc import Mapping
from typing import Any

from comet.common.values import memory
from comet.config.keys import KEYS


def pause(result: Mapping[str, Any]) -> str:
    seconds = result["for_s"]
    text = "until `resume`" if seconds is None else f"for {seconds:g} s (`resume` ends that earlier)"
    return f"paused: requests wait {text}"


def drain(result: Mapping[str, Any]) -> str:
    if result["drained"]:
        return f"{result['name']} {'is' if result['changed'] else 'was already'} drained: it gets no new requests"
    if result["changed"]:
        return f"{result['name']} gets requests again"
    return f"{result['name']} was not drained: nothing has changed"


def scale(result: Mapping[str, Any]) -> str:
    former = result.get("former", {})
    was = [f"{name}={former[name]}" for name in ("worker", "pool") if former.get(name, result[name]) != result[name]]
    return f"worker={result['worker']} pool={result['pool']}" + (f" (was {' '.join(was)})" if was else "")


def reload(result: Mapping[str, Any]) -> str:
    restarted = f"; restarted {', '.join(result['restarted'])}" if result["restarted"] else ""
    values = result.get("values", {})
    changed = ", ".join(f"{key}{_from_to(key, values.get(key))}" for key in result["changed"])
    changed = changed or "only the image behind a name"
    return f"changed {changed}{restarted}" if result["changed"] or restarted else "nothing has changed"


def _from_to(key: str, values: Mapping[str, Any] | None) -> str:
    """Return ` 500 → 20`; nothing for a value that is not simple."""
    return "" if values is None else f" {_plain(key, values['old'])} → {_plain(key, values['new'])}"


def _plain(key: str, value: Any) -> str:
    """Return a value of the config as the file has it."""
    if value is None:
        default = KEYS[key].default if key in KEYS else None
        return default if isinstance(default, str) else "none"
    if isinstance(value, bool):
        return str(value).lower()
    if key in KEYS and KEYS[key].check is memory:
        return f"{value >> 20}m" if value % (1 << 20) == 0 else str(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def resume(result: Mapping[str, Any]) -> str:
    return "resumed: requests go on" if result["changed"] else "the cluster was not paused: nothing has changed"
