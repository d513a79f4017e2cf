"""Recorded trees of /proc and of control groups, as files of one text.

`=== PATH` begins a file, in which `\\0` stands for the byte 0. `--> PATH TARGET` is a symbolic link.
"""

import functools
import os
import re
from pathlib import Path

RECORDED = Path(__file__).with_name("recorded")
WORKER, INIT, BALANCER = 1740, 1720, 1484
"""The PIDs of the recorded processes: a worker in a container, the container's first process, a load balancer."""

CONTAINER = "957d4a03206e3d7586bf3eedeb14ac2ccd0c7f04231f08b8e0ecd4743a1c1687"


def unpacked(folder: Path, *names: str) -> Path:
    """Write the recorded trees of these names into a folder, and return it."""
    for name in names:
        unpack(folder, _recorded(name))
    return folder


@functools.cache
def _recorded(name: str) -> str:
    return (RECORDED / f"{name}.txt").read_text()


def unpack(folder: Path, content: str) -> None:
    made = set()
    for path, target, body in _parts(content):
        file = f"{folder}/{path}"
        parent = os.path.dirname(file)
        if parent not in made:
            os.makedirs(parent, exist_ok=True)
            made.add(parent)
        if target:
            os.symlink(target, file)
        else:
            with open(file, "wb") as written:
                written.write(body)


@functools.cache
def _parts(content: str) -> list[tuple[str, str, bytes]]:
    """The path of each file or link, the target of a link, and what a file holds."""
    found = []
    for part in re.split(r"^(?==== |--> )", content, flags=re.MULTILINE):
        head, _, body = part.partition("\n")
        kind, _, about = head.partition(" ")
        path, _, target = about.partition(" ")
        if kind in ("-->", "==="):
            zeros = "\\0" in body
            text = body.rstrip("\n").replace("\\0", "\0") if zeros else body
            found.append((path, target, text.encode()))
    return found
