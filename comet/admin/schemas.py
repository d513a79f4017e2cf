"""Converts the bodies of writes to commands of the control socket.

Pure. Only shape and names are checked here, so that a mistake is answered with 400 and with what is allowed. The
supervisor decides whether a thing exists and whether an operation is possible now.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from comet.commands.table import COMMANDS
from comet.common.errors import UserError

MAX_LOGS = 264
"""Replicas whose logs are read at once: as many as a cluster has."""

MAX_LOG_LINES = 100
"""Lines of each log that are read at once."""


def names(given: Sequence[str]) -> list[str]:
    """Return the names of replicas in a query; UserError where there are none, or too many."""
    from comet.inspection.rows import MOST_REPLICAS  # Most servers are never asked to inspect.

    if not 0 < len(given) <= MOST_REPLICAS or not all(given):
        raise UserError(f"name: a replica's name is wanted, 1 to {MOST_REPLICAS} times", 2)
    return list(given)


def log_request(given: Sequence[str], lines: str) -> tuple[list[str], int]:
    """Return the names of replicas and the number of lines in a query for logs."""
    if not 0 < len(given) <= MAX_LOGS or not all(given):
        raise UserError(f"name: a replica's name is wanted, 1 to {MAX_LOGS} times", 2)
    if not re.fullmatch(r"[1-9][0-9]{0,2}", lines, re.ASCII) or int(lines) > MAX_LOG_LINES:
        raise UserError(f"lines: must be a whole number from 1 to {MAX_LOG_LINES}", 2)
    return list(given), int(lines)


def parse(body: bytes) -> Any:
    """Parse the JSON of a body; UserError says what is wrong with it."""
    if not body.strip():
        raise UserError("the body is empty; it must be a JSON object, at least {}")
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_object)
    except RecursionError:
        raise UserError("the body is nested too deeply") from None
    except UnicodeDecodeError:
        raise UserError("the body is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"the body is not JSON: {error.msg[0].lower()}{error.msg[1:]} at character {error.pos + 1}"
        ) from None
    except ValueError:
        raise UserError("the body has a number that is too long") from None


def _refuse_constant(name: str) -> Any:
    raise UserError(f"the body is not JSON: {name} is not a number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise UserError(f"{next(name for name in names if names.count(name) > 1)}: appears twice in the body")
    return fields


def read(command: str, body: Any) -> dict[str, Any]:
    """Return the fields of the command; UserError says what is wrong with the body."""
    if not isinstance(body, dict):
        raise UserError("the body must be a JSON object")
    return COMMANDS[command].read(body)
