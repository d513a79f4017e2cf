"""What must not import what: the design's section of that name, read off the syntax trees.

An import counts wherever it stands in a file, inside functions too; only what is imported for the type checker alone,
or used in annotations alone, does not (naming a thing's type is not using it).
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

from comet.images.wheels import WORKER_PACKAGES
from tests.support import pages
from tests.support.syntax import nodes

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = ("comet", "fault_rules", "lb", "worker_app")
EFFECTS = {
    "asyncio",
    "socket",
    "os",
    "time",
    "threading",
    "multiprocessing",
    "subprocess",
    "logging",
    "select",
    "signal",
}

PURE = [
    "comet.admin.schemas",
    "comet.commands.command",
    "comet.commands.field_checks",
    "comet.commands.forms",
    "comet.commands.result_text",
    "comet.commands.table",
    "comet.compare",
    "comet.scenario",
    "comet.admin.access.request_guard",
    "comet.admin.access.masking",
    "comet.admin.html_table",
    "comet.admin.access.sessions",
    "comet.reconcile.restart_policy",
    "comet.common.figures",
    "comet.common.values",
    "comet.common.wording",
    "comet.config.changes",
    "comet.config.schema",
    "comet.config.combinations",
    "comet.config.keys",
    "comet.config.ports",
    "comet.config.runtimes",
    "comet.config.upstreams",
    "comet.balancers.routing_table",
    "comet.runtimes.docker.container_states",
    "comet.common.errors",
    "comet.events.event",
    "comet.events.recovery_groups",
    "comet.engine.exit_status",
    "comet.config.fault_settings",
    "comet.faults.orders",
    "comet.common.yaml_lines",
    "comet.config.database_url",
    "comet.reconcile.observations",
    "comet.reconcile.planner",
    "comet.telemetry.columns",
    "comet.telemetry.rates",
    "comet.reconcile.transitions",
    "comet.events.restart_history",
    "comet.reconcile.replica",
    "comet.common.redaction",
    "comet.runtimes.swarm.service_spec",
    "comet.common.json_values",
    "comet.telemetry.snapshot",
    "comet.inspection.facts",
    "comet.inspection.proc_text",
    "comet.inspection.rows",
    "comet.inspection.text",
    "comet.inspection.tree",
    "comet.inspection.values",
    "comet.runtimes.swarm.tasks",
    "comet.reconcile.recovery_timeline",
    "comet.common.clock",
    "lb.balance.policies",
    "lb.balance.upstream",
    "lb.http.chunked",
    "lb.http.fields",
    "lb.interface.messages",
    "lb.http.error_responses",
    "lb.http.request",
    "lb.http.request_head",
    "lb.http.response",
    "lb.interface.settings",
    "lb.http.head_templates",
    "lb.proxy.upstream_pool",
    "fault_rules",
    "worker_app.faults.sampling",
    "worker_app.common.errors",
    "worker_app.stats.latency",
    "worker_app.stats.rows",
    "worker_app.stats.batch",
]
PURE_EXCEPTIONS = {"comet.common.yaml_lines": {"yaml"}, "comet.engine.exit_status": {"signal"}}

FORBIDDEN = {
    "fault_rules": {"comet", "lb", "worker_app"},
    "lb": {
        "comet",
        "worker_app",
        "docker",
        "psutil",
        "sqlite3",
        "sqlalchemy",
        "yaml",
        "flask",
        "waitress",
        "requests",
        "rich",
    },
    "worker_app": {"comet", "lb", "docker", "psutil", "yaml", "requests", "rich"},
    "comet": {"worker_app", "sqlalchemy", "uvloop"},
}

# What may be used where, and nowhere else in the control plane.
ONLY_IN = {
    "docker": {
        "comet.engine.connection": "finds the engine",
        "comet.engine.ssh": "reaches it by ssh",
        "comet.images.worker_image": "builds the image",
        "comet.images.base_image": "builds the image",
        "comet.runtimes.docker.driver": "drives containers",
        "comet.runtimes.docker.containers": "makes, starts and removes them",
        "comet.runtimes.docker.container_spec": "describes them to the engine",
        "comet.engine.errors": "says what goes wrong with it",
        "comet.engine.own_containers": "finds containers, and the labels of their images",
        "comet.runtimes.docker.network": "makes the containers' network",
        "comet.runtimes.docker.network_faults": "runs the helpers that inject faults into it",
        "comet.runtimes.swarm.driver": "drives services",
        "comet.runtimes.swarm.manager": "speaks to a swarm's manager",
        "comet.runtimes.docker.relay": "runs the relay, and the trial of the way to a database",
        "comet.engine.clients": "keeps the clients",
        "comet.runtimes.docker.finder": "finds what a dead supervisor left",
        "comet.runtimes.swarm.finder": "finds what a dead supervisor left",
        "comet.runtimes.swarm.log": "reads tasks' logs",
        "comet.inspection.engine": "asks about containers that are inspected",
        "comet.inspection.replicas": "gives that module its client",
    },
    "psutil": {
        "comet.compare.questions.meter": "reads what it compares",
        "comet.telemetry.process_usage": "the listing's CPU and memory",
        "comet.host.sockets": "names the owner of a taken port",
        "comet.cli.commands": "says whose a process is that may not be ended",
    },
    "sqlite3": {"comet.compare.layers.program": "measures what a commit takes"},
    "flask": {
        "comet.admin.app": "serves the page and the API",
        "comet.admin.__main__": "knows the connection of a request",
    },
    "waitress": {"comet.admin.connections": "accepts connections"},
    "prometheus_client": {"comet.admin.metrics": "renders the metrics"},
    "opentelemetry": {"comet.tracing.__main__": "exports spans"},
    "argparse": {"comet.cli.main": "the command line"},
    "yaml": {"comet.common.yaml_lines": "reads YAML files"},
    "multiprocessing": {"comet.balancers.launcher": "names the start method, once"},
    "rich": {
        "comet.terminal.table_layout": "shows",
        "comet.terminal.tables": "shows",
        "comet.terminal.side_by_side": "shows",
        "comet.terminal.progress": "shows",
        "comet.terminal.board.view": "shows",
        "comet.terminal.board.screen": "owns the terminal",
        "comet.report.terminal": "shows",
        "comet.report.console": "prints",
    },
}

RENDERERS = (
    "comet.terminal.tables",
    "comet.terminal.messages",
    "comet.terminal.progress",
    "comet.terminal.board.view",
    "comet.admin.app",
    "comet.admin.view_model",
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


def used_names(path: Path) -> set[str]:
    """Every plain name outside annotations."""
    within = {id(part) for node in nodes(path) for annotation in annotations(node) for part in ast.walk(annotation)}
    return {node.id for node in nodes(path) if isinstance(node, ast.Name) and id(node) not in within}


def _asks_for_the_type_checker(test: ast.expr) -> bool:
    return any("TYPE_CHECKING" in (getattr(part, "id", ""), getattr(part, "attr", "")) for part in ast.walk(test))


def for_the_type_checker(path: Path) -> set[int]:
    """The nodes below `if TYPE_CHECKING:`."""
    blocks = (node for node in nodes(path) if isinstance(node, ast.If) and _asks_for_the_type_checker(node.test))
    return {id(part) for block in blocks for statement in block.body for part in ast.walk(statement)}


@functools.cache
def imports(path: Path, name: str) -> dict[str, set[str]]:
    """What a module imports (dotted) -> the names that this gives it."""
    left_out = for_the_type_checker(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: dict[str, set[str]] = {}
    for node in nodes(path):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.setdefault(alias.name, set()).add(alias.asname or alias.name.partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                part = f"{source}.{alias.name}"
                # From a room its modules are imported, and of the room itself nothing.
                for imported in (part,) if part in ALL else (source, part):
                    found.setdefault(imported, set()).add(alias.asname or alias.name)
    used = used_names(path)
    return {
        imported: names
        for imported, names in found.items()
        if names & used or imported == "__future__" or path.name == "__init__.py"
    }


def top_levels(name: str) -> set[str]:
    return {imported.partition(".")[0] for imported in imports(ALL[name], name)} - {"__future__"}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_knows_nothing_of_what_it_must_not_know(package: str) -> None:
    wrong = {
        name: sorted(bad)
        for name in ALL
        if name.split(".")[0] == package and (bad := top_levels(name) & FORBIDDEN[package])
    }
    assert wrong == {}


def test_the_control_plane_imports_only_the_lbs_interface() -> None:
    allowed = (
        "lb.system.compiled",
        "lb.system.process_setup",
        "lb.interface.settings",
        "lb.interface.messages",
        "lb.interface.counters",
        "lb.process.server",
        "lb.process.fork_entry",
        "lb.process.preload",
        "lb.process.standby",
    )
    wrong = {
        name: sorted(bad)
        for name in modules("comet")
        if (
            bad := {
                part for part in imports(ALL[name], name) if part.startswith("lb.") and not part.startswith(allowed)
            }
        )
    }
    assert wrong == {}


@pytest.mark.parametrize("name", PURE)
def test_a_pure_module_has_no_effects_and_no_third_party(name: str) -> None:
    bad = {
        top
        for top in top_levels(name)
        if top in EFFECTS or (top not in sys.stdlib_module_names and top not in PACKAGES)
    }
    assert bad - PURE_EXCEPTIONS.get(name, set()) == set()


@pytest.mark.parametrize("name", [name for name in PURE if name != "comet.config.schema"])
def test_a_pure_module_imports_only_pure_ones_of_ours(name: str) -> None:
    ours = {part for part in imports(ALL[name], name) if part in ALL and "." in part}
    assert ours - set(PURE) == set()


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_a_library_is_used_in_its_places_only(library: str) -> None:
    users = {name for name in modules("comet") if library in top_levels(name)}
    assert users - set(ONLY_IN[library]) == set()


def test_what_shows_a_cluster_sees_snapshots_only() -> None:
    for name in RENDERERS:
        if name in ALL:
            assert {
                part
                for part in imports(ALL[name], name)
                if part.startswith(
                    ("comet.supervisor.reconcile_loop", "comet.reconcile.planner", "comet.supervisor.fleet")
                )
            } == set()


@pytest.mark.parametrize(
    "name",
    [
        "comet.reconcile.planner",
        "comet.reconcile.transitions",
        "comet.reconcile.replica",
        "comet.supervisor.reconcile_loop",
    ],
)
def test_the_core_never_asks_which_kind_a_replica_is(name: str) -> None:
    """Differences live in drivers and specs: no condition here looks at a kind, a role, or the name of one."""
    asked = []
    for node in nodes(ALL[name]):
        match node:
            case ast.Compare() | ast.BoolOp():
                condition: ast.AST = node
            case (
                ast.If(test=condition)
                | ast.IfExp(test=condition)
                | ast.Match(subject=condition)
                | ast.While(test=condition)
            ):
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
    """The forkserver imports the main script in each child: an import here is paid at every restart of a load
    balancer.
    """
    tree = ast.parse((PROJECT / path).read_text())
    assert [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)] == []


def test_what_two_sides_need_but_cannot_import_is_the_same() -> None:
    copies = [
        ast.parse((PROJECT / folder / "process_setup.py").read_text()) for folder in ("lb/system", "worker_app/common")
    ]
    assert len({ast.dump(ast.Module(tree.body[1:], [])) for tree in copies}) == 1  # The docstrings name their package.


def test_the_worker_needs_only_what_its_image_gets() -> None:
    """The image installs these packages and what they require; an import of anything else would fail in the
    container.
    """
    installed, waiting = set[str](), {name.lower() for name in WORKER_PACKAGES}
    while waiting:
        name = waiting.pop()
        installed.add(name)
        # What is for other Pythons, other systems or extras only has a condition.
        lines = [line for line in requires(name) or [] if ";" not in line]
        waiting |= {re.split(r"[^\w.-]", line)[0].lower() for line in lines} - installed
    third_party = (
        {top for name in modules("worker_app") for top in top_levels(name)}
        - set(sys.stdlib_module_names)
        - set(PACKAGES)
    )
    owners = packages_distributions()
    assert {owners[top][0].lower() for top in third_party} <= installed


def test_nothing_hides_the_docker_sdk_or_supervisor_py() -> None:
    assert not list((PROJECT / "docker").rglob("__init__.py"))
    assert not (PROJECT / "supervisor").exists()
    assert not (PROJECT / "docker.py").exists()


def test_setup_cfg_lists_every_package_by_name() -> None:
    parser = configparser.ConfigParser()
    parser.read(PROJECT / "setup.cfg")
    listed = set(parser["options"]["packages"].split())
    assert listed == {name for name, path in ALL.items() if path.name == "__init__.py"}


def layers() -> dict[str, int]:
    """Each room by its dotted name, and its layer; the entry points of a package are above all of its rooms."""
    comet, others = [block.text for block in pages.blocks("ARCHITECTURE.md") if block.language == "text"][1:]
    rows = comet.splitlines()
    found = {f"comet.{room.replace('/', '.')}": len(rows) - at for at, row in enumerate(rows) for room in row.split()}
    for line in others.splitlines():
        package, _, order = line.strip().partition(":")
        groups = order.strip().split("   ")
        found |= {
            f"{package}.{room}": len(groups) - at for at, group in enumerate(groups) for room in group.split(", ")
        }
    return found | {"comet": 99, "fault_rules": 0, "lb": 99, "worker_app": 99}


LAYERS = layers()
"""The page is the declaration; tests/unit/test_layers.py holds the code to it."""

NO_CODE = {
    "epoll_pwait",
    "brk",
    "accept4",
    "getpeername",
    "io_uring_enter",
    "epoll_ctl",
    "BufferedProtocol",
    "bench.sh",
    "python3.11",
}
"""Names on the data path's page that are the kernel's, asyncio's, or no code."""


def test_the_data_path_page_names_what_there_is() -> None:
    """Classes, methods and functions of `lb/` as the page writes them: `Class.method`, `module.function`, `method`."""
    source = "\n".join(path.read_text() for path in (PROJECT / "lb").rglob("*.py"))
    code = set(re.findall(r"\b[A-Za-z_]\w+\b", source)) | {path.stem for path in (PROJECT / "lb").rglob("*.py")}
    named = [
        word for word in pages.quoted(pages.prose("docs/data-path.md")) if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", word)
    ]
    assert {word for word in named if not set(word.split(".")) <= code} <= NO_CODE


def test_a_module_that_is_started_by_name_exists() -> None:
    """The forkserver's preload fails silently, and a container starts in an image that an earlier version has built."""
    strings = {
        node.value
        for name in modules("comet")
        for node in nodes(ALL[name])
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    named = {text for text in strings if re.fullmatch(r"(?:lb|worker_app)(?:\.\w+)+", text)}
    assert (
        {"lb.process.preload", "worker_app.address", "worker_app.database", "worker_app.network", "worker_app.relay"}
        <= named
        <= set(ALL)
    )


@pytest.mark.parametrize("name", ["comet", "comet.admin", "comet.tracing", "lb", "worker_app"])
def test_a_package_that_python_runs_has_its_entry(name: str) -> None:
    assert f"{name}.__main__" in ALL
    assert "lb.build" in ALL


def test_what_the_plain_run_leaves_out_exists() -> None:
    """A test that was renamed would be run again, unnoticed. Its variants are looked for where they are collected."""
    for line in (PROJECT / "tests/full_only.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        file, _, name = line.partition("[")[0].partition("::")
        assert (PROJECT / file).is_file(), line
        assert not name or f"def {name}(" in (PROJECT / file).read_text(), line


def test_names_of_tests_are_short() -> None:
    """A list of failures shows a name whole, beside its file."""
    named = {
        name
        for path in (PROJECT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert sorted(name for name in named if len(name) > 60) == []
