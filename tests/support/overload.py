"""What a worker may answer on a machine that is too busy, so that clients of tests do not take it for a fault."""

import os

from tests.support.waiting import PATIENCE
from worker_app.stats.commit_queue import COMMIT_TIMEOUT

BUSY = float(PATIENCE)
"""Processes per processor that run or wait to run, from which on a machine is that busy."""


def is_overload(status: int, body: str, waited: float) -> bool:
    """Whether a worker says, after `waited` seconds, that it could not count the request in time: it waits so long for
    its turn at the database. While the one whose turn it is gets no processor, that is what it promises to do.
    """
    return (
        status == 503
        and "statistics unavailable" in body
        and waited >= COMMIT_TIMEOUT
        and os.getloadavg()[0] > BUSY * (os.cpu_count() or 1)
    )
