"""Runs a command that only sends its arguments to the supervisor: whatever the table of commands says of it."""

import argparse
import json
from collections.abc import Mapping
from typing import Any

from comet.cli.supervisor_calls import run_operation
from comet.commands.table import COMMANDS
from comet.common.errors import UserError


def act(options: argparse.Namespace) -> int:
    request = {}
    for name, field in COMMANDS[options.command].fields.items():
        try:  # Refuse an invalid value whether or not a cluster runs.
            request[name] = field.check(getattr(options, name))
        except ValueError as error:
            raise UserError(f"{options.command}: {name}: {error}", 2) from None
    return print_result(options, run_operation(options, options.command, **request))


def print_result(options: argparse.Namespace, result: Mapping[str, Any]) -> int:
    """Print what the supervisor has done, as JSON or in words."""
    print(json.dumps(result) if options.json else COMMANDS[options.command].text(result))
    return 0
