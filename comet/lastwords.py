"""Why a replica does not become ready, as the user reads it: the reason, and what it printed last, which is gone once it is removed."""

from comet.cluster import Cluster
from comet.events import exit_text
from comet.logs import tail
from comet.replica import Replica, public_name

LINES = 12


def of(cluster: Cluster, replica: Replica) -> str:
    """Asks the engine where the replica is a container: not for the loop's thread."""
    ended = f"it ended {replica.failures} times in a row"
    if replica.last_exit is not None:
        ended += f" ({exit_text(replica.last_exit.code, replica.last_exit.signal, replica.last_exit.oom)})"
    log = tail(cluster, public_name(replica.name), replica.spec.kind, LINES)
    quoted = "".join(f"\n  | {line}" for line in log)
    return f"{replica.reason or ended}" + (f"; its last log lines:{quoted}" if log else "")
