"""Implements `scenario`: plays a file on the running cluster, or on one that it starts, and judges it."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from comet.cli.launch import run_detached
from comet.cli.options import config_path
from comet.cli.read_commands import show
from comet.cli.supervisor_calls import QUICK_TIMEOUT, send_command, stop_supervisor
from comet.common.errors import UserError, os_error_text
from comet.common.user_files import content_of
from comet.common.values import url_host
from comet.config.schema import Config, load
from comet.host.checkout import resource
from comet.runtimes import discovery
from comet.scenario import client_command
from comet.scenario import file as scenarios
from comet.scenario.file import Scenario, unknown_names
from comet.scenario.junit import junit
from comet.scenario.player import ScenarioPlayer
from comet.state.directory import Cluster
from comet.state.lock import Lock
from comet.state.ownership import require_access
from comet.telemetry.snapshot import from_dict
from comet.terminal.messages import LineDisplay
from comet.workloads.builtin import reachable


def scenario(options: argparse.Namespace) -> int:
    plan = scenarios.parse(
        content_of(_scenario_file(options.file), "name a file; scenarios/ has examples"), str(options.file)
    )
    client_command.require(options.client)
    if options.junit is not None:
        write_report(options.junit, "")  # A report that cannot be written is no news for the end of a long scenario.
    if options.client and not plan.has_load:
        plan = without_load(plan)
    return on_cluster(config_path(options), lambda config, cluster: _play(plan, config, cluster, options), plan)


def _scenario_file(named: Path) -> Path:
    """Return the path of a scenario: a file, or one of those that come with Comet, by its name."""
    included = resource("scenarios") / f"{named.stem}.yaml"
    is_name = named.parent in (Path("."), Path("scenarios"))
    return included if is_name and not os.path.lexists(named) and included.is_file() else named


def on_cluster(path: Path, play: Callable[[Config, Cluster], int], plan: Scenario | None = None) -> int:
    """Call `play` with the running cluster; one that is started for it is stopped again.

    The names of a plan are checked before anything is started.
    """
    config = load(path)
    cluster, progress = Cluster(config.folder), LineDisplay(2)
    require_access(cluster)
    if Lock(cluster).holder() is not None:
        return play(config, cluster)
    if plan is not None:
        workers = [f"worker-{index}" for index in range(config.worker)]
        require_known_names(plan, workers, [f"lb-{index}" for index in range(config.pool)])
    discovery.recognize(cluster)
    started_here = not (cluster.id is not None and discovery.find(cluster))
    cluster.create()
    which = ", for this run only" if plan is None else ", for this scenario only"
    print(f"no supervisor runs: starting one{which if started_here else ''}", file=sys.stderr, flush=True)
    code = run_detached(config, cluster, progress)
    try:
        return code or play(config, cluster)
    finally:
        holder = Lock(cluster).holder()
        if started_here and holder is not None:
            stop_supervisor(cluster, holder, progress)


def without_load(plan: Scenario) -> Scenario:
    """Return the plan without Comet's own clients: the user's client is the load."""
    return replace(plan, steps=tuple(replace(step, clients=0, clients_to=0) for step in plan.steps))


def player(plan: Scenario, config: Config, cluster: Cluster, client: Sequence[str]) -> ScenarioPlayer:
    """Return what plays the plan on this cluster, whose names are checked."""
    rows = from_dict(send_command(cluster, "picture", QUICK_TIMEOUT)).replicas
    balancers = [row for row in rows if row.role == "lb"]
    workers = [row.name for row in rows if row.role == "worker"]
    require_known_names(plan, workers, [row.name for row in balancers])
    host = reachable(config.load_balancer_host)
    return ScenarioPlayer(
        plan if plan.path else replace(plan, path=config.front_path),
        cluster,
        [(host, row.port) for row in balancers],
        workers,
        lambda line: print(line, file=sys.stderr, flush=True),
        tuple(client),
        tuple(f"{config.front_scheme}://{url_host(host)}:{row.port}" for row in balancers),
        config.speaks_tls,
    )


def _play(plan: Scenario, config: Config, cluster: Cluster, options: argparse.Namespace) -> int:
    play = player(plan, config, cluster, options.client)
    try:
        play.run()
    finally:
        report = play.report()
        show_report(report, options.json)
        if options.junit is not None:
            write_report(options.junit, junit(report))
    if play.interrupted is not None:
        return 128 + play.interrupted
    return 0 if report["passed"] else 1


def show_report(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(report, indent=1))
    elif report["steps"]:
        show("scenario", report)
        for line in verdict(report):
            print(line)
    sys.stdout.flush()


def verdict(report: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each expectation, one for the client, and the verdict; nothing where nothing was expected."""
    for finding in report["expectations"]:
        mark = "held  " if finding["holds"] else "MISSED"
        where = finding["step"] or "total"
        yield f"{mark}  {where}: {finding['what']} {finding['expected']}: {finding['found']}"
    client = report["client"]
    if client is not None:
        yield f"{'held  ' if client['exit_code'] == 0 else 'MISSED'}  client: exit code {client['exit_code']}"
    asked = len(report["expectations"]) + (client is not None)
    if asked:
        missed = sum(not finding["holds"] for finding in report["expectations"])
        missed += client is not None and client["exit_code"] != 0
        yield f"passed: all {asked} hold" if report["passed"] else f"failed: {missed} of {asked} missed"


def write_report(path: Path, text: str) -> None:
    """Write a report; UserError where that is not possible."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {os_error_text(error)}") from None


def require_known_names(plan: Scenario, workers: list[str], balancers: list[str]) -> None:
    problems = list(unknown_names(plan, workers, balancers))
    if problems:
        raise UserError("\n".join(problems), 2)
