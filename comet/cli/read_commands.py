"""Implements the commands that only read: ps, stats, events, logs, completion.

They work with and without a supervisor, and change nothing, except `stats --reset`. What only one of them needs is
imported in it: a script that asks `ps` every second pays for each module.
"""

import argparse
import contextlib
import json
import os
import select
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from comet.cli.options import changing_cluster, cluster_of, config_path, existing_cluster, known_cluster
from comet.common.clock import iso
from comet.common.errors import UserError, nothing_runs
from comet.common.wording import hint
from comet.events import journal, text
from comet.events.event import line, visible
from comet.host import files
from comet.reconcile.replica import public_name
from comet.runtimes.replica_records import StateFile
from comet.state.directory import Cluster, worker_owner
from comet.statistics.lives import Lives, folded, lives
from comet.telemetry.status import once
from comet.terminal.messages import is_own_terminal

WATCH_INTERVAL = 1.0
"""Seconds between two listings of `ps --watch`."""

RESET = "statistics set back to zero"


def ps(options: argparse.Namespace) -> int:
    cluster = known_cluster(options)
    if options.tree:
        return _tree(cluster, options)
    if options.watch and not options.json and (options.feed_fd is not None or is_own_terminal()):
        return _board(cluster, options.feed_fd)
    while True:
        snapshot = once(cluster)
        if options.json:
            print(json.dumps(snapshot.as_dict(), indent=None if options.watch else 1), flush=True)
        else:
            show("replicas", snapshot)
            if snapshot.supervisor.problem:
                who = f"supervisor (PID {snapshot.supervisor.pid}): " if snapshot.supervisor.running else ""
                print(f"{who}{snapshot.supervisor.problem}", file=sys.stderr, flush=True)
        if not options.watch:
            # A listing that may be incomplete counts as a failure.
            return 1 if snapshot.supervisor.problem and not snapshot.supervisor.running else 0
        time.sleep(WATCH_INTERVAL)


def _tree(cluster: Cluster, options: argparse.Namespace) -> int:
    """Show the cluster as one tree of processes."""
    from comet.inspection import cluster_tree

    while True:
        found = cluster_tree.read(cluster)
        if options.json:
            print(json.dumps(found.as_dict(), indent=None if options.watch else 1), flush=True)
        else:
            if found.roots:
                show("tree", found)
            elif not found.elsewhere and not found.problem:
                print("no process of this cluster runs", flush=True)
            for name, node in found.elsewhere:
                print(f"{name} runs on {node}", flush=True)
            if found.problem:
                print(found.problem, file=sys.stderr, flush=True)
        if not options.watch:
            return 1 if found.problem else 0
        time.sleep(WATCH_INTERVAL)


def inspect(options: argparse.Namespace) -> int:
    from comet.inspection import replicas

    report = replicas.report(existing_cluster(options), options.names)
    if options.json:
        print(json.dumps(report, indent=1))
    else:
        from comet.terminal import side_by_side

        side_by_side.show(report)
    return 0


def _board(cluster: Cluster, feed_fd: int | None) -> int:
    from comet.terminal.board import loop

    if feed_fd is not None:
        from comet.terminal.board.sources import FeedReader

        return loop.run_window(cluster, FeedReader(feed_fd))
    loop.run_attached(cluster)
    return 0


def stats(options: argparse.Namespace) -> int:
    from comet.api import statistics
    from comet.config.schema import load
    from comet.statistics import database

    config = load(config_path(options))
    cluster = existing_cluster(options)
    if config.custom_service:
        return _service_stats(options, cluster)
    where, owner = database.place(config, cluster), worker_owner()
    if options.reset:
        changing_cluster(options)
        rows = once(cluster).replicas
        database.reset(where, owner, [row.id for row in rows if row.role == "worker" and row.id is not None])
        _print_reset(options)
    elif options.json:
        print(json.dumps(database.read_stats(where, owner), separators=(",", ":")))
    else:
        report = statistics.report(config, cluster)
        show("statistics", report if options.all else folded(report, _lives(cluster)))
    return 0


def _print_reset(options: argparse.Namespace) -> None:
    print(json.dumps({"reset": True}) if options.json else RESET)


def _lives(cluster: Cluster) -> Lives:
    path = cluster.path("events.jsonl")
    return lives(record for part in (files.rotated_path(path), path) for record in journal.read(part))


def _service_stats(options: argparse.Namespace, cluster: Cluster) -> int:
    """Show or reset the statistics of a custom service."""
    from comet.api import statistics
    from comet.balancers import request_statistics
    from comet.config.schema import load

    if options.reset:
        request_statistics.reset(cluster)
        _print_reset(options)
    elif options.json:
        print(json.dumps(request_statistics.worker_stats(cluster), separators=(",", ":")))
    else:
        show("statistics", statistics.report(load(config_path(options)), cluster))
    return 0


def events(options: argparse.Namespace) -> int:
    cluster = existing_cluster(options)
    path = cluster.path("events.jsonl")
    past = list(journal.read(path))
    _require_known(options.names, dict.fromkeys(str(each["replica"]) for each in past if each.get("replica")), cluster)
    found = [record for record in past if _is_of(record, options.names)]
    for record in found[-options.tail :] if options.tail > 0 else []:
        _print_event(record, options.json)
    if options.follow:
        threading.Thread(target=_exit_with_reader, daemon=True).start()
        for record in journal.follow(path, past[-1] if past else None):
            if _is_of(record, options.names):
                _print_event(record, options.json)
            if record["event"] == "supervisor_stopped":
                break
    return 0


def _is_of(record: dict[str, Any], names: Sequence[str]) -> bool:
    return not names or record.get("replica") in names


def _require_known(names: Sequence[str], known: Collection[str], cluster: Cluster) -> None:
    """Raise UserError for a name that is neither known nor that of a present replica."""
    unknown = [name for name in names if name not in known]
    if unknown:
        known = dict.fromkeys([*known, *(row.name for row in once(cluster).replicas)])
        for name in unknown:
            if name not in known:
                raise UserError(f"{visible(name)}: no such replica ({hint(name, known, 'there are')})", 2)


def _print_event(record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(record, separators=(",", ":")), flush=True)
        return
    if is_own_terminal():
        from comet.terminal import tables

        tables.show_event(record)
        return
    print(f"{text.clock(record)}  {line(record)}", flush=True)


def show_logs(options: argparse.Namespace) -> int:
    from comet.runtimes import logs

    cluster = existing_cluster(options)
    kinds = {row.name: row.kind for row in once(cluster).replicas}
    for name in options.names:
        logs.require_known(cluster, name, kinds)
    if options.follow:
        threading.Thread(target=_exit_with_reader, daemon=True).start()
    names = list(options.names) or list(kinds) or logs.kept(cluster)
    if not names:
        raise nothing_runs(cluster.folder)
    if len(options.names) == 1:
        shown = logs.pieces(cluster, names[0], kinds.get(names[0], "process"), options.tail, options.follow)
        _print_pieces(logs.as_json(names[0], shown) if options.json else shown, options.follow)
    else:
        _print_pieces(_merged(cluster, {name: kinds.get(name, "process") for name in names}, options), options.follow)
    return 0


def _merged(cluster: Cluster, kinds: Mapping[str, str], options: argparse.Namespace) -> Iterator[bytes]:
    """Yield the logs of several replicas as one, a line at a time; a replica that has printed nothing has no line."""
    from comet.runtimes import logs, merged_logs

    width = max(map(len, kinds), default=0)

    def written(line: merged_logs.Line) -> bytes:
        if not options.json:
            return merged_logs.shown(line, width)
        at = {"at": iso(line.at)} if line.dated else {}
        return json.dumps({**at, "replica": line.name, "line": line.text.decode(errors="replace")}).encode() + b"\n"

    def quietly(name: str, follow: bool) -> Iterator[bytes]:
        with contextlib.suppress(UserError):
            yield from logs.pieces(cluster, name, kinds[name], options.tail, follow)

    read = {name: quietly(name, options.follow) for name in kinds}
    yield from map(written, merged_logs.followed(read) if options.follow else merged_logs.merged(read))


def _print_pieces(pieces: Iterable[bytes], flush: bool) -> None:
    for piece in pieces:
        sys.stdout.buffer.write(piece)
        if flush:
            sys.stdout.buffer.flush()
    sys.stdout.buffer.flush()


def _exit_with_reader() -> None:
    """End this process when the reader of its output is gone.

    A process that only waits for more output to forward would never notice.
    """
    with contextlib.suppress(OSError, ValueError):
        reader = select.poll()
        reader.register(sys.stdout.fileno(), 0)
        if any(event_mask & (select.POLLERR | select.POLLHUP) for _, event_mask in reader.poll()):
            os._exit(0)


def completion(options: argparse.Namespace) -> int:
    """Print the names for completion: of the existing replicas, else of those that the config defines."""
    from comet.config.schema import load

    names: dict[str, None] = {}
    with contextlib.suppress(UserError, OSError, ValueError):
        kept = StateFile(cluster_of(options).path("state.json")).read()
        names = dict.fromkeys(map(public_name, kept))
        if not names:
            config = load(config_path(options))
            names = dict.fromkeys(
                [f"lb-{index}" for index in range(config.pool)] + [f"worker-{index}" for index in range(config.worker)]
            )
    if names:
        print("\n".join(names))
    return 0


def show(listing: str, content: Any) -> None:
    # Not imported at the top: drawing code takes a while to import, and a pipe or a script does not need it.
    from comet.terminal import tables

    tables.show(getattr(tables, listing)(content))
