"""Decides which questions still fit into the time that a comparison may take. Pure.

On a busy machine everything takes longer than expected. Growth and isolation are left out first: they take the most
time and change the least from round to round. Life and cost are asked in as many rounds as there is time for. The first
round asks everything.
"""

from dataclasses import dataclass

MIN_LIMIT, ROUND_TIME = 480.0, 150.0
"""Seconds that a comparison may take: 8 minutes for 3 rounds, 15 for 6."""

CLEANUP_TIME = 30.0
"""Seconds that cleaning up may take; it takes 10 on two shared cores."""


@dataclass
class Budget:
    """The time budget of a comparison of `rounds` rounds.

    `core` (life and cost) and `rest` (growth and isolation) are the longest times, in seconds, that they took so far.
    """

    rounds: int
    core: float = 0.0
    rest: float = 0.0

    @property
    def limit(self) -> float:
        """Seconds for the whole comparison."""
        return max(MIN_LIMIT, ROUND_TIME * self.rounds)

    def core_fits(self, number: int, spent: float) -> bool:
        """Whether round `number` (from 0) may begin after `spent` seconds."""
        return number == 0 or spent + self.core + CLEANUP_TIME <= self.limit

    def rest_fits(self, number: int, spent: float) -> bool:
        """Whether round `number` may continue with growth and isolation.

        It may if life and cost still have time for all their other rounds.
        """
        return number == 0 or spent + self.rest + (self.rounds - number - 1) * self.core + CLEANUP_TIME <= self.limit
