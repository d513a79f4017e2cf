"""What must not import what: the design's section of that name, read off the syntax trees.

An import counts wherever it stands in a file, inside functions too; only what is imported for the type checker alone, or used in
annotations alone, does not (naming a thing's type is not using it).
"""

from __future__ import annotations

import ast
import configparser
import functools
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

from comet.wheels import WORKER_PACKAGES

PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = ("comet", "lb", "worker_app")
EFFECTS = {"asyncio", "socket", "os", "time", "threading", "multiprocessing", "subprocess", "logging", "select", "signal"}

PURE_PARTS = {
    "comet": {
        "backoff",
        "checks",
        "config",
        "errors",
        "events",
        "exits",
        "faults",
        "located",
        "location",
        "observation",
        "plan",
        "rates",
        "reactions",
        "recoveries",
        "replica",
        "servicespec",
        "snapshot",
        "tasks",
        "timeline",
        "wallclock",
        "admin.forms",
        "admin.guard",
        "admin.rows",
    },
    "lb": {"chunked", "fields", "messages", "replies", "request", "response", "settings", "template", "upstream"},
    "worker_app": {"distributions", "draws", "errors", "latency", "stats", "tally"},
}
PURE = sorted(f"{package}.{part}" for package, parts in PURE_PARTS.items() for part in parts)
PURE_EXCEPTIONS = {"comet.located": {"yaml"}, "comet.exits": {"signal"}}

FORBIDDEN = {
    "lb": {"comet", "worker_app", "docker", "psutil", "sqlite3", "sqlalchemy", "yaml", "flask", "waitress", "requests", "rich"},
    "worker_app": {"comet", "lb", "docker", "psutil", "yaml", "requests", "rich"},
    "comet": {"worker_app", "sqlalchemy", "sqlite3", "uvloop"},
}

# What may be used where, and nowhere else in the control plane.
ONLY_IN = {
    "docker": {
        "comet.engine": "finds the engine",
        "comet.ssh": "reaches it by ssh",
        "comet.image": "builds the image",
        "comet.base_image": "builds the image",
        "comet.drivers.container": "drives containers",
        "comet.drivers.swarm": "drives services",
        "comet.drivers.manager": "speaks to a swarm's manager",
        "comet.drivers.relay": "runs the relay, and the trial of the way to a database",
        "comet.orphans": "finds what a dead supervisor left",
        "comet.logs": "reads containers' logs",
    },
    "psutil": {
        "comet.drivers.process": "drives processes",
        "comet.compare.meter": "reads what it compares",
        "comet.usage": "the listing's CPU and memory",
        "comet.listeners": "names the owner of a taken port",
        "comet.orphans": "finds what a dead supervisor left",
        "comet.commands": "waits for a supervisor to end",
    },
    "flask": {"comet.admin.app": "serves the page and the API"},
    "waitress": {"comet.admin.__main__": "serves the page and the API"},
    "prometheus_client": {"comet.admin.metrics": "renders the metrics"},
    "argparse": {"comet.cli": "the command line"},
    "yaml": {"comet.located": "reads YAML files"},
    "multiprocessing": {"comet.drivers.forkserver": "names the start method, once"},
    "rich": {
        "comet.listing": "shows",
        "comet.tables": "shows",
        "comet.progress": "shows",
        "comet.board.view": "shows",
        "comet.board.screen": "owns the terminal",
        "comet.compare.terminal": "shows",
    },
}

RENDERERS = (
    "comet.tables",
    "comet.display",
    "comet.progress",
    "comet.board.view",
    "comet.admin.app",
    "comet.admin.picture",
    "comet.admin.metrics",
    "comet.admin.__main__",
)


def modules(package: str) -> dict[str, Path]:
    """Every module of a package by its dotted name."""
    found = {}
    for path in sorted((PROJECT / package).rglob("*.py")):
        parts = path.relative_to(PROJECT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


ALL = {name: path for package in PACKAGES for name, path in modules(package).items()}


def annotations(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.AnnAssign(annotation=annotation):
            yield annotation
        case ast.arg(annotation=annotation) if annotation:
            yield annotation
        case ast.FunctionDef(returns=returns) | ast.AsyncFunctionDef(returns=returns) if returns:
            yield returns


def used_names(tree: ast.AST) -> set[str]:
    """Every plain name outside annotations."""
    within = {id(part) for node in ast.walk(tree) for annotation in annotations(node) for part in ast.walk(annotation)}
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in within}


def for_the_type_checker(tree: ast.AST) -> set[int]:
    """The nodes below `if TYPE_CHECKING:`."""
    blocks = (node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    return {id(part) for block in blocks for statement in block.body for part in ast.walk(statement)}


@functools.cache
def imports(path: Path, name: str) -> dict[str, set[str]]:
    """What a module imports (dotted) -> the names that this gives it."""
    tree = ast.parse(path.read_text())
    left_out = for_the_type_checker(tree)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.setdefault(alias.name, set()).add(alias.asname or alias.name.partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                found.setdefault(source, set()).add(alias.asname or alias.name)
                found.setdefault(f"{source}.{alias.name}", set()).add(alias.asname or alias.name)
    used = used_names(tree)
    return {imported: names for imported, names in found.items() if names & used or imported == "__future__" or path.name == "__init__.py"}


def top_levels(name: str) -> set[str]:
    return {imported.partition(".")[0] for imported in imports(ALL[name], name)} - {"__future__"}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_knows_nothing_of_what_it_must_not_know(package: str) -> None:
    wrong = {name: sorted(bad) for name in ALL if name.split(".")[0] == package and (bad := top_levels(name) & FORBIDDEN[package])}
    assert wrong == {}


def test_the_control_plane_knows_of_the_lb_its_entry_settings_messages_and_counters() -> None:
    allowed = ("lb.settings", "lb.messages", "lb.counters", "lb.server", "lb.forked", "lb.preload", "lb.standby")
    wrong = {
        name: sorted(bad)
        for name in modules("comet")
        if (bad := {part for part in imports(ALL[name], name) if part.startswith("lb.") and not part.startswith(allowed)})
    }
    assert wrong == {}


@pytest.mark.parametrize("name", PURE)
def test_a_pure_module_has_no_effects_and_no_third_party(name: str) -> None:
    bad = {top for top in top_levels(name) if top in EFFECTS or (top not in sys.stdlib_module_names and top not in PACKAGES)}
    assert bad - PURE_EXCEPTIONS.get(name, set()) == set()


@pytest.mark.parametrize("name", [name for name in PURE if name != "comet.config"])
def test_a_pure_module_imports_only_pure_ones_of_ours(name: str) -> None:
    ours = {part for part in imports(ALL[name], name) if part in ALL and "." in part}
    assert ours - set(PURE) == set()


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_a_library_is_used_in_its_places_only(library: str) -> None:
    users = {name for name in modules("comet") if library in top_levels(name)}
    assert users - set(ONLY_IN[library]) == set()


def test_what_shows_a_cluster_sees_a_snapshot_and_never_the_supervisor() -> None:
    for name in RENDERERS:
        if name in ALL:
            assert {part for part in imports(ALL[name], name) if part.startswith(("comet.supervise", "comet.plan", "comet.fleet"))} == set()


@pytest.mark.parametrize("name", ["comet.plan", "comet.reactions", "comet.replica", "comet.supervise"])
def test_the_core_never_asks_which_kind_a_replica_is(name: str) -> None:
    """Differences live in drivers and specs: no condition here looks at a kind, a role, or the name of one."""
    asked = []
    for node in ast.walk(ast.parse(ALL[name].read_text())):
        match node:
            case ast.Compare() | ast.BoolOp():
                condition: ast.AST = node
            case ast.If(test=condition) | ast.IfExp(test=condition) | ast.Match(subject=condition) | ast.While(test=condition):
                pass
            case ast.comprehension(ifs=[condition, *_]):
                pass
            case _:
                continue
        for part in ast.walk(condition):
            by_attribute = isinstance(part, ast.Attribute) and part.attr in {"kind", "role"}
            by_name = isinstance(part, ast.Constant) and part.value in {"lb", "worker", "process", "container", "swarm"}
            if by_attribute or by_name:
                asked.append(f"line {node.lineno if hasattr(node, 'lineno') else '?'}: {ast.unparse(condition)}")
    assert asked == []


@pytest.mark.parametrize("path", ["supervisor.py", "comet/bootstrap.py", "comet/__init__.py"])
def test_what_every_load_balancer_imports_again_imports_nothing(path: str) -> None:
    """The forkserver imports the main script in each child: an import here is paid at every restart of a load balancer."""
    tree = ast.parse((PROJECT / path).read_text())
    assert [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)] == []


def test_the_worker_needs_only_what_its_image_gets() -> None:
    """The image installs these packages and what they require; an import of anything else would fail in the container."""
    installed, waiting = set[str](), {name.lower() for name in WORKER_PACKAGES}
    while waiting:
        name = waiting.pop()
        installed.add(name)
        # What is for other Pythons, other systems or extras only has a condition.
        lines = [line for line in requires(name) or [] if ";" not in line]
        waiting |= {re.split(r"[^\w.-]", line)[0].lower() for line in lines} - installed
    third_party = {top for name in modules("worker_app") for top in top_levels(name)} - set(sys.stdlib_module_names) - set(PACKAGES)
    assert {packages_distributions()[top][0].lower() for top in third_party} <= installed


def test_nothing_hides_the_docker_sdk_or_supervisor_py() -> None:
    assert not list((PROJECT / "docker").rglob("__init__.py"))
    assert not (PROJECT / "supervisor").exists()
    assert not (PROJECT / "docker.py").exists()


def test_setup_cfg_lists_every_package_by_name() -> None:
    parser = configparser.ConfigParser()
    parser.read(PROJECT / "setup.cfg")
    listed = set(parser["options"]["packages"].split())
    assert listed == {name for name, path in ALL.items() if path.name == "__init__.py"}
