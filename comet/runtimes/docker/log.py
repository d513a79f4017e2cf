"""Reads a container's log from its engine, byte for byte, and goes on in the container's next lives.

The engine ends a log with its container, so each life has to be opened again.
"""

import contextlib
import time
from collections.abc import Iterator
from functools import partial

from comet.common.errors import UserError
from comet.engine import log_stream
from comet.engine.log_stream import Assembler, Joiner, LogPosition, LogTail
from comet.events.exit_markers import ExitMarkers
from comet.runtimes.marked_output import RESTART_POLL_PAUSE, MarkedOutput, last_lines, new_output
from comet.state.directory import Cluster
from comet.state.lock import Lock


def pieces(cluster: Cluster, name: str, count: int, follow: bool) -> Iterator[bytes]:
    """Yield the last `count` lines, then new output while a supervisor runs if `follow` is set."""
    try:
        yield from _container_log(cluster, name, count, follow)
    except UserError as error:
        raise UserError(f"{name}: its container's log cannot be read: {error.message}") from None


def _container_log(cluster: Cluster, name: str, count: int, follow: bool) -> Iterator[bytes]:
    out, traits = MarkedOutput(ExitMarkers(cluster, name)), log_stream.traits()
    coarse = traits.log_is_as_written
    tail = LogTail(LogPosition(coarse))
    found = former = log_stream.container_of(cluster.id or "", name)
    assembler = log_stream.assembler(traits, found[1] if found is not None else "")
    if found is not None:
        with contextlib.suppress(log_stream.ContainerGone):
            tail = log_stream.last_lines(partial(log_stream.messages, found[0], False), count, coarse)
    yield from last_lines(tail, count, follow, assembler, out)
    position = tail.position
    while follow:
        if found is not None:
            if former is None or found[0] != former[0]:
                position, assembler, former = LogPosition(coarse), log_stream.assembler(traits, found[1]), found
            with contextlib.suppress(log_stream.ContainerGone):  # The container is being replaced.
                yield from _until_ended(found[0], position, assembler, out)
        yield from out.plain(assembler.end())
        yield from out.ends()
        if Lock(cluster).holder() is None:
            return
        time.sleep(RESTART_POLL_PAUSE)
        found = log_stream.container_of(cluster.id or "", name)


def _until_ended(
    container: str, position: LogPosition, assembler: Assembler | Joiner, out: MarkedOutput
) -> Iterator[bytes]:
    """Yield what a container prints from a position on, until it ends.

    A Docker engine may lose its followers when it rotates a log: they get nothing more, also when the container ends.
    A silent log is therefore read again, and so is the log of a container that has ended.
    """
    follow = True
    while follow:
        try:
            yield from new_output(log_stream.messages(container, True, since=position.since), position, assembler, out)
            follow = False
        except log_stream.Silent:
            continue
    yield from new_output(log_stream.messages(container, False, since=position.since), position, assembler, out)
