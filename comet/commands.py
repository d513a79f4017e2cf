"""What each command does: options in, exit code out; what goes wrong is raised as UserError."""

import argparse
import json
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import psutil

from comet import clean, database, journal, orphans
from comet.cluster import Cluster, Lock
from comet.config import PORT_KEYS, Config, load, port_ranges, span
from comet.control import Silent, call
from comet.display import Aside, Display, LineDisplay, PipeDisplay, QuietDisplay, plain
from comet.errors import UserError
from comet.faults import SETTINGS, change
from comet.launch import detached, supervise
from comet.looks import completion, events, ps, show, show_logs, stats
from comet.options import NOTHING_RUNS, cluster_of, config_path, existing_cluster
from comet.snapshot import from_dict

if TYPE_CHECKING:
    from comet.scenario import Scenario

IN_FORCE = 0.3
"""Seconds until every worker has looked at its changed file: when the command returns, its faults are in force."""

QUICK_TIMEOUT = 20.0
"""Seconds for what a supervisor answers at once, if it answers at all."""

OPERATION_TIMEOUT = 3600.0
"""Seconds; a rolling restart of 200 workers takes minutes."""


def run(options: argparse.Namespace) -> int:
    config = load(config_path(options))
    cluster = Cluster(config.folder)
    holder = Lock(cluster).holder()
    if holder is not None:
        raise UserError(f"{config.folder}: a supervisor is running already (PID {holder}); stop it with: python supervisor.py stop")
    cluster.create()
    if options.detach:
        return detached(config, cluster, plain(options.quiet, options.log_format) or _progress())
    return supervise(config, cluster, partial(_display, options, config, cluster))


def _display(options: argparse.Namespace, config: Config, cluster: Cluster) -> Display:
    """Of a supervisor: nothing that it shows to makes it wait."""
    if options.notify_fd is not None:
        return Aside(PipeDisplay(options.notify_fd))
    lines = plain(options.quiet, options.log_format)
    if lines is not None:
        return Aside(lines)
    from comet.board.window import Window

    return Window(config, cluster)


def _progress() -> Display:
    # Here and below, not above: a supervisor draws nothing itself.
    from comet.progress import LiveDisplay

    return LiveDisplay()


def stop(options: argparse.Namespace) -> int:
    cluster = cluster_of(options)
    holder = Lock(cluster).holder()
    display = QuietDisplay() if options.quiet else LineDisplay()
    if holder is not None:
        return _stop_supervisor(cluster, holder, display)
    found = orphans.find(cluster, complete=True)
    if not found:
        raise UserError(f"{cluster.folder}: nothing of this cluster runs", NOTHING_RUNS)
    display.show({"kind": "step", "text": f"no supervisor runs: ending {len(found)} orphans"})
    client = orphans.client_for(found)
    for told in orphans.end(cluster, found, client, _grace(options)):
        display.show({"kind": "step", "text": told})
    clean.forget_run(cluster)
    return 0


def _grace(options: argparse.Namespace) -> float:
    """The config's grace for requests in flight; its default where the config cannot be read now."""
    try:
        return load(config_path(options)).shutdown_grace
    except UserError:
        return 10.0


def _stop_supervisor(cluster: Cluster, pid: int, display: Display) -> int:
    """Ask it to stop, and wait until it has: its lock is free, however long the drain takes."""
    process = psutil.Process(pid)
    tail = journal.Tail(cluster.path("events.jsonl"))
    try:
        call(cluster, "stop", timeout=5)
    except (ConnectionError, Silent) as error:
        display.show({"kind": "step", "text": f"{error}: sending it SIGTERM (kill -9 {pid} is the last resort)"})
        process.send_signal(signal.SIGTERM)
    while True:
        ended = Lock(cluster).holder() is None
        for record in tail.fresh():
            display.show({"kind": "event", "record": record})
        if ended:
            break
        time.sleep(0.05)
    left = orphans.find(cluster)
    if left:
        raise UserError(f"{len(left)} replicas could not be removed: {', '.join(str(orphan.name or orphan.id) for orphan in left)}")
    return 0


def check(options: argparse.Namespace) -> int:
    config = load(config_path(options))
    if not config.own_service:
        database.place(config, Cluster(config.folder))
    values = {key: getattr(config, key.replace("-", "_")) for key in (*PORT_KEYS, "pool", "worker")}
    spans = ", ".join(f"{key} {span(first, count)}" for key, first, count in port_ranges(values))
    if options.json:
        print(json.dumps({"config": str(config.path), "worker": config.worker, "pool": config.pool, "ports": spans}))
        return 0
    print(f"{config.path}: good ({config.worker} workers, {config.pool} load balancers; {spans})")
    return 0


def clean_up(options: argparse.Namespace) -> int:
    cluster = existing_cluster(options)
    if Lock(cluster).holder() is not None or orphans.find(cluster, complete=True):
        raise UserError(f"{cluster.folder}: the cluster runs; stop it first with: python supervisor.py stop")
    for told in clean.everything(cluster):
        print(told)
    return 0


def kill(options: argparse.Namespace) -> int:
    cluster = existing_cluster(options)
    try:
        made = call(cluster, "kill", name=options.name, signal=options.signal)
    except ConnectionError:
        from comet.operations import signal_number

        number = signal_number(options.signal)
        orphans.kill(cluster, options.name, number)
        made = {"name": options.name, "signal": signal.Signals(number).name}
    if options.json:
        print(json.dumps(made))
    return 0


def scale(options: argparse.Namespace) -> int:
    numbers: dict[str, int] = {}
    for text in options.numbers:
        name, _, value = text.partition("=")
        if name not in ("worker", "pool") or not re.fullmatch(r"[0-9]{1,9}", value) or name in numbers:
            raise UserError(f"scale: {text}: not understood (allowed: worker=N and pool=M, whole numbers)", 2)
        numbers[name] = int(value)
    made = _operate(options, "scale", **numbers)
    print(json.dumps(made) if options.json else f"worker={made['worker']} pool={made['pool']}")
    return 0


def restart(options: argparse.Namespace) -> int:
    made = _operate(options, "restart", target=options.target)
    print(json.dumps(made) if options.json else f"restarted {', '.join(made['restarted']) or 'nothing'}")
    return 0


def reload(options: argparse.Namespace) -> int:
    made = _operate(options, "reload")
    if options.json:
        print(json.dumps(made))
        return 0
    restarted = f"; restarted {', '.join(made['restarted'])}" if made["restarted"] else ""
    changed = ", ".join(made["changed"]) or "only what an image's name stands for"
    print(f"changed {changed}{restarted}" if made["changed"] or restarted else "nothing has changed")
    return 0


def faults(options: argparse.Namespace) -> int:
    given = {name: getattr(options, name.replace("-", "_")) for name in SETTINGS}
    given |= {"for": options.seconds, "count": options.count, "clear": options.clear or None}
    wanted = {name: value for name, value in given.items() if value is not None}
    if wanted:
        change(wanted)  # Nonsense is refused whether or not a cluster runs.
    told = _ask(existing_cluster(options), "faults", QUICK_TIMEOUT, target=options.name, **wanted)
    if wanted:
        time.sleep(IN_FORCE)
    if options.json:
        print(json.dumps(told, indent=1))
    elif not wanted:
        show("faults", told["workers"])
    return 0


def scenario(options: argparse.Namespace) -> int:
    from comet import scenario as scenarios

    try:
        plan = scenarios.parse(options.file.read_text(encoding="utf-8"), str(options.file))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{options.file}: cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}", 2) from None
    config = load(config_path(options))
    cluster, progress = Cluster(config.folder), LineDisplay(2)
    if Lock(cluster).holder() is not None:
        return _play(plan, config, cluster, options.json)
    # Checked before anything is started.
    _require_cast(plan, [f"worker-{index}" for index in range(config.worker)], [f"lb-{index}" for index in range(config.pool)])
    ours = not (cluster.id is not None and orphans.find(cluster))
    cluster.create()
    print("no supervisor runs: starting one" + (", for this scenario only" if ours else ""), file=sys.stderr, flush=True)
    code = detached(config, cluster, progress)
    try:
        return code or _play(plan, config, cluster, options.json)
    finally:
        holder = Lock(cluster).holder()
        if ours and holder is not None:
            _stop_supervisor(cluster, holder, progress)


def _play(plan: "Scenario", config: Config, cluster: Cluster, as_json: bool) -> int:
    from comet.expand import reachable
    from comet.play import Play

    rows = from_dict(_ask(cluster, "ps", QUICK_TIMEOUT)).replicas
    balancers = [row for row in rows if row.role == "lb"]
    workers = [row.name for row in rows if row.role == "worker"]
    _require_cast(plan, workers, [row.name for row in balancers])
    host = reachable(config.load_balancer_host)
    plan = plan if plan.path else replace(plan, path=config.front_path)
    play = Play(plan, cluster, [(host, row.port) for row in balancers], workers, lambda told: print(told, file=sys.stderr, flush=True))
    try:
        play.run()
    finally:
        report = play.report()
        if as_json:
            print(json.dumps(report, indent=1))
        elif report["steps"]:
            show("scenario", report)
        sys.stdout.flush()
    return 0 if play.interrupted is None else 128 + play.interrupted


def _require_cast(plan: "Scenario", workers: list[str], balancers: list[str]) -> None:
    from comet.scenario import strangers

    problems = list(strangers(plan, workers, balancers))
    if problems:
        raise UserError("\n".join(problems), 2)


def _operate(options: argparse.Namespace, command: str, **fields: Any) -> Any:
    """Have the supervisor carry out an operation, however long it takes."""
    return _ask(existing_cluster(options), command, OPERATION_TIMEOUT, **fields)


def _ask(cluster: Cluster, command: str, timeout: float, **fields: Any) -> Any:
    try:
        return call(cluster, command, timeout=timeout, **fields)
    except ConnectionError:
        raise UserError(f"{cluster.folder}: no supervisor runs (start one with: python supervisor.py)", NOTHING_RUNS) from None


def compare(options: argparse.Namespace) -> int:
    from comet.compare import command

    return command.compare(options)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": run,
    "ps": ps,
    "stop": stop,
    "stats": stats,
    "events": events,
    "logs": show_logs,
    "kill": kill,
    "scale": scale,
    "restart": restart,
    "reload": reload,
    "faults": faults,
    "scenario": scenario,
    "compare": compare,
    "check": check,
    "clean": clean_up,
    "completion": completion,
}
