"""Implements the commands: options in, exit code out; failures are raised as UserError."""

import argparse
import json
import os
import shlex
import sys
from functools import partial
from pathlib import Path

import psutil

from comet.cli.launch import already_running, run_detached, supervise, watched_parent
from comet.cli.options import CONFIG, cluster_of, config_path, existing_cluster, known_cluster
from comet.cli.supervisor_calls import stop_supervisor
from comet.common.errors import UserError, nothing_runs
from comet.common.program import IN_CHECKOUT, spoken
from comet.common.wording import counted, hint
from comet.config.keys import KEYS
from comet.config.schema import Config, load, old_names, ports_text
from comet.config.template import template
from comet.engine.clients import Engines
from comet.events import event
from comet.host.packages import missing_packages
from comet.host.process_setup import shortages
from comet.runtimes import discovery
from comet.state.directory import Cluster
from comet.state.lock import Lock
from comet.state.ownership import denied, require_access, user
from comet.statistics import database
from comet.terminal.messages import BackgroundDisplay, Display, LineDisplay, PipeDisplay, QuietDisplay, plain_display


def run(options: argparse.Namespace) -> int:
    owner = None if options.owner_pid is None else watched_parent(options.owner_pid)
    config = load(config_path(options))
    cluster = Cluster(config.folder)
    require_access(cluster)
    holder = Lock(cluster).lasting_holder()
    if holder is not None:
        raise already_running(config.folder, holder)
    if missing := missing_packages():
        raise UserError(
            f"{', '.join(missing)} not installed for {sys.executable}; run scripts/up.sh, which installs what is "
            "missing"
        )
    for lack in shortages():
        if lack.fatal:
            raise UserError(f"{lack.text}: {lack.advice}")
    discovery.recognize(cluster)
    cluster.create()
    if options.detach:
        return run_detached(config, cluster, plain_display(options.quiet, options.log_format) or _progress())
    return supervise(config, cluster, partial(_display, options, config, cluster), owner)


def _display(options: argparse.Namespace, config: Config, cluster: Cluster) -> Display:
    """Return the display of a supervisor; no display makes the supervisor wait."""
    if options.notify_fd is not None:
        return BackgroundDisplay(PipeDisplay(options.notify_fd))
    lines = plain_display(options.quiet, options.log_format)
    if lines is not None:
        return BackgroundDisplay(lines)
    from comet.terminal.board.window import Window

    return Window(config, cluster)


def _progress() -> Display:
    # Imported here and below, not at the top: a supervisor itself draws nothing.
    from comet.terminal.progress import LiveDisplay

    return LiveDisplay()


def stop(options: argparse.Namespace) -> int:
    cluster = known_cluster(options)
    holder = Lock(cluster).holder()
    display = QuietDisplay() if options.quiet else LineDisplay()
    if holder is not None:
        display.show({"kind": "step", "text": f"stopping the cluster in {cluster.folder}"})
        return stop_supervisor(cluster, holder, display)
    # Imported here, not at the top: the engine's SDK costs more than the rest of a command.
    from comet.cli import cleanup

    engines = Engines()
    found = discovery.find(cluster, engines, complete=True)
    if not found:
        cleanup.forget_networks(cluster)
        raise nothing_runs(cluster.folder)
    display.show(
        {
            "kind": "step",
            "text": f"stopping the cluster in {cluster.folder}: no supervisor runs, ending "
            f"{counted(len(found), 'orphans')}",
        }
    )
    for line in discovery.end(cluster, found, engines, _grace(options)):
        display.show({"kind": "step", "text": line})
    cleanup.forget_networks(cluster)
    cleanup.forget_run(cluster)
    return 0


def _grace(options: argparse.Namespace) -> float:
    """Return the config's grace period for requests in flight, or its default if the config cannot be read."""
    try:
        return load(config_path(options)).shutdown_grace
    except UserError:
        return float(KEYS["shutdown-grace"].default)


def doctor(options: argparse.Namespace) -> int:
    from comet.cli.doctor import Subject, as_dict, findings, report

    found = findings(Subject.of(config_path(options)))
    print(json.dumps(as_dict(found), indent=1) if options.json else report(found))
    return 0 if as_dict(found)["healthy"] else 1


def check(options: argparse.Namespace) -> int:
    from comet.balancers import certificates

    config = load(config_path(options))
    certificates.require(config, Cluster(config.folder), make=False)
    if not config.custom_service:
        database.place(config, Cluster(config.folder))
    spans = ports_text(config)
    if options.json:
        print(json.dumps({"config": str(config.path), "worker": config.worker, "pool": config.pool, "ports": spans}))
        return 0
    numbers = f"{counted(config.worker, 'workers')}, {counted(config.pool, 'load balancers')}"
    for line in old_names(config):
        print(line, file=sys.stderr)
    print(f"{config.path}: valid ({numbers}; {spans})")
    return 0


def clean_up(options: argparse.Namespace) -> int:
    from comet.cli import cleanup

    cluster = existing_cluster(options)
    if Lock(cluster).holder() is not None or discovery.find(cluster, complete=True):
        raise UserError(f"{cluster.folder}: the cluster runs; stop it first with: python supervisor.py stop")
    print(f"cleaning the cluster in {cluster.folder}", flush=True)
    for line in cleanup.remove_all(cluster):
        print(line)
    return 0


def init(options: argparse.Namespace) -> int:
    """Write a commented config file; one that is there is never replaced."""
    path = Path(options.config or CONFIG)
    path = path / CONFIG if path.is_dir() else path
    try:
        with path.open("x") as file:
            file.write(template())
    except FileExistsError:
        raise UserError(f"{path}: is there already (remove it first, or name another: --config FILE)") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    named = "" if options.config is None else f" --config {shlex.quote(str(path))}"
    print(spoken(f"{path} is written; start the cluster with: {IN_CHECKOUT} run{named}"))
    return 0


def show_help(options: argparse.Namespace) -> int:
    parsers, about = options.parsers, options.about or ""
    if about not in parsers:
        raise UserError(f"help: {event.visible(about)}: no such command ({hint(about, filter(None, parsers))})", 2)
    parsers[about].print_help()
    return 0


def race(options: argparse.Namespace) -> int:
    from comet.race import command

    return command.race(cluster_of(options), config_path(options), options.rounds, options.json)


def permission_message(error: BaseException) -> str | None:
    """Return the error line for a failure caused by this user's lack of rights; None for any other failure."""
    if isinstance(error, psutil.AccessDenied):
        try:
            whose = f", it belongs to {user(psutil.Process(error.pid).uids().real)}"
        except (psutil.Error, OSError, TypeError, ValueError):
            whose = ""
        return f"process {error.pid}: permission denied{whose}"
    return (
        denied(os.fsdecode(error.filename)).message if isinstance(error, PermissionError) and error.filename else None
    )
