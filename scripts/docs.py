"""Writes the generated parts of the documentation.

Usage: python -m scripts.docs [--check]

A page has hand-written text and, between two comments, parts that are generated from declarations of the program:

    <!-- generated: config worker pool runtime -->
    …
    <!-- generated: end -->

The first word names the part, the others are its arguments. So a table of keys cannot differ from the keys. With
--check nothing is written; the exit code is 1 if a page is out of date.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from comet.admin.metrics import SnapshotCollector
from comet.admin.openapi import document
from comet.cli.main import parser
from comet.commands.table import COMMANDS
from comet.common.values import Key
from comet.config.fault_settings import FRONT_SETTINGS, NETWORK, SETTINGS, UNITS, WORKER_ONLY
from comet.config.keys import KEYS, LIMITS
from comet.config.schema import Config, ConfigError, parse
from comet.inspection.rows import GROUPS
from comet.runtimes import registry
from comet.runtimes.interface import RenderContext
from comet.state.directory import Cluster, Owner
from comet.statistics.database import Access
from comet.telemetry.columns import COLUMNS
from comet.telemetry.snapshot import FleetSnapshot, SupervisorRow
from lb.interface.settings import BALANCES

ROOT = Path(__file__).resolve().parents[1]
PART = re.compile(r"(<!-- generated: (?!end)([a-z]+)((?: [\w/.-]+)*) -->\n).*?(<!-- generated: end -->)", re.DOTALL)

CLUSTERS = (
    "",
    "runtime: process\n",
    "worker-image: example\n",
    "runtime: process\nworker-command: serve --port {port}\n",
)
SWARMS = ("runtime: swarm\nstats-dir: postgresql://example/a\n", "runtime: swarm\nworker-image: example\n")
"""Configs for which the effect of a key is determined: built-in and custom workers, as containers, as processes and in
a swarm.
"""

OTHER_VALUES = {
    "worker-environment": "{A: b}",
    "worker-volumes": "[/tmp:/a]",
    "worker-constraints": "[node.role==worker]",
    "faults": "{worker-0: {failure: 1}}",
    "limits": "{head-timeout: 1, body-timeout: 1, max-request-line: 64, max-head: 64, max-fields: 1}",
    "max-body": "1",
    "seed": "1",
    "worker-cpus": "1",
    "worker-threads": "1",
    "registry": "example",
    "upstreams": "['http://other']",
    "worker-image": "other",
    "worker-command": "other --port {port}",
    "worker-user": "1:1",
    "health-host": "example",
    "health-path": "/other",
    "health-timeout": "60",
    "health-status": "[200, 204]",
    "worker-memory": "512m",
    "balance": "least-connections",
    "balance-key": "path",
    "balance-cookie": "other",
    "hash-balance-factor": "150",
    "front-port": "8000",
    "tls": "self-signed",
    "tls-certificate": "certificate.pem\ntls-key: key.pem",
    "tls-key": "key.pem\ntls-certificate: certificate.pem",
    "trusted-proxies": "[127.0.0.1]",
    "weights": "{worker-0: 2}",
    "delay-distribution": "constant",
}
"""A value that differs from the default, where the default's type does not suggest one."""


def pages() -> list[Path]:
    """Return every page that may have generated parts."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def rewritten(text: str) -> str:
    """Return the page with its generated parts as the program declares them now."""

    def part(found: re.Match[str]) -> str:
        return f"{found[1]}{PARTS[found[2]](*found[3].split())}\n{found[4]}"

    return PART.sub(part, text)


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table; pipes within a cell are escaped."""
    headings = list(headings)
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def config(*names: str) -> str:
    """Return the table of these keys of config.yaml."""
    keys = {name: KEYS[name] if name in KEYS else LIMITS[name.removeprefix("limits.")] for name in names}
    rows = (
        [f"`{name}`", _default(key), key.allowed, key.meaning, effect(name.partition(".")[0])]
        for name, key in keys.items()
    )
    return table(("key", "default", "allowed", "meaning", "`reload`"), rows)


def faults() -> str:
    """Return the table of the fault settings."""
    points = {True: "worker", False: "worker, lb"}
    rows = (
        [f"`{name}`", _default(key), UNITS.get(name, ""), key.allowed, key.meaning, points[name in WORKER_ONLY]]
        for name, key in SETTINGS.items()
        if name not in NETWORK
    )
    return table(("setting", "default", "unit", "allowed", "meaning", "`fault-point`"), rows)


def network_faults() -> str:
    """Return the table of the fault settings of a worker's network."""
    return _plain_faults(NETWORK)


def front_faults() -> str:
    """Return the table of the fault settings of the front."""
    return _plain_faults(FRONT_SETTINGS)


def _plain_faults(settings: Mapping[str, Key]) -> str:
    rows = (
        [f"`{name}`", _default(key), UNITS.get(name, ""), key.allowed, key.meaning] for name, key in settings.items()
    )
    return table(("setting", "default", "unit", "allowed", "meaning"), rows)


def _default(key: Key) -> str:
    value = str(key.default).lower() if isinstance(key.default, bool) else str(key.default)
    return f"`{value}`"


def effect(name: str) -> str:
    """Return what `reload` does with a changed key, determined by rendering the replicas of a config before and after
    the change.
    """
    if name in KEYS and KEYS[name].fixed:
        return "refused"
    if name in ("worker", "pool"):
        return "scales"
    if any(_rolls(start, name) for start in CLUSTERS):
        return "rolls workers"
    return "live (swarm: rolls workers)" if any(_rolls(start, name) for start in SWARMS) else "live"


def _rolls(start: str, name: str) -> bool:
    kept = "".join(f"{line}\n" for line in start.splitlines() if not line.startswith(f"{name}:"))
    changed = f"{kept}{name}: {_other_value(name)}\n"
    try:
        if _config(start).custom_service != _config(changed).custom_service:
            return False
    except ConfigError:
        return False  # The key does not go with this kind of worker.
    return _launches(start) != _launches(changed)


@cache
def _config(text: str) -> Config:
    return parse(text, ROOT / "config.yaml")


@cache
def _launches(text: str) -> list[Any]:
    """Return how the workers of a config are started."""
    made = _config(text)
    # In a registry the image has another name.
    image = None if not made.traits.uses_engine else f"{made.registry}/{made.worker_image or 'built'}"
    context = RenderContext(Cluster(ROOT), Access({}), Owner(0, 0), image)
    rendered = (registry.runtime(made.runtime).render(made, context, index) for index in range(made.worker))
    return [each.spec.launch for each in rendered]


def _other_value(name: str) -> str:
    default = KEYS[name].default
    if name in OTHER_VALUES:
        return OTHER_VALUES[name]
    return str(not default).lower() if isinstance(default, bool) else str(default + 1)


def command(name: str) -> str:
    """Return the section of one command: its usage, its help, its arguments and examples."""
    called = _commands()[name]
    usage = " ".join(["python supervisor.py", name, *(_usage(action) for action in _shown(called))])
    rows = [[f"`{_name(action)}`", _sentence(action.help or "")] for action in _shown(called)]
    examples = "\n".join(f"python supervisor.py {example}".rstrip() for example in COMMANDS[name].examples)
    arguments = f"{table(('argument', 'meaning'), rows)}\n\n" if rows else ""
    about = _sentence(str(called.description))
    return f"{about}\n\n```text\n{usage}\n```\n\n{arguments}Examples:\n\n```sh\n{examples}\n```"


def commands(page: str = "") -> str:
    """Return a line per command, with a link to its section on this page."""
    rows = ([f"[`{name}`]({page}#{name})", _sentence(str(each.description))] for name, each in _commands().items())
    return table(("command", "does"), rows)


@cache
def _commands() -> Mapping[str, argparse.ArgumentParser]:
    below = next(action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(below.choices)


def _shown(called: argparse.ArgumentParser) -> list[argparse.Action]:
    hidden = ("help", "config")
    return [action for action in called._actions if action.dest not in hidden and action.help != argparse.SUPPRESS]


def _usage(action: argparse.Action) -> str:
    name = action.option_strings[0] if action.option_strings else ""
    value = "" if action.nargs == 0 else _value(action)
    shown = f"{name} {value}".strip() + (" …" if action.nargs in ("+", "*") else "")
    is_optional = not action.required if action.option_strings else action.nargs in ("?", "*")
    return f"[{shown}]" if is_optional else shown


def _name(action: argparse.Action) -> str:
    if not action.option_strings:
        return _value(action)
    return ", ".join(action.option_strings) + ("" if action.nargs == 0 else f" {_value(action)}")


def _value(action: argparse.Action) -> str:
    return str(action.metavar or "|".join(map(str, action.choices or ())))


def _sentence(text: str) -> str:
    text = text.replace("%%", "%")
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def paths() -> str:
    """Return the table of the admin API's paths."""
    rows = []
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            asked = [f"`{each['name']}` ({each['schema']['type']})" for each in operation.get("parameters", ())]
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            asked += [
                _field(name, schema, name in body["required"]) for name, schema in body.get("properties", {}).items()
            ]
            statuses = ", ".join(sorted(operation["responses"]))
            rows.append([f"`{method.upper()} {path}`", operation["summary"], ", ".join(asked) or "-", statuses])
    return table(("request", "answer", "parameters or JSON fields", "statuses"), rows)


def _field(name: str, schema: Mapping[str, Any], required: bool) -> str:
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return f"`{name}` ({' or '.join(kinds)}{', required' if required else ''})"


def inspection() -> str:
    """The rows of `inspect`, with what each means."""
    groups = GROUPS.items()
    return table(
        ("group", "row", "key", "meaning"),
        ([group, row.heading, f"`{row.key}`", row.meaning] for group, rows in groups for row in rows),
    )


def balances() -> str:
    """Return the table of the policies."""
    rows = ([f"`{name}`", meaning] for name, (_, meaning) in BALANCES.items())
    return table(("`balance`", "a request goes to"), rows)


def columns() -> str:
    """Return the table of the columns of `ps`."""
    return table(("column", "meaning"), ([f"`{each.heading}`", each.meaning] for each in COLUMNS if each.heading))


def metrics() -> str:
    """Return the table of a cluster's metrics; a counter's samples end in _total, a histogram's in _bucket, _sum and
    _count.
    """
    supervisor = SupervisorRow(1, True, 1.0, "0", 1.0, 1)
    admin = {"latency_bounds_s": [], "recoveries": {"restarts": {}, "times": {}, "bounds_s": []}}
    families = SnapshotCollector(lambda: (FleetSnapshot(supervisor), admin)).collect()
    suffix = {"counter": "_total", "info": "_info"}
    rows = (
        [
            f"`{each.name}{suffix.get(each.type, '')}`",
            each.type,
            ", ".join(f"`{label}`" for label in _labels(each)) or "-",
            each.documentation,
        ]
        for each in families
    )
    return table(("metric", "type", "labels", "meaning"), rows)


def _labels(family: Any) -> Iterable[str]:
    return family._labelnames or (family.samples[0].labels if family.samples else ())


PARTS: dict[str, Callable[..., str]] = {
    "config": config,
    "faults": faults,
    "front": front_faults,
    "network": network_faults,
    "command": command,
    "commands": commands,
    "inspection": inspection,
    "balances": balances,
    "columns": columns,
    "paths": paths,
    "metrics": metrics,
}


def main(arguments: list[str] | None = None) -> int:
    options = argparse.ArgumentParser(
        prog="python -m scripts.docs", description="Write the generated parts of the documentation."
    )
    options.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a page is out of date")
    check = options.parse_args(arguments).check
    stale = [page for page in pages() if rewritten(page.read_text()) != page.read_text()]
    for page in stale:
        print(
            f"{page.relative_to(ROOT)}: {'out of date; run: .venv/bin/python -m scripts.docs' if check else 'written'}"
        )
        if not check:
            page.write_text(rewritten(page.read_text()))
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
