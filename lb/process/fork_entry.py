"""Runs a load balancer that a forkserver has forked for the supervisor."""

import os
from multiprocessing import forkserver, resource_tracker
from typing import Any


def main(*arguments: Any) -> None:
    """Call `lb.process.server.run` with the same arguments, independently of the supervisor's life."""
    from lb.process.server import run

    close_inherited_fds()
    run(*arguments)


def close_inherited_fds() -> None:
    """Close the pipes to the forkserver and the resource tracker.

    A forked child inherits the pipe whose end of file tells the forkserver that its parent is dead, and one to the
    resource tracker. If they stayed open, both helper processes would live as long as the last load balancer, even
    after their supervisor has died.
    """
    for fd in (
        getattr(forkserver._forkserver, "_forkserver_alive_fd", None),
        getattr(resource_tracker._resource_tracker, "_fd", None),
    ):
        if fd is not None:
            os.close(fd)
