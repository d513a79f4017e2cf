"""The config.yaml that `init` writes: the keys that most clusters set, then all others as comments. Pure."""

import json
from typing import Any

from comet.common.values import Key
from comet.config.keys import KEYS, LIMITS

FIRST = ("worker", "pool", "runtime", "avg-delay", "failure", "load-balancer-port", "worker-port", "admin-port")
"""The keys that are set; the file says of all others what they would be."""

HEAD = """# The cluster of this folder. `comet run` starts it, `comet ps` shows it, `comet stop` ends it.
# `comet check` finds mistakes in this file; `comet reload` applies a change to the running cluster.
# All keys are described in docs/configuration.md.
"""


def template() -> str:
    """Return the text of a commented config.yaml with all defaults."""
    first = "\n".join(_entry(name, KEYS[name], "") for name in FIRST)
    others = "\n".join(_entry(name, key, "# ") for name, key in KEYS.items() if name not in FIRST)
    return f"{HEAD}\n{first}\n\n# Everything else, with its default:\n\n{others}\n"


def _entry(name: str, key: Key, mark: str) -> str:
    below = LIMITS.items() if name == "limits" else ()
    value = "".join(f"\n{_entry(f'  {limit}', each, mark)}" for limit, each in below) or f" {_written(key.default)}"
    return f"# {key.meaning} ({key.allowed})\n{mark}{name}:{value}"


def _written(default: Any) -> str:
    return default if isinstance(default, str) else json.dumps(default)
