"""Reads what replicas print, byte for byte, whatever runtime keeps it.

Between the lives of a replica the output says how each life ended (`comet.events.exit_markers`).
"""

import codecs
import json
import re
from collections import deque
from collections.abc import Collection, Iterable, Iterator

from comet.common.errors import UserError
from comet.common.values import brief
from comet.common.wording import there_are
from comet.engine.errors import engine_errors
from comet.host import files
from comet.runtimes import registry
from comet.state.directory import Cluster

RECENT = 64 << 10
"""Bytes of a log's end that a supervisor reads.

This bounds the memory, however long the lines are.
"""

RECENT_LINES = 100


def pieces(cluster: Cluster, name: str, kind: str, count: int, follow: bool) -> Iterator[bytes]:
    """Yield the last `count` lines, then new output if `follow` is set.

    UserError where nothing is kept for this name.
    """
    return registry.finder_of_kind(kind).log(cluster, name, count, follow)


def kept(cluster: Cluster) -> list[str]:
    """Return the replicas that have left a log, those of one role in the order of their numbers."""
    found = (re.fullmatch(r"((lb|worker)-([0-9]{1,3}))\.log", path.name) for path in cluster.path("logs").glob("*.log"))
    return [match[1] for match in sorted(filter(None, found), key=lambda match: (match[2], int(match[3])))]


def require_known(cluster: Cluster, name: str, running: Collection[str]) -> None:
    """Raise UserError where there is neither a replica with this name nor a log of an earlier one."""
    has_log = re.fullmatch(r"[\w.\-]{1,100}", name) and files.is_regular(cluster.path("logs", f"{name}.log"))
    if name not in running and not has_log:
        raise UserError(
            f"{brief(name)}: no such replica, and no log of one ({there_are(name, running or kept(cluster))})", 2
        )


def recent(cluster: Cluster, name: str, kind: str) -> bytes:
    """Return the end of what a replica printed; empty where there is nothing or it cannot be read."""
    kept, size = deque[bytes](), 0
    try:
        for piece in pieces(cluster, name, kind, RECENT_LINES, follow=False):
            kept.append(piece[-RECENT:])
            size += len(kept[-1])
            while size - len(kept[0]) >= RECENT:
                size -= len(kept.popleft())
    except UserError:
        pass
    except engine_errors():
        pass
    return b"".join(kept)[-RECENT:]


def as_json(name: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield each line as a JSON object, piece by piece: a line is never held whole, whatever its length."""
    begin = json.dumps({"replica": name, "line": ""})[:-2].encode()
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    is_open, returns = False, ""
    for piece in pieces:
        for index, part in enumerate(piece.split(b"\n")):
            if index:
                text, returns = decoder.decode(b"", final=True), ""
                yield (b"" if is_open else begin) + _escaped(text) + b'"}\n'
                decoder.reset()
                is_open = False
            if part:
                text = returns + decoder.decode(part)
                returns = text[len(text.rstrip("\r")) :]  # Carriage returns before a line's end belong to that end.
                yield (b"" if is_open else begin) + _escaped(text.rstrip("\r"))
                is_open = True
    if is_open:
        yield _escaped(decoder.decode(b"", final=True)) + b'"}\n'


def _escaped(text: str) -> bytes:
    return json.dumps(text)[1:-1].encode()
