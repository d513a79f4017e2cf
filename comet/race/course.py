"""Runs a race on a cluster: kills both workers at the same moment, and waits until both are ready and settled again."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from comet.api.event_log import EventLog, named
from comet.common.errors import UserError
from comet.race.result import FORMS, Race, Steps
from comet.state.control_socket import NotAnswering, call
from comet.state.directory import Cluster

READY_TIMEOUT = 180.0
"""Seconds until a killed worker is ready again; far more than the supervisor itself gives it."""

SETTLE_MARGIN = 0.3
"""Seconds beyond `restart-stable` until the next kill, so that it leads to a restart at once and to no backoff."""

POLL_PAUSE = 0.05
"""Seconds between two looks at the replicas."""


def runners(cluster: Cluster) -> dict[str, str]:
    """Return the first ready worker of each form by name; a form that no worker has is missing."""
    found: dict[str, str] = {}
    for row in _ask(cluster, "ps")["replicas"]:
        if row["role"] == "worker" and row["kind"] in FORMS and row["state"] == "ready":
            found.setdefault(row["kind"], row["name"])
    return found


def run(cluster: Cluster, names: Mapping[str, str], rounds: int, stable: float, report: Callable[[str], None]) -> Race:
    """Race `rounds` times; `stable` is the cluster's `restart-stable` in seconds."""
    log, steps = EventLog(cluster), {form: list[Steps]() for form in FORMS}
    for number in range(1, rounds + 1):
        _settle(cluster, names, stable)
        log.mark()
        with ThreadPoolExecutor(len(FORMS)) as pool:
            list(pool.map(lambda name: _ask(cluster, "kill", name=name, signal="KILL"), names.values()))
        for form in FORMS:
            steps[form].append(_recovery(log, names[form]))
        race = Race(names, steps)
        times_shown = ", ".join(f"{form} {race.times(form)[-1]:.0f} ms" for form in FORMS)
        report(f"round {number} of {rounds}: {times_shown} from death to ready")
    return Race(names, steps)


def _recovery(log: EventLog, name: str) -> Steps:
    """Wait until the killed worker is ready, and return the steps of its recovery."""
    matches, what = named("replica_ready", {"replica": name})
    try:
        record = log.wait(lambda each: matches(each) and bool(each.get("timeline_ms")), what, READY_TIMEOUT, None)
    except TimeoutError:
        raise UserError(f"race: {name} is not ready again within {READY_TIMEOUT:g} s") from None
    steps: Steps = record["timeline_ms"]
    return steps


def _settle(cluster: Cluster, names: Mapping[str, str], stable: float) -> None:
    """Wait until both have been ready for so long that their last crash is forgotten."""
    deadline = time.monotonic() + READY_TIMEOUT + stable
    since: float | None = None
    while True:
        rows = {row["name"]: row for row in _ask(cluster, "ps")["replicas"]}
        for name in names.values():
            if name not in rows:
                raise UserError(f"race: {name} is gone: the cluster was scaled or stopped meanwhile")
        both = all(rows[name]["state"] == "ready" for name in names.values())
        since = (since or time.monotonic()) if both else None
        if since is not None and time.monotonic() - since > stable + SETTLE_MARGIN:
            return
        if time.monotonic() > deadline:
            raise UserError(f"race: {' and '.join(names.values())} are not ready together; see: events --tail 20")
        time.sleep(POLL_PAUSE)


def _ask(cluster: Cluster, command: str, **fields: Any) -> Any:
    try:
        return call(cluster, command, timeout=20.0, **fields)
    except (ConnectionError, NotAnswering) as error:
        raise UserError(f"race: the supervisor does not answer ({error})") from None
