"""Implements `chaos`: a run on the user's own cluster, its report and its verdict."""

import argparse
import json
import random
import sys
from collections.abc import Iterator
from typing import Any

from comet.cli.options import config_path
from comet.cli.read_commands import show
from comet.cli.scenario_command import on_cluster
from comet.cli.supervisor_calls import QUICK_TIMEOUT, send_command
from comet.common.errors import UserError
from comet.common.figures import milliseconds
from comet.common.wording import counted
from comet.config.schema import Config
from comet.scenario.chaos import ChaosRun
from comet.scenario.cluster_stop import ClusterStopped
from comet.state.directory import Cluster
from comet.telemetry.snapshot import from_dict
from comet.workloads.builtin import reachable

TIMEOUT_MARGIN = 5.0
"""Seconds that a client waits beyond the load balancers' own limit, so that it sees their answer."""


def chaos(options: argparse.Namespace) -> int:
    if options.seconds <= 0:
        raise UserError("chaos: --for: 0 is not usable (allowed: a time like 30s or 5m)", 2)
    return on_cluster(config_path(options), lambda config, cluster: _run(config, cluster, options))


def _run(config: Config, cluster: Cluster, options: argparse.Namespace) -> int:
    rows = from_dict(send_command(cluster, "picture", QUICK_TIMEOUT)).replicas
    host = reachable(config.load_balancer_host)
    addresses = {row.name: (host, row.port) for row in rows if row.role == "lb"}
    seed = random.randrange(1 << 30) if options.seed is None else options.seed  # nosec B311  # no secret
    timeout = config.request_timeout + config.queue_timeout + TIMEOUT_MARGIN
    run = ChaosRun(
        cluster,
        addresses,
        config.front_path,
        options.seconds,
        seed,
        options.kinds,
        options.rate,
        timeout,
        _say,
        config.speaks_tls,
    )
    _say(f"chaos for {options.seconds:g} s: {', '.join(options.kinds)} (seed {seed})")
    broken_off = 1
    try:
        run.run()
    except ClusterStopped as error:
        _say(error.message)
    except KeyboardInterrupt:
        _say("broken off")
        broken_off = 130
    report = run.report()
    if options.json:
        print(json.dumps(report, indent=1))
    else:
        show("chaos", report)
        for line in verdict(report):
            print(line)
    sys.stdout.flush()
    return (0 if report["passed"] else 1) if report["complete"] else broken_off


def verdict(report: dict[str, Any]) -> Iterator[str]:
    """Yield what clients saw, and whether every error is explained and every replica is back."""
    yield (
        f"{counted(report['requests'], 'requests')}: {report['ok']} ok, {report['injected']} injected, "
        f"{report['broken_with_lb']} broken with their load balancer; p50 {milliseconds(report['p50_ms'])}, "
        f"p99 {milliseconds(report['p99_ms'])}"
    )
    unexplained = ", ".join(f"{what} {count}" for what, count in report["unexplained"].items())
    if unexplained:
        yield f"MISSED  unexplained errors: {unexplained}"
    if not report["actions"]:
        yield "MISSED  nothing was done: no replica that could be spared was ready"
    if report["not_ready"]:
        yield f"MISSED  not ready again: {', '.join(report['not_ready'])}"
    if not report["complete"]:
        yield "broken off"
    elif report["passed"]:
        yield f"passed: every error is explained, every replica is ready again (seed {report['seed']})"
    else:
        yield f"failed (seed {report['seed']})"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
