"""The rooms above the runtimes never ask which runtime, kind or driver is at hand: they ask the runtime itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from comet.config.runtimes import RUNTIMES
from comet.runtimes import registry
from comet.runtimes.finder import Finder
from comet.runtimes.interface import Runtime
from tests.support.syntax import nodes
from tests.unit.test_layers import modules

pytestmark = pytest.mark.slow

ASKED = {"runtime", "kind", "driver", "driver_name"}
NAMES = {*RUNTIMES, "container", "task", "service", "worker-process"}
EXEMPT = {
    "comet.runtimes": "it is what is asked",
    "comet.balancers": "it is the runtime of the load balancers",
    "comet.engine": "its kinds are those of engines",
    "comet.compare": "it compares a container with a process on purpose",
    "comet.inspection": "it shows what the engine says of a container beside what the kernel says of a process",
    "comet.events": "it is below the runtimes, and writes markers into the logs of processes",
}
IMPORTS = {
    ("comet.supervisor.watchdogs", "comet.runtimes.process.exec_launcher"): "it trims logs",
    ("comet.admin.process", "comet.runtimes.process.helper"): "the admin server is a helper",
    ("comet.tracing.process", "comet.runtimes.process.helper"): "the span exporter is a helper",
    ("comet.cli.launch", "comet.runtimes.process.driver"): "a supervisor is a subreaper, whatever it runs",
    ("comet.cli.cleanup", "comet.runtimes.docker.network"): "it removes what earlier clusters of any kind left",
}
"""What may be imported of a runtime's folder above it, and why."""

CORE = {
    name: path for name, path in modules("comet").items() if not name.startswith(tuple(f"{room}." for room in EXEMPT))
}


def conditions(path: Path) -> Iterator[ast.AST]:
    for node in nodes(path):
        match node:
            case ast.Compare() | ast.Call(func=ast.Name(id="isinstance")):
                yield node
            case ast.Match(subject=subject):
                yield subject
            # The table of runtimes is looked up by a driver's name, and that of what is declared by a runtime's.
            case ast.Subscript(slice=ast.Attribute(attr="kind") as index):
                yield index


def questions(path: Path) -> Iterator[str]:
    """What a module asks that only a runtime may know."""
    for node in conditions(path):
        for part in ast.walk(node):
            by_attribute = isinstance(part, ast.Attribute) and part.attr in ASKED
            by_name = isinstance(part, ast.Constant) and part.value in NAMES
            by_class = isinstance(part, ast.Name) and part.id.endswith(("Launch", "Runtime"))
            if by_attribute or by_name or by_class:
                yield f"line {getattr(node, 'lineno', '?')}: {ast.unparse(node)}"


@pytest.mark.parametrize("name", sorted(CORE))
def test_nobody_asks_which_runtime_it_is(name: str) -> None:
    assert list(questions(CORE[name])) == []


def test_only_the_registry_imports_the_folders_of_runtimes() -> None:
    folders = tuple(f"comet.runtimes.{name}" for name in RUNTIMES)
    found = set()
    for name, path in CORE.items():
        for node in nodes(path):
            if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith(folders):
                found.add((name, node.module))
    assert found == set(IMPORTS)


@pytest.mark.parametrize("name", sorted(RUNTIMES))
def test_a_declared_runtime_has_its_folder(name: str) -> None:
    assert issubclass(registry.runtime(name), Runtime)


def test_every_driver_has_a_finder() -> None:
    finders = registry.finders()
    assert all(isinstance(finder, Finder) and finder.driver == driver for driver, finder in finders.items())
    assert next(iter(finders)) == "lb"  # Load balancers end first.
    assert set(finders) == {"lb", "worker-process", "container", "swarm", "external"}
