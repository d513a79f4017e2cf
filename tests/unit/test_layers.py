"""The layers of ARCHITECTURE.md: a room imports lower layers only, and rooms of one layer do not import each other.

A room is a folder; each subfolder is a room too. Every import counts, also in functions and for the type checker:
a reader follows all of them.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.syntax import nodes
from tests.test_architecture import LAYERS

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("comet", "lb", "worker_app")

CIRCLES = {
    frozenset(
        {
            "lb.proxy.client_connection",
            "lb.proxy.connection_end",
            "lb.proxy.dispatcher",
            "lb.proxy.retries",
            "lb.proxy.tunnel",
            "lb.proxy.upstream_connection",
        }
    ): "the ends of an exchange call each other back; each imports the others for their types",
    frozenset(
        {"worker_app.http.connection", "worker_app.http.exchange", "worker_app.http.server"}
    ): "a connection hands its requests to the server that made it; the server is imported for its type",
}
"""Modules that import each other, and why they may."""

MOST_MODULES = 13
MOST_AT_THE_TOP = 8


def modules(package: str) -> dict[str, Path]:
    """Every module of a package by its dotted name."""
    found = {}
    for path in sorted((PROJECT / package).rglob("*.py")):
        parts = path.relative_to(PROJECT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of `known` that a file imports anywhere."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name for name in names if name in known)
            if node.module in known and any(name not in known for name in names):
                yield node.module


def room_of(name: str, path: Path) -> str:
    return name if path.name == "__init__.py" else name.rpartition(".")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_room_has_its_layer(package: str) -> None:
    rooms = {room_of(name, path) for name, path in modules(package).items()}
    assert rooms == {room for room in LAYERS if room.partition(".")[0] == package}, (
        "the table of ARCHITECTURE.md differs"
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_a_room_imports_lower_layers_only(package: str) -> None:
    known = modules(package)
    wrong = []
    for name, path in known.items():
        here = room_of(name, path)
        for other in set(imported(path, known)):
            there = room_of(other, known[other])
            if known[other].name == "__init__.py" or there == here or LAYERS[there] < LAYERS[here]:
                continue
            wrong.append(
                f"{name} (layer {LAYERS[here]}) imports {other} (layer {LAYERS[there]}): move what it needs below"
            )
    assert wrong == []


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_that_import_each_other_are_declared(package: str) -> None:
    known = modules(package)
    after = {name: set(imported(path, known)) for name, path in known.items()}
    reached = {name: _reached(name, after) for name in known}
    circles = {
        frozenset(other for other in reached[name] if name in reached[other]) for name in known if name in reached[name]
    }
    assert circles == {circle for circle in CIRCLES if next(iter(circle)).partition(".")[0] == package}


def _reached(name: str, after: dict[str, set[str]]) -> set[str]:
    found, waiting = set[str](), list(after[name])
    while waiting:
        each = waiting.pop()
        if each not in found:
            found.add(each)
            waiting += after[each]
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_a_room_stays_small(package: str) -> None:
    sizes = Counter(room_of(name, path) for name, path in modules(package).items() if path.name != "__init__.py")
    assert {room: size for room, size in sizes.items() if size > MOST_MODULES} == {}
    assert sizes[package] <= MOST_AT_THE_TOP
