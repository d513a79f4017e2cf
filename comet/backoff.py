"""When to start again something that died: one policy for processes and containers.

The first restart is at once, for most crashes are one-off. From the second on the delay doubles from `first` to `maximum`, so that a
replica in a crash loop costs little, and is spread by `jitter`, so that replicas that died together do not come back together.
Crashes are forgotten once a replica was ready for `stable` seconds: systemd's and supervisord's backoffs are not, and punish a crash
today for one of last week.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class RestartPolicy:
    """Times in seconds; `jitter` is the share by which a delay is spread to either side."""

    first: float = 0.1
    maximum: float = 30.0
    stable: float = 10.0
    jitter: float = 0.2

    def delay(self, attempt: int, spread: float) -> float:
        """Seconds to wait before restart number `attempt` (from 1) since the last stable time; `spread` lies in [-1, 1]."""
        if attempt <= 1:
            return 0.0
        # Past 2^40 the power would only cost time: every sensible maximum is reached long before.
        plain = min(self.maximum, self.first * 2.0 ** min(attempt - 2, 40))
        return plain * (1 + self.jitter * spread)
