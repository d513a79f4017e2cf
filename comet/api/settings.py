"""Turns keyword arguments into a config: the keys of config.yaml with underscores, and defaults that suit a test. Pure.

JSON is a subset of YAML, so each value is written as JSON. The config's own checks find what is wrong with it.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from comet.common.errors import UserError
from comet.common.values import words
from comet.config.keys import KEYS, LIMITS
from comet.config.runtimes import RUNTIMES
from comet.config.schema import Config, ConfigError, parse

DEFAULTS: dict[str, Any] = {
    "runtime": "process",
    "load-balancer-host": "127.0.0.1",
    "load-balancer-port": 0,
    "worker-port": 0,
    "admin-port": 0,
    "shutdown-grace": 2,
}
"""What differs from config.yaml: quick to start, quick to stop, on free ports, for this machine alone."""

BUILT_IN: dict[str, Any] = {"avg-delay": 0, "failure": 0}
"""Further defaults of the built-in worker: it does nothing wrong unless it is asked to."""

CUSTOM: dict[str, Any] = {"fault-point": "lb"}
"""Further defaults of a custom service: the load balancers inject its faults."""

OF_WORKERS = ("runtime", "worker-port")
"""Defaults that mean nothing where `upstreams` takes the place of workers."""

RUN_IN = 'cd -- "$0" && exec "$@"'
"""A shell's command that changes to a folder and becomes the given command."""


def config(settings: Mapping[str, Any], folder: Path, working: Path, is_root: bool = False) -> tuple[Config, str]:
    """Return the config that the keyword arguments describe, and its text.

    `folder` is that of the cluster, `working` the one in which a custom command runs. A custom command of root runs as
    root (`is_root`), like everything else that it starts. Raise UserError with every problem.
    """
    named = {_key(name): value for name, value in settings.items()}
    upstreams = bool(named.get("upstreams"))
    command, is_custom = named.get("worker-command"), "worker-command" in named or "worker-image" in named or upstreams
    left_out = OF_WORKERS if upstreams else ()
    defaults = {name: value for name, value in DEFAULTS.items() if name not in left_out}
    given = defaults | (CUSTOM if is_custom else BUILT_IN) | named
    traits = RUNTIMES.get(str(given.get("runtime")))
    if command is not None and traits is not None and not traits.uses_engine:
        with contextlib.suppress(ValueError):  # The config's own check says what is wrong.
            given["worker-command"] = ["sh", "-c", RUN_IN, str(working), *words(command)]
        given = ({"worker-user": "root"} if is_root else {}) | given
    if isinstance(given.get("faults"), Mapping):
        given["faults"] = {
            worker: {_key(name): value for name, value in each.items()} if isinstance(each, Mapping) else each
            for worker, each in given["faults"].items()
        }
    if isinstance(given.get("limits"), Mapping):
        given["limits"] = {_key(name): value for name, value in given["limits"].items()}
    text = "".join(f"{name}: {_written(value)}\n" for name, value in given.items())
    try:
        return parse(text, folder / "config.yaml"), text
    except ConfigError as error:
        raise UserError("\n".join(map(_problem, error.message.splitlines())), 2) from None


def _key(name: str) -> str:
    return name.replace("_", "-")


def _written(value: Any) -> str:
    try:
        return json.dumps(value, default=_plain)
    except (TypeError, ValueError):
        raise UserError(f"comet.cluster: {value!r} ({type(value).__name__}) cannot be a setting", 2) from None


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Iterable) and not isinstance(value, bytes | bytearray | memoryview):
        return list(value)
    raise TypeError


def as_argument(error: UserError) -> UserError:
    """Return an error of `reload` that names a line of the config with the argument in its place."""
    lines = [_problem(line) if line.startswith("config.yaml:") else line for line in error.message.splitlines()]
    return UserError("\n".join(lines), error.exit_code)


def _problem(line: str) -> str:
    """Return a problem of the config with the argument in the place of file and line."""
    key, _, reason = line.partition(": ")[2].partition(": ")
    return f"comet.cluster: {key.replace('-', '_') if key in KEYS | LIMITS else key}: {reason}"
