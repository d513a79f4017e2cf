"""Fills the page: with the list of replicas as rows of an HTML table, and with what is declared elsewhere.

Pure. The page shows these rows before its script runs, and nothing else where no script runs.
"""

import json
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from comet.commands.forms import described
from comet.commands.table import over_http
from comet.common.figures import NONE
from comet.config.fault_settings import FRONT_SETTINGS, TEXTS, UNITS, need_time_limit
from comet.events.event import exit_text
from comet.telemetry.columns import Column, on_page
from fault_rules import DISTRIBUTIONS, FRONT, NETWORK, WORKER, Fault

PLACEHOLDER = "<!--rows-->"
FAULT_KINDS = "<!--fault kinds-->"
DECLARED_COLUMNS = "<!--declared columns-->"
DECLARED_COMMANDS = "<!--declared commands-->"
HEADS = "<!--heads-->"
"""The placeholders in the page that the rows and what is declared of faults, columns and commands replace."""


def fill(page: str, replicas: Iterable[Mapping[str, Any]]) -> str:
    """Return the page with a row for each replica of `ps --json`, and with what its dialogs have to know."""
    kinds = {"kinds": [_kind(fault) for fault in (*WORKER, *NETWORK)], "front": _front_kinds(), "units": UNITS}
    page = page.replace(FAULT_KINDS, _script(kinds), 1)
    page = page.replace(DECLARED_COMMANDS, _script([described(command) for command in over_http().values()]), 1)
    shown = [{"key": each.key, "css": each.css or each.key, "kind": each.format} for each in on_page()]
    page = page.replace(DECLARED_COLUMNS, _script(shown), 1).replace(HEADS, "".join(map(_head, on_page())), 1)
    return page.replace(PLACEHOLDER, "".join(_row(replica) for replica in replicas), 1)


def _script(value: Any) -> str:
    """Return JSON that no text in it can end."""
    return json.dumps(value).replace("<", "\\u003c")


def _kind(fault: Fault) -> dict[str, Any]:
    """Return what the page's form has to know of a fault."""
    label = fault.label or fault.name.replace("-", " ").capitalize()
    kind = {
        "name": fault.name,
        "words": label,
        "unit": fault.unit,
        "more": fault.remark,
        "workerOnly": fault.worker_only,
        "network": fault in NETWORK,
        "neutral": None if fault.harmful else fault.default,
    }
    if fault.switch:
        return {**kind, "switch": True}
    if fault.statuses is not None:
        low, high = fault.statuses
        return {**kind, "limits": {"min": low, "max": high, "step": 1}}
    return {**kind, **({"limits": {"max": fault.limit}} if fault.unit else {"choices": [*DISTRIBUTIONS]})}


def _front_kinds() -> list[dict[str, Any]]:
    """Return the settings of the front, with the defaults of those that are no plain fault."""
    faults = {fault.name: fault for fault in FRONT}
    kinds = []
    for name, key in FRONT_SETTINGS.items():
        if name in faults:
            kinds.append({**_kind(faults[name]), "more": ""})
        elif name in TEXTS:
            kinds.append({"name": name, "words": name.capitalize(), "text": True, "more": key.allowed, "neutral": ""})
        elif key.default is False:
            words = name.capitalize() + (", for a time" if need_time_limit({name: True}) else "")
            kinds.append({"name": name, "words": words, "switch": True, "neutral": False})
    return kinds


def _head(column: Column) -> str:
    numeric = "" if column.format == "text" else ' class="n"'
    return f'<th scope="col"{numeric}>{escape(column.label)}</th>'


def _row(replica: Mapping[str, Any]) -> str:
    cells = "".join(
        f'<td class="{(each.css or each.key) if each.format == "text" else "n"}" data-label="{escape(each.label)}">'
        f"{escape(_cell_text(each, replica))}</td>"
        for each in on_page()[1:]
    )
    return f'<tr><th scope="row">{escape(str(replica["name"]))}</th>{cells}<td class="js"></td></tr>\n'


def _cell_text(column: Column, replica: Mapping[str, Any]) -> str:
    value = replica.get(column.key)
    if column.key == "state":
        marks = [mark for mark in ("orphan", "drained") if replica.get(mark)]
        return " ".join([column.text(value), *(f"({mark})" for mark in marks)])
    if column.key == "last_exit" and value is not None:
        return exit_text(value["code"], value["signal"], value["oom"])
    if column.key == "faults" and value is not None:
        return ", ".join(_setting(name, shown) for name, shown in value.items()) or NONE
    return column.text(value)


def _setting(name: str, value: Any) -> str:
    if value is True:
        return name
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{name} {shown}" + (f" {UNITS[name]}" if name in UNITS else "")
