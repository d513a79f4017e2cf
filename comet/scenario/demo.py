"""The demonstration that the page offers: a minute that shows what Comet does, made for the cluster as it is. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from comet.scenario.file import Scenario, Step

CLIENTS = 12
PAUSE = 0.3
"""Clients, and the seconds that each pauses between an answer and its next request."""

TIMEOUT = 10.0
FAULT = {"failure": 100.0}


def scenario(replicas: Iterable[Mapping[str, Any]], faults: bool) -> Scenario:
    """Return the scenario for these replicas (rows of `ps --json`): two deaths and a fault, each with time to recover.

    Without `faults`, where the workers cannot have any, it has the deaths alone.
    """
    rows = list(replicas)
    balancers = [row["name"] for row in rows if row["role"] == "lb"]
    workers = [row["name"] for row in rows if row["role"] == "worker"]
    victim, failing = workers[:1], workers[-1:]
    steps = [
        Step("requests arrive", 6.0, CLIENTS, PAUSE),
        Step(f"{balancers[0]} is killed", 10.0, CLIENTS, PAUSE, kill=(balancers[0],)),
        *(Step(f"{name} is killed", 16.0, CLIENTS, PAUSE, kill=(name,)) for name in victim),
        *(Step(f"{name} answers 500", 14.0, CLIENTS, PAUSE, faults={name: FAULT}) for name in failing if faults),
        Step("back to normal", 10.0, CLIENTS, PAUSE),
    ]
    return Scenario("demo", "", TIMEOUT, "", tuple(steps))
