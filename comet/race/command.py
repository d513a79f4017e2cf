"""The command `race`: on the running cluster if it has a worker of each form, else in a cluster made for the race."""

import json
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from comet.api.running_cluster import cluster as own_cluster
from comet.common.errors import UserError
from comet.config.keys import KEYS
from comet.config.schema import load
from comet.engine.connection import connect
from comet.race import course, drawing
from comet.race.result import FORMS, Race
from comet.state.directory import Cluster
from comet.state.lock import Lock

MAX_ROUNDS = 100

OWN_STABLE = 1.0
"""Seconds after which the race's own cluster forgets a crash: no kill leads to a backoff."""


def race(cluster: Cluster, config: Path, rounds: int, as_json: bool) -> int:
    """Race and print the result; `config` is the config file of `cluster`."""
    if not 1 <= rounds <= MAX_ROUNDS:
        raise UserError(f"--rounds {rounds}: from 1 to {MAX_ROUNDS}", 2)
    if Lock(cluster).holder() is not None:
        names = course.runners(cluster)
        if len(names) == len(FORMS):
            _say(f"in the running cluster in {cluster.folder}: {' and '.join(names.values())}")
            return _print(course.run(cluster, names, rounds, _stable(config), _say), as_json)
    return _print(_in_own_cluster(rounds), as_json)


def _in_own_cluster(rounds: int) -> Race:
    """Race in a temporary cluster with one worker of each form."""
    connect()  # Without an engine there is no race, and the engine's error is one clear line.
    _say("starting a cluster with one worker of each form; the first time this builds the worker image")
    with own_cluster(runtime="mixed", worker=2, pool=1, restart_stable=OWN_STABLE) as made:
        its = Cluster(made.folder)
        return course.run(its, course.runners(its), rounds, OWN_STABLE, _say)


def _stable(config: Path) -> float:
    """Return `restart-stable` of the running cluster's config, or its default if the file cannot be read."""
    with suppress(UserError):
        return load(config).restart_stable
    return float(KEYS["restart-stable"].default)


def _say(text: str) -> None:
    with suppress(OSError):  # A closed terminal must not prevent the cleanup.
        print(text, file=sys.stderr, flush=True)


def _print(result: Race, as_json: bool) -> int:
    if as_json:
        print(json.dumps(result.as_dict(), indent=1))
    else:
        print("\n".join(drawing.lines(result, min(120, shutil.get_terminal_size((100, 24)).columns))))
    return 0
