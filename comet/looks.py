"""The commands that only look: ps, stats, events, logs, completion. They work with and without a supervisor, and change nothing
but for `stats --reset`."""

import argparse
import contextlib
import json
import time
from typing import Any

from comet import database, journal, logs, told
from comet.cluster import Cluster, worker_owner
from comet.config import load
from comet.display import is_ours
from comet.errors import UserError
from comet.events import line
from comet.glance import once
from comet.options import cluster_of, config_path, existing_cluster
from comet.replica import public_name
from comet.statefile import StateFile

WATCH_PAUSE = 1.0
"""Seconds between two looks of `ps --watch`."""


def ps(options: argparse.Namespace) -> int:
    cluster = cluster_of(options)
    if options.watch and not options.json and (options.feed_fd is not None or is_ours()):
        return _board(cluster, options.feed_fd)
    while True:
        snapshot = once(cluster)
        if options.json:
            print(json.dumps(snapshot.as_dict(), indent=None if options.watch else 1), flush=True)
        else:
            show("replicas", snapshot)
        if not options.watch:
            return 0
        time.sleep(WATCH_PAUSE)


def _board(cluster: Cluster, feed_fd: int | None) -> int:
    from comet.board import loop

    if feed_fd is not None:
        from comet.board.sources import Words

        return loop.window(cluster, Words(feed_fd))
    loop.attached(cluster)
    return 0


def stats(options: argparse.Namespace) -> int:
    config = load(config_path(options))
    cluster = existing_cluster(options)
    if config.own_service:
        return _tallies(options, cluster)
    where, owner = database.place(config, cluster), worker_owner()
    if options.reset:
        rows = once(cluster).replicas
        database.reset(where, owner, [row.id for row in rows if row.role == "worker" and row.id is not None])
    elif options.json:
        print(json.dumps(database.read_stats(where, owner), separators=(",", ":")))
    else:
        told = database.report(where, owner)
        if config.fault_point == "lb":
            from comet import tallies

            told["total"]["injections"] = tallies.report(cluster)["total"]["injections"]
        show("statistics", told)
    return 0


def _tallies(options: argparse.Namespace, cluster: Cluster) -> int:
    """Statistics of a service of one's own."""
    from comet import tallies

    if options.reset:
        tallies.reset(cluster)
    elif options.json:
        print(json.dumps(tallies.contract(cluster), separators=(",", ":")))
    else:
        show("statistics", tallies.report(cluster))
    return 0


def events(options: argparse.Namespace) -> int:
    cluster = existing_cluster(options)
    path = cluster.path("events.jsonl")
    past = list(journal.read(path))
    for record in past[-options.tail :] if options.tail > 0 else []:
        _print_event(record, options.json)
    if options.follow:
        for record in journal.follow(path, len(past)):
            _print_event(record, options.json)
    return 0


def _print_event(record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(record, separators=(",", ":")), flush=True)
        return
    if is_ours():
        from comet import tables

        tables.show_event(record)
        return
    print(f"{told.clock(record)}  {line(record)}", flush=True)


def show_logs(options: argparse.Namespace) -> int:
    cluster = existing_cluster(options)
    row = next((row for row in once(cluster).replicas if row.name == options.name), None)
    kind = row.kind if row else "process"
    if row is None and not cluster.path("logs", f"{options.name}.log").exists():
        raise UserError(f"{options.name}: no such replica (python supervisor.py ps lists them)", 2)
    for text in logs.lines(cluster, options.name, kind, max(0, options.tail), options.follow):
        print(json.dumps({"replica": options.name, "line": text}) if options.json else text, flush=True)
    return 0


def completion(options: argparse.Namespace) -> int:
    """The names that may be typed: of the replicas there are, else of those that the config asks for."""
    with contextlib.suppress(UserError, OSError, ValueError):
        kept = StateFile(cluster_of(options).path("state.json")).read()
        names = dict.fromkeys(map(public_name, kept))
        if not names:
            config = load(config_path(options))
            names = dict.fromkeys([f"lb-{index}" for index in range(config.pool)] + [f"worker-{index}" for index in range(config.worker)])
        print("\n".join(names))
    return 0


def show(listing: str, content: Any) -> None:
    # Not above: what draws takes a while to import, and a pipe or a script needs none of it.
    from comet import tables

    tables.show(getattr(tables, listing)(content))
