"""Holds the latest state that the supervisor reported, rendered at most once per message.

One thread reads the feed; any number of threads read the state. CPU and memory are measured here, on request and at
most once a second: reading the process table takes milliseconds that the supervisor's loop should not spend, and costs
nothing while there is no reader.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from comet.admin.access import masking
from comet.events.event import line
from comet.events.journal import RECENT, number
from comet.state.control_socket import problem
from comet.telemetry.process_usage import SUPERVISOR
from comet.telemetry.rates import KEPT, Sample, columns, sample_from
from comet.telemetry.snapshot import FleetSnapshot, Usage, from_dict

USAGE_INTERVAL = 1.0
"""Minimum seconds between two reads of the process table."""

FIRST_USAGE_PERIOD = 0.1
"""Seconds over which the CPU share is measured if there is no previous reading."""

SHOWN_EVENTS = 100
"""Number of events included in the cluster's JSON."""

STALE_AFTER = 5.0
"""Seconds without a message from the supervisor after which the state may be outdated."""

POLL_INTERVAL = 1.3
"""Seconds within which an open page asks again: it asks once a second."""

UsageReader = Callable[[Mapping[str, int | None]], Mapping[str, Usage]]


class ViewModel:
    """The state of the cluster for all readers; `read_usage` returns the CPU and memory usage of PIDs by name."""

    def __init__(self, read_usage: UsageReader, clock: Callable[[], float] = time.monotonic) -> None:
        self._read_usage = read_usage
        self._clock = clock
        self._lock = threading.Lock()
        self._reading_usage = threading.Lock()
        self._cluster: dict[str, Any] | None = None
        self._usage: Mapping[str, Usage] = {}
        self._pids: dict[str, int | None] = {}
        self._usage_read_at = float("-inf")
        self._received_at = float("-inf")
        self._events: deque[dict[str, Any]] = deque(maxlen=RECENT)
        self._samples: deque[Sample] = deque(maxlen=KEPT)
        self._rendered: dict[bool, bytes] = {}
        self._stopping_since: float | None = None
        self._asked_at = float("-inf")
        self.load_state: Callable[[], dict[str, Any] | None] = lambda: None
        """Returns what the admin server itself sends to the cluster (see `comet.admin.sample_load`)."""

    def apply(self, message: Mapping[str, Any]) -> None:
        """Apply one message of the feed; unknown types are ignored."""
        with self._lock:
            self._received_at = self._clock()
            self._rendered.clear()
            match message["type"]:
                case "past":
                    self._events.extend(map(_with_text, message["events"]))
                    self._samples.extend(sample_from(sample) for sample in message["samples"])
                case "cluster":
                    self._cluster = dict(message["cluster"])
                    self._pids = {row["name"]: row["pid"] for row in self._cluster["replicas"]}
                case "event":
                    self._events.append(_with_text(message["record"]))
                case "stopping":
                    self._stopping_since = self._clock()
                case "sample":
                    self._samples.append(sample_from(message["sample"]))

    def cluster(self, writable: bool = True) -> bytes | None:
        """Return the cluster's JSON, masked for readers without the right to write; None before the first state."""
        self._refresh_usage()
        with self._lock:
            self._asked_at = self._clock()
            if writable not in self._rendered and self._cluster is not None:
                state = self._state(self._cluster)
                state = {"writable": writable, **(state if writable else self._masked(state))}
                self._rendered[writable] = json.dumps(state, separators=(",", ":")).encode()
            return self._rendered.get(writable)

    def replicas(self) -> list[dict[str, Any]]:
        """Return the rows of the list of replicas; none before the first state."""
        self._refresh_usage()
        with self._lock:
            return [] if self._cluster is None else self._with_usage(self._cluster)["replicas"]

    def latest(self) -> dict[str, Any] | None:
        """Return the supervisor's latest message with the cluster's state."""
        with self._lock:
            return self._cluster

    def snapshot(self) -> tuple[FleetSnapshot, dict[str, Any]] | None:
        """Return the snapshot and the supervisor's whole message, for the metrics; None before the first state."""
        self._refresh_usage()
        with self._lock:
            return None if self._cluster is None else (from_dict(self._with_usage(self._cluster)), self._cluster)

    def events_after(self, after: int, writable: bool = True) -> dict[str, Any]:
        """Return the events numbered above `after`, at most RECENT.

        If `after` lies in the future (of a cluster cleaned since), all events are returned.
        """
        with self._lock:
            latest = number(self._events[-1]) if self._events else 0
            found = [record for record in self._events if number(record) > after or after > latest]
        return {"events": found if writable else list(map(_masked, found)), "last": latest}

    def history_after(self, after: float) -> dict[str, Any]:
        """Return the samples that ended later than `after` (seconds since the epoch), with those of each replica."""
        with self._lock:
            samples = [sample for sample in self._samples if sample.at > after]
            names = list(self._pids) if self._cluster else []
        return columns(samples, names)

    @property
    def notice_s(self) -> float:
        """Seconds until every open page has asked since the stop began; 0 where none is open."""
        now = self._clock()
        if self._stopping_since is None or now - self._asked_at > POLL_INTERVAL:
            return 0.0
        return max(0.0, self._stopping_since + POLL_INTERVAL - now)

    @property
    def stale(self) -> bool:
        """Whether the supervisor has been silent for a while: it is stopped, hung or gone."""
        return self._clock() - self._received_at > STALE_AFTER

    @property
    def ready(self) -> bool:
        """Whether every wanted replica is ready."""
        with self._lock:
            return self._cluster is not None and bool(self._cluster.get("ready"))

    def _state(self, cluster: dict[str, Any]) -> dict[str, Any]:
        silent = round(self._clock() - self._received_at, 1)
        return {
            **self._with_usage(cluster),
            "silent_s": silent,
            "stopping": self._stopping_since is not None,
            "load": self.load_state(),
            "events": list(self._events)[-SHOWN_EVENTS:],
            "history": columns(self._samples),
        }

    def _masked(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return the state for readers who may not change the cluster."""
        return {**masking.cluster({**state, "events": []}), "events": list(map(_masked, state["events"]))}

    def _with_usage(self, cluster: dict[str, Any]) -> dict[str, Any]:
        supervisor = {**cluster["supervisor"], "memory_bytes": self._usage.get(SUPERVISOR, Usage()).memory_bytes}
        if self.stale:
            supervisor["problem"] = problem(supervisor["pid"])
        replicas = [{**row, **asdict(self._usage.get(row["name"], Usage()))} for row in cluster["replicas"]]
        return {**cluster, "supervisor": supervisor, "replicas": replicas}

    def _all_pids(self) -> dict[str, int | None]:
        """Return the PIDs of the replicas and of the supervisor."""
        with self._lock:
            return self._pids | ({SUPERVISOR: self._cluster["supervisor"]["pid"]} if self._cluster is not None else {})

    def _refresh_usage(self) -> None:
        """Read the usage again if the last reading is old; while another thread reads, keep the last one."""
        now = self._clock()
        if now - self._usage_read_at < USAGE_INTERVAL or not self._reading_usage.acquire(blocking=False):
            return
        try:
            if self._usage_read_at == float("-inf"):
                self._read_usage(self._all_pids())
                time.sleep(FIRST_USAGE_PERIOD)
            usage = self._read_usage(self._all_pids())
            with self._lock:
                self._usage = usage
                self._rendered.clear()
            self._usage_read_at = self._clock()
        finally:
            self._reading_usage.release()


def _with_text(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record with the sentence that the command line shows for it."""
    return {**record, "text": line(record)}


def _masked(record: dict[str, Any]) -> dict[str, Any]:
    """Return the masked record with a sentence derived from it, for any reader."""
    return _with_text(masking.masked({name: value for name, value in record.items() if name != "text"}))
