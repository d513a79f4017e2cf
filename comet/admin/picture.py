"""What the admin server shows: the latest of all that the supervisor told, rendered at most once for each thing told.

One thread takes the feed in; any number of threads read. CPU and memory are looked at here, when somebody asks and at most once a
second: the process table costs milliseconds that the supervisor's loop is better off without, and nothing at all while nobody looks.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from comet.events import line
from comet.journal import RECENT, number
from comet.rates import KEPT, Sample, columns, sample_from
from comet.snapshot import FleetSnapshot, Usage, from_dict
from comet.usage import SUPERVISOR

LOOK_PAUSE = 1.0
"""Seconds between two looks at the process table."""

FIRST_LOOK = 0.1
"""Seconds over which the CPU's share is measured where there is no former look to compare with."""

SHOWN = 100
"""Events that come with the cluster."""

STALE_AFTER = 5.0
"""Seconds without a word from the supervisor after which what is shown may be wrong."""

Look = Callable[[Mapping[str, int | None]], Mapping[str, Usage]]


class Picture:
    """`look` reads the usage of PIDs by name."""

    def __init__(self, look: Look, clock: Callable[[], float] = time.monotonic) -> None:
        self._look = look
        self._clock = clock
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._cluster: dict[str, Any] | None = None
        self._usage: Mapping[str, Usage] = {}
        self._pids: dict[str, int | None] = {}
        self._looked_at = float("-inf")
        self._heard_at = float("-inf")
        self._events: deque[dict[str, Any]] = deque(maxlen=RECENT)
        self._samples: deque[Sample] = deque(maxlen=KEPT)
        self._rendered: bytes | None = None

    def take(self, message: Mapping[str, Any]) -> None:
        """Take in one message of the feed; a kind that is not known is passed over."""
        with self._lock:
            self._heard_at = self._clock()
            self._rendered = None
            match message["type"]:
                case "past":
                    self._events.extend(map(_worded, message["events"]))
                    self._samples.extend(sample_from(sample) for sample in message["samples"])
                case "cluster":
                    self._cluster = dict(message["cluster"])
                    self._pids = {row["name"]: row["pid"] for row in self._cluster["replicas"]}
                case "event":
                    self._events.append(_worded(message["record"]))
                case "sample":
                    self._samples.append(sample_from(message["sample"]))

    def cluster(self) -> bytes | None:
        """The JSON of the cluster; None before the first picture."""
        self._refresh_usage()
        with self._lock:
            if self._rendered is None and self._cluster is not None:
                self._rendered = json.dumps(self._told(self._cluster), separators=(",", ":")).encode()
            return self._rendered

    def replicas(self) -> list[dict[str, Any]]:
        """The rows of the list of replicas; none before the first picture."""
        self._refresh_usage()
        with self._lock:
            return [] if self._cluster is None else self._with_usage(self._cluster)["replicas"]

    def snapshot(self) -> tuple[FleetSnapshot, dict[str, Any]] | None:
        """The same for the metrics: the snapshot, and what else the supervisor told."""
        self._refresh_usage()
        with self._lock:
            return None if self._cluster is None else (from_dict(self._with_usage(self._cluster)), self._cluster)

    def events_after(self, after: int) -> dict[str, Any]:
        """The events numbered above `after`, at most RECENT; all where `after` lies in the future (of a cluster since cleaned)."""
        with self._lock:
            latest = number(self._events[-1]) if self._events else 0
            return {"events": [record for record in self._events if number(record) > after or after > latest], "last": latest}

    def history_after(self, after: float) -> dict[str, Any]:
        """The samples that ended later than `after` (seconds since the epoch), with those of each replica."""
        with self._lock:
            samples = [sample for sample in self._samples if sample.at > after]
            names = list(self._pids) if self._cluster else []
        return columns(samples, names)

    @property
    def stale(self) -> bool:
        """Whether the supervisor has not said anything for a while: it is stopped, hung or gone."""
        return self._clock() - self._heard_at > STALE_AFTER

    @property
    def ready(self) -> bool:
        """Whether every replica that is wanted answers."""
        with self._lock:
            return self._cluster is not None and bool(self._cluster.get("ready"))

    def _told(self, cluster: dict[str, Any]) -> dict[str, Any]:
        silent = round(self._clock() - self._heard_at, 1)
        return {**self._with_usage(cluster), "silent_s": silent, "events": list(self._events)[-SHOWN:], "history": columns(self._samples)}

    def _with_usage(self, cluster: dict[str, Any]) -> dict[str, Any]:
        me = {**cluster["supervisor"], "memory_bytes": self._usage.get(SUPERVISOR, Usage()).memory_bytes}
        replicas = [{**row, **asdict(self._usage.get(row["name"], Usage()))} for row in cluster["replicas"]]
        return {**cluster, "supervisor": me, "replicas": replicas}

    def _everyone(self) -> dict[str, int | None]:
        """The PIDs of the replicas and of the supervisor."""
        with self._lock:
            return self._pids | ({SUPERVISOR: self._cluster["supervisor"]["pid"]} if self._cluster is not None else {})

    def _refresh_usage(self) -> None:
        """Look anew if the last look is old; who comes while another looks takes what there is."""
        now = self._clock()
        if now - self._looked_at < LOOK_PAUSE or not self._looking.acquire(blocking=False):
            return
        try:
            if self._looked_at == float("-inf"):
                self._look(self._everyone())
                time.sleep(FIRST_LOOK)
            usage = self._look(self._everyone())
            with self._lock:
                self._usage, self._rendered = usage, None
            self._looked_at = self._clock()
        finally:
            self._looking.release()


def _worded(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the sentence that the command line shows for it."""
    return {**record, "text": line(record)}
