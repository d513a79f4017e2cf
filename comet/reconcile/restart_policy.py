"""The restart policy: how long to wait before a dead replica is started again, for processes and containers alike.

The first restart is immediate, since most crashes are one-off. From the second on the delay doubles from `first` to
`maximum`, so that a crash loop costs little, and `jitter` spreads it, so that replicas that died together do not return
together. A replica that was ready for `stable` seconds has its crashes forgotten. (systemd and supervisord never
forget, and punish a crash today for one of last week.)
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class RestartPolicy:
    """Times are in seconds; `jitter` is the share by which a delay varies to either side."""

    first: float = 0.1
    maximum: float = 30.0
    stable: float = 10.0
    jitter: float = 0.2

    def delay(self, attempt: int, spread: float) -> float:
        """Return the seconds to wait before restart `attempt`.

        `attempt` counts from 1 since the last stable time; `spread` lies in [-1, 1].
        """
        if attempt <= 1:
            return 0.0
        # Beyond 2^40 the power only costs time: every sensible maximum is reached long before.
        delay = min(self.maximum, self.first * 2.0 ** min(attempt - 2, 40))
        return delay * (1 + self.jitter * spread)
