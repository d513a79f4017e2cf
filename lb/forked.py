"""Entry of a load balancer that a forkserver forked for the supervisor."""

import os
from multiprocessing import forkserver, resource_tracker
from typing import Any


def main(*arguments: Any) -> None:
    """`lb.server.run` with the same arguments, free of the supervisor's life."""
    from lb.server import run

    let_go()
    run(*arguments)


def let_go() -> None:
    """Close what ties the helpers to us.

    A forked child holds the pipe whose end tells the forkserver that its starter is gone, and one into the resource tracker. Held on,
    both helpers would live as long as the last load balancer, though their supervisor died.
    """
    for fd in (getattr(forkserver._forkserver, "_forkserver_alive_fd", None), getattr(resource_tracker._resource_tracker, "_fd", None)):
        if fd is not None:
            os.close(fd)
