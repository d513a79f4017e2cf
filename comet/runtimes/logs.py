"""Reads what replicas print, byte for byte, whatever runtime keeps it.

Between the lives of a replica the output says how each life ended (`comet.events.exit_markers`).
"""

import codecs
import json
from collections import deque
from collections.abc import Iterable, Iterator

from comet.common.errors import UserError
from comet.engine.errors import engine_errors
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
