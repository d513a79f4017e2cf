"""One declaration per thing: a copy of the sources gets one of each thing that people add, by its declaration and the
code of its effect alone. It then appears wherever the program shows such a thing, and nothing else has to be touched.

CONTRIBUTING.md has a recipe for each of them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests.support.cluster import ROOT, TestCluster, open_folder
from tests.support.pages import section
from tests.support.waiting import wait_until

PARTS = ("comet", "fault_rules", "lb", "worker_app", "scripts/docs.py", "supervisor.py", "setup.cfg")


@dataclass(frozen=True)
class Thing:
    """What is added: a declaration, put behind a line of a file, and where its name then appears.

    `effect` is code of its own: the file that gets it, and its text.
    """

    file: str
    behind: str
    declaration: str
    appears: dict[str, str]
    effect: tuple[str, str] | None = None


THINGS = {
    "config key": Thing(
        "comet/config/keys.py",
        '    Times are in seconds, `avg_delay` is in ms, and memory is in bytes.\n    """\n',
        '    greeting: str = key("hello", text(r"[a-z]+"), "a word", "what workers say", fixed=True)\n',
        {
            "config": "greeting='hi'",
            "template": "greeting: hello",
            "reload": "'greeting'",
            "JSON": '"greeting": "hi"',
            "API": '"greeting"',
            "documentation": "| `greeting` | `hello` | a word | what workers say | refused |",
        },
    ),
    "fault": Thing(
        "fault_rules/__init__.py",
        "WORKER = (\n",
        '    Fault("freeze", "share of requests that wait for a minute", slot=5),\n',
        {
            "command line": "--freeze X",
            "completion": "--freeze",
            "API": '"freeze"',
            "documentation": "| `freeze` | `0` | % | percent, from 0 to 100 | share of requests that wait",
            "config": "{'freeze': 3.0}",
            "order of faults": "'freeze': 5.0",
            "terminal": "freeze     5 %",
            "page": '{"name": "freeze", "words": "Freeze", "unit": "%"',
            "load balancer": "freeze ('hang', 'reset', 'truncate', 'failure', 'slow-body', 'freeze')",
            "worker": "freeze",
        },
    ),
    "column": Thing(
        "comet/telemetry/columns.py",
        "COLUMNS = [\n",
        '    Column("letters", "LETTERS", 13, "of its name", "count", "Letters", value=lambda row: len(row.name)),\n',
        {
            "terminal": "LETTERS",
            "JSON": '"letters": 8',
            "API": '"letters"',
            "documentation": "| `LETTERS` | of its name |",
            "page": 'data-label="Letters">8<',
        },
    ),
    "command": Thing(
        "comet/commands/table.py",
        "DECLARED = (\n",
        """    Command(
        "greet",
        "greet a worker",
        ("greet worker-0",),
        (WORKER, JSON),
        fields={"name": words_field("a worker's name")},
        handler=lambda operations, request: operations.greet(request["name"]),
        text=lambda result: f"{result['name']} says {result['greeting']}",
        over_http=True,
    ),
""",
        {
            "command line": "greet a worker",
            "completion": ' greet) found="--help --config --json $(_comet_names',
            "control socket": '"greet": ["name"]',
            "API": '"/api/v1/greet"',
            "page": '{"name": "greet", "title": "Greet", "why": "Greet a worker."',
            "documentation": "| `POST /api/v1/greet` | Run the command `greet` | `name` (string, required) |",
        },
        (
            "comet/supervisor/operations.py",
            "\n    def greet(self, name: str) -> dict[str, Any]:\n"
            '        return {"name": self._replica(name).name, "greeting": self.config.greeting}\n',
        ),
    ),
    "policy": Thing(
        "lb/interface/settings.py",
        "BALANCES: Final = {\n",
        '    "first": ("First", "the first worker that has room"),\n',
        {
            "config": "balance='first'",
            "refusals": "balance: 'x' is not known (allowed: first, ",
            "documentation": "| `first` | the first worker that has room |",
            "load balancer": "policies.First'",
        },
        (
            "lb/balance/policies.py",
            "\n\nclass First(Policy):\n"
            "    def choose(self, candidates: list[Upstream], request: Request | None) -> Upstream:\n"
            "        return min(candidates, key=lambda each: each.name)\n",
        ),
    ),
    "metric": Thing(
        "comet/admin/metrics.py",
        "METRICS = [\n",
        '    Metric("comet_lb_letters", "Letters of its name.", "lb", lambda row: len(row.name)),\n',
        {
            "metrics": 'comet_lb_letters{lb="lb-0"} 4.0',
            "documentation": "| `comet_lb_letters` | gauge | `lb` | Letters of its name. |",
        },
    ),
    "runtime": Thing(
        "comet/config/runtimes.py",
        "RUNTIMES = {\n",
        '    "toy": RuntimeTraits(uses_engine=False),\n',
        {
            "config": "runtime='toy'",
            "refusals": "runtime: 'x' is not known (allowed: toy, ",
            "documentation": "| `runtime` | `docker` | toy, ",
            "runtimes": "toy.runtime.Toy",
        },
        (
            "comet/runtimes/toy/runtime.py",
            "from comet.runtimes.process.runtime import ProcessRuntime\n\n\n"
            "class Toy(ProcessRuntime):\n    pass\n\n\nRUNTIME = Toy\n",
        ),
    ),
}


def copied(folder: Path) -> Path:
    for part in PARTS:
        target = folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, target)
    return folder


def add(thing: Thing, sources: Path) -> None:
    path = sources / thing.file
    text = path.read_text()
    assert text.count(thing.behind) == 1, f"{thing.file}: {thing.behind!r} is to stand there once"
    path.write_text(text.replace(thing.behind, thing.behind + thing.declaration))
    if thing.effect is not None:
        name, code = thing.effect
        path = sources / name
        path.parent.mkdir(exist_ok=True)
        before = path.read_text() if path.exists() else ""
        mark = "\n\ndef pause_seconds("  # The end of the class Operations.
        path.write_text(before.replace(mark, code + mark) if mark in before else before + code)
        (path.parent / "__init__.py").touch()


def shown(sources: Path) -> dict[str, str]:
    """What is shown at each surface by the program that these sources are."""
    environment = os.environ | {"PYTHONPATH": f"{sources}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.surfaces"],
        cwd=sources,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def extended() -> Iterator[Path]:
    """Sources with one more of each thing."""
    with open_folder() as folder:
        copied(folder)
        for thing in THINGS.values():
            add(thing, folder)
        yield folder


@pytest.fixture(scope="module")
def with_them(extended: Path) -> dict[str, str]:
    return shown(extended)


@pytest.fixture(scope="module")
def without_them() -> Iterator[dict[str, str]]:
    with open_folder() as folder:
        yield shown(copied(folder))


RECIPES = {
    "config key": ("Add a config key", {"comet/config/keys.py"}),
    "fault": ("Add a fault kind", {"fault_rules/__init__.py"}),
    "column": ("Add a column to `ps`", {"comet/telemetry/columns.py"}),
    "command": ("Add a command that acts", {"comet/commands/table.py", "comet/supervisor/operations.py"}),
    "policy": ("Add a balancing policy", {"lb/interface/settings.py", "lb/balance/policies.py"}),
    "metric": ("Add a metric", {"comet/admin/metrics.py"}),
    "runtime": ("Add a runtime", {"comet/config/runtimes.py", "comet/runtimes/NAME/runtime.py"}),
}
"""The recipe of each in CONTRIBUTING.md, and the files that a declaration with its effect touches."""


def contents(sources: Path) -> dict[str, bytes]:
    return {str(path.relative_to(sources)): path.read_bytes() for path in sources.rglob("*.py") if path.stat().st_size}


@pytest.mark.slow
@pytest.mark.parametrize("kind", THINGS)
def test_each_touches_the_files_that_its_recipe_names(kind: str, tmp_path: Path) -> None:
    heading, files = RECIPES[kind]
    before = contents(copied(tmp_path))
    add(THINGS[kind], tmp_path)
    after = contents(tmp_path)
    touched = {name.replace("/toy/", "/NAME/") for name in after if after[name] != before.get(name)}
    assert touched == files
    assert before.keys() <= after.keys()
    recipe = section("CONTRIBUTING.md", heading)
    assert {name for name in files if f"`{name}`" not in recipe} == set()


@pytest.mark.slow
@pytest.mark.parametrize("kind", THINGS)
def test_what_is_declared_appears_everywhere(
    kind: str, with_them: dict[str, str], without_them: dict[str, str]
) -> None:
    for surface, text in THINGS[kind].appears.items():
        assert text in with_them[surface], f"{surface}: {with_them[surface][:2000]}"
        assert text not in without_them[surface]


@pytest.mark.slow
def test_a_cluster_has_one_more_of_each(extended: Path, tmp_path: Path) -> None:
    config = {"runtime": "toy", "balance": "first", "greeting": "hi", "faults": "{worker-0: {freeze: 1}}"}
    cluster = TestCluster(tmp_path, **config, worker=2, pool=1)
    cluster.write(admin_port=cluster.config["worker-port"] + 20)
    cluster.command = (sys.executable, str(extended / "supervisor.py"))
    try:
        cluster.start()
        greeted = cluster.comet("greet", "worker-1")
        assert (greeted.stdout, greeted.returncode) == ("worker-1 says hi\n", 0)
        assert "LETTERS" in cluster.comet("ps").stdout
        rows = json.loads(cluster.comet("ps", "--json").stdout)["replicas"]
        assert {row["name"]: row["letters"] for row in rows} == {"lb-0": 4, "worker-0": 8, "worker-1": 8}
        front, admin = (f"http://127.0.0.1:{cluster.config[key]}" for key in ("load-balancer-port", "admin-port"))
        answers = [requests.get(f"{front}/api/v1/hello", timeout=120) for _ in range(4)]
        assert {answer.headers["X-Comet-Worker"] for answer in answers} == {"worker-0"}
        wait_until(lambda: 'comet_lb_letters{lb="lb-0"} 4.0' in requests.get(f"{admin}/metrics", timeout=120).text)
        token = {"Authorization": f"Bearer {(tmp_path / '.comet/admin.token').read_text().strip()}"}
        done = requests.post(f"{admin}/api/v1/greet", json={"name": "worker-0"}, headers=token, timeout=120).json()
        assert done == {"done": "greet", "result": {"name": "worker-0", "greeting": "hi"}}
        assert "freeze" in cluster.comet("faults", "worker-0", "--freeze", "2").stdout
    finally:
        cluster.comet("stop")
