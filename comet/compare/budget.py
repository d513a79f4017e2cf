"""Which questions still fit into the time that a comparison may take. Pure.

On a busy machine everything takes longer than foreseen. What is left out then is growth and isolation, which take the most time and change
the least from round to round; life and cost are asked in as many rounds as there is time for. The first round asks everything.
"""

from dataclasses import dataclass

SHORTEST, EACH_ROUND = 480.0, 150.0
"""Seconds that a comparison may take: 3 rounds 8 minutes, 6 of them 15."""

AFTERWARDS = 30.0
"""Seconds that cleaning up may take; 10 on two cores that others share."""


@dataclass
class Budget:
    """Of so many rounds; `core` and `rest` are the longest, in seconds, that life and cost, and growth and isolation, took so far."""

    rounds: int
    core: float = 0.0
    rest: float = 0.0

    @property
    def limit(self) -> float:
        """Seconds for all of it."""
        return max(SHORTEST, EACH_ROUND * self.rounds)

    def core_fits(self, number: int, spent: float) -> bool:
        """Whether round `number` (from 0) may begin after so many seconds."""
        return number == 0 or spent + self.core + AFTERWARDS <= self.limit

    def rest_fits(self, number: int, spent: float) -> bool:
        """Whether it may go on with growth and isolation, so that life and cost still have their other rounds."""
        return number == 0 or spent + self.rest + (self.rounds - number - 1) * self.core + AFTERWARDS <= self.limit
