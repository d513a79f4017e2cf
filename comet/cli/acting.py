"""Runs the commands that have the supervisor change something.

Most only send their arguments: `act` does whatever the table of commands says of them.
"""

import argparse
import json
import re
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

from comet.cli.options import changing_cluster, existing_cluster
from comet.cli.read_commands import show
from comet.cli.supervisor_calls import QUICK_TIMEOUT, run_operation, send_command
from comet.cli.waiting import await_exits
from comet.commands.table import COMMANDS
from comet.common.errors import UserError
from comet.common.wording import nearest, there_are
from comet.config.fault_settings import FRONT, FRONT_SETTINGS, NETWORK, SETTINGS
from comet.events import event, journal
from comet.faults.orders import change
from comet.state.control_socket import call
from comet.state.directory import Cluster
from comet.telemetry.status import once


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


def kill(options: argparse.Namespace) -> int:
    cluster = changing_cluster(options)
    tail = journal.Tail(cluster.path("events.jsonl"))
    done, failures, killed = [], [], []
    for name in options.names:
        try:
            result, supervised = _kill(cluster, name, options.signal)
        except UserError as error:
            failures.append(error)
            continue
        done.append(result)
        is_kill = result["signal"] == "SIGKILL"
        killed += [name] if is_kill and supervised else []
        if not options.json:
            print(f"{name} killed (SIGKILL)" if is_kill else f"{result['signal']} sent to {name}", flush=True)
    await_exits(tail, killed)
    if options.json and done:
        print(json.dumps(done[0] if len(options.names) == 1 else done))
    if failures:
        raise UserError("\n".join(dict.fromkeys(error.message for error in failures)), failures[0].exit_code)
    return 0


def _kill(cluster: Cluster, name: str, signal_name: str) -> tuple[dict[str, Any], bool]:
    """Send a signal to a replica; return what was done, and whether a supervisor did it."""
    try:
        return call(cluster, "kill", name=name, signal=signal_name), True
    except ConnectionError:
        from comet.runtimes import discovery
        from comet.supervisor.operations import signal_number

        number = signal_number(signal_name)
        discovery.kill(cluster, name, number)
        return {"name": name, "signal": signal.Signals(number).name}, False


SCALED = {"worker": "worker", "pool": "pool", "lb": "pool"}
"""The words of `scale`: `pool` is the key of config.yaml, `lb` the role in `ps`."""


def scale(options: argparse.Namespace) -> int:
    numbers: dict[str, int] = {}
    for text in options.numbers:
        word, _, value = text.partition("=")
        name = SCALED.get(word)
        if name in numbers:
            raise UserError(f"scale: {text}: {name} is given twice (keep one)", 2)
        if name is None or not re.fullmatch(r"[0-9]{1,9}", value):
            near = nearest(word, SCALED) if name is None else None
            meant = f"; did you mean {near}=?" if near else ""
            raise UserError(
                f"scale: {text}: not understood (allowed: worker=N, and pool=M or lb=M, whole numbers{meant})", 2
            )
        numbers[name] = int(value)
    return print_result(options, run_operation(options, "scale", **numbers))


def restart(options: argparse.Namespace) -> int:
    restarted: list[str] = []
    _require_targets(options)
    for target in options.targets:
        restarted += run_operation(options, "restart", target=target)["restarted"]
    print(json.dumps({"restarted": restarted}) if options.json else f"restarted {', '.join(restarted) or 'nothing'}")
    return 0


def _require_targets(options: argparse.Namespace) -> None:
    """Raise UserError if one of several names is not known, before the others are restarted."""
    names = options.targets if len(options.targets) > 1 else []
    known = [row.name for row in once(changing_cluster(options)).replicas] if names else []
    unknown = [name for name in names if known and name not in (*known, "worker", "lb", "all")]
    if unknown:
        lines = [f"{event.visible(name)}: no such replica ({there_are(name, known)})" for name in unknown]
        raise UserError("\n".join([*lines, "nothing was restarted"]), 2)


def faults(options: argparse.Namespace) -> int:
    from comet.faults.files import FAULT_FILE_DELAY, NETWORK_TIMEOUT, event_fields

    given = {name: getattr(options, name.replace("-", "_")) for name in (*SETTINGS, *FRONT_SETTINGS)}
    given |= {"for": options.seconds, "count": options.count, "clear": options.clear or None}
    wanted = {name: value for name, value in given.items() if value is not None}
    of_front = options.name is None and set(wanted) & (set(FRONT_SETTINGS) - set(SETTINGS))
    target = FRONT if of_front else options.name or "all"
    ordered = change(wanted, target) if wanted else None  # Refuse invalid settings whether or not a cluster runs.
    result = send_command(
        (changing_cluster if wanted else existing_cluster)(options),
        "faults",
        NETWORK_TIMEOUT if set(wanted) & set(NETWORK) else QUICK_TIMEOUT,
        target=options.name,
        **wanted,
    )
    if wanted:
        time.sleep(FAULT_FILE_DELAY)
    if options.json:
        print(json.dumps(result, indent=1))
    elif ordered is None:
        show("faults", result["workers"])
    else:
        replica = {} if options.name in (None, "all") else {"replica": options.name}
        print(event.line({"event": "faults_changed", **replica, **event_fields(ordered, [])}))
    return 0


def dashboard(options: argparse.Namespace) -> int:
    """Print a link that gives a browser the right to write, or open the user's browser, which needs no link.

    The link never becomes an argument of a program: another user who can list processes could open it first.
    """
    result = send_command(existing_cluster(options), "dashboard", QUICK_TIMEOUT)
    if options.json:
        print(json.dumps(result))
        return 0
    if options.open:
        import webbrowser

        if webbrowser.open(result["url"]):
            return 0
        print("no browser could be opened here; open this link in one:", file=sys.stderr)
    print(result["link"], flush=True)
    print(
        f"(valid once, for {result['expires_s'] // 60} minutes; anyone who opens it can change the cluster)",
        file=sys.stderr,
    )
    return 0
