"""Prints, as JSON, what the program shows at each of its surfaces: run in a copy of the sources, it shows what the copy
declares.
"""

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

from comet.admin import html_table
from comet.admin.app import PAGE
from comet.admin.metrics import renderer
from comet.admin.openapi import document
from comet.cli.completion import script
from comet.cli.main import described, parser
from comet.commands.table import on_command_line, shapes
from comet.common.errors import UserError
from comet.config import schema
from comet.config.changes import changed_keys
from comet.config.keys import KEYS
from comet.config.template import template
from comet.faults import orders
from comet.runtimes import registry
from comet.supervisor.admin_feed import public_config
from comet.terminal import tables
from lb.__main__ import _parser as lb_parser
from lb.balance.policies import policy_class
from lb.faults import rules
from lb.interface.counters import INJECTED
from scripts import docs
from tests.support import admin_samples
from worker_app.faults.plan import parse as worker_plan
from worker_app.faults.sampling import FaultSampler

PLAIN = "runtime: process\n"
GIVEN = "greeting: hi\nbalance: first\nruntime: toy\nfaults:\n  worker-0: {freeze: 3}\n"
ALL = '{"freeze": 100, "failure": 0}'


def config(text: str) -> schema.Config:
    return schema.parse(text, Path("/tmp/config.yaml"))


def help_texts() -> str:
    top = parser()
    below = next(action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    return top.format_help() + "".join(each.format_help() for each in below.choices.values())


def refusals() -> str:
    try:
        config("balance: x\nruntime: x\n")
    except UserError as error:
        return error.message
    return ""


def documentation() -> str:
    written = [part() for name, part in docs.PARTS.items() if name not in ("config", "command")]
    return "\n".join([docs.config(*KEYS), *written, *(docs.command(name) for name in on_command_line())])


def listing(table: Any) -> str:
    return "\n".join(line.plain for line in table.lines(None))


def terminal() -> str:
    found = admin_samples.view_model().snapshot()
    assert found is not None
    lease = {"settings": {"freeze": 5.0}, "left_s": None, "count": 3, "count_left": None, "age_s": 1.0, "owner": None}
    ordered = {"name": "worker-0", "settings": {}, "from": {}, "leases": [lease]}
    return listing(tables.replicas(found[0])) + ("\n" + listing(tables.faults([ordered])) if given() else "")


def given() -> schema.Config | None:
    """The config that uses all that is declared in addition; None where nothing is."""
    with contextlib.suppress(UserError):
        return config(GIVEN)
    return None


def shown_json() -> str:
    used, found = given(), admin_samples.view_model().snapshot()
    assert found is not None
    return json.dumps([found[0].as_dict(), public_config(used or config(PLAIN))])


def balancer() -> str:
    faults = rules.Faults("worker-0", lambda: "/nonexistent", "boot")
    faults.plan = rules.parse(ALL)
    return f"{faults.next(0.0).kind} {INJECTED} {policy_class('first') if given() else ''} {lb_parser().format_help()}"


def ordered_change() -> str:
    return str(orders.change({"freeze": "5%"})) if given() else ""


SURFACES = {
    "command line": help_texts,
    "completion": lambda: script("bash", described(parser())),
    "control socket": lambda: json.dumps({name: sorted(each) for name, each in shapes().items()}),
    "API": lambda: json.dumps(document()),
    "documentation": documentation,
    "template": template,
    "refusals": refusals,
    "config": lambda: str(given() and repr(given())),
    "reload": lambda: str(used and changed_keys(config(PLAIN), used)) if (used := given()) else "",
    "runtimes": lambda: str(registry.runtime("toy")) if given() else "",
    "page": lambda: html_table.fill((PAGE / "index.html").read_text(), admin_samples.view_model().replicas()),
    "terminal": terminal,
    "JSON": shown_json,
    "metrics": lambda: renderer(admin_samples.view_model().snapshot)().decode(),
    "load balancer": balancer,
    "worker": lambda: str(FaultSampler(worker_plan(ALL), started=0.0).next(0.0).kind),
    "order of faults": ordered_change,
}

if __name__ == "__main__":
    print(json.dumps({name: show() for name, show in SURFACES.items()}))
