"""Chooses at random what happens next in a chaos run, and to which replica. Pure, but for the generator it is given."""

import random
from collections.abc import Collection, Mapping
from typing import Any

PAUSE = (0.2, 1.8)
"""Shortest and longest pause between two actions, in seconds."""

ROLES = {"worker": ("worker",), "lb": ("lb",), "fault": ("worker",)}
"""The roles of the victims of each kind; those of other kinds are of any role."""


class Chooser:
    """Makes the choices of one run; `weights` say how often each kind comes, relative to the others."""

    def __init__(self, choice: random.Random, weights: Mapping[str, int]) -> None:
        self._choice = choice
        self._weights = weights

    def pause(self) -> float:
        return self._choice.uniform(*PAUSE)

    def kind(self) -> str:
        return self._choice.choices(list(self._weights), list(self._weights.values()))[0]

    def victim(self, kind: str, rows: Collection[Mapping[str, Any]]) -> Mapping[str, Any] | None:
        """Return a ready replica for this kind of action; None where too little would be left to serve.

        A worker is taken only if another one is ready. A load balancer always is: its socket outlives it.
        """
        ready = [row for row in rows if row["state"] == "ready" and row["pid"]]
        workers = sum(row["role"] == "worker" for row in ready)
        roles = ROLES.get(kind, ("worker", "lb"))
        victims = [row for row in ready if row["role"] in roles and (row["role"] == "lb" or workers > 1)]
        return self._choice.choice(victims) if victims else None
