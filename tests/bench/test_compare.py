"""A whole comparison, small: real processes, real containers, and nothing of them afterwards."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import docker
import psutil
import pytest

from comet.cli.main import main
from comet.compare import study
from comet.compare.layers import network, own_engine, probes, start
from comet.compare.questions import cost, growth, isolation, life, side
from comet.compare.results.findings import HOST_NETWORK, NETWORK, PLACES, WAYS, Findings
from comet.compare.results.grown import SLOPES, UNITS
from comet.compare.results.verdicts import verdicts
from comet.compare.results.waterfall import NAMES, SECTION, waterfall
from comet.images.worker_image import ensure_image
from tests.support.cluster import ROOT
from tests.support.waiting import wait_until

pytestmark = pytest.mark.docker


FULL = bool(os.environ.get("COMET_TEST_FULL"))
CHANGED: list[tuple[ModuleType, str, object]] = [
    (side, "STABLE", 0.2),
    (cost, "IN_FLIGHT", (4,)),
]
if not FULL:
    CHANGED += [
        (life, "CLIENTS", 4),
        (life, "PAUSE", 0.02),
        (cost, "SECONDS", 0.5),
        (growth, "STEPS", (1, 2)),
        (growth, "FURTHER", (3,)),
        (isolation, "CALM", 0.3),
        (isolation, "BURN", 0.3),
        (probes, "WORK_TIME", "0.3"),
        (network, "ASK_TIME", "0.05"),
    ]
MORE = 5 if FULL else 2
"""The second number of replicas to which both kinds grow."""


@dataclass(frozen=True)
class Run:
    """What the command `compare` has printed, returned and written, and the findings that it made that of."""

    code: int
    output: str
    errors: str
    folder: Path
    findings: Findings


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """One round, with every question and every attack."""
    folder = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr("tempfile.tempdir", None)
        patch.setitem(side.SETTINGS, "restart-stable", 0.2)
        for module, name, value in CHANGED:
            patch.setattr(module, name, value)
        made: list[Findings] = []
        ask = study.run

        def keep(*arguments: Any) -> Findings:
            made.append(ask(*arguments))
            return made[0]

        patch.setattr(study, "run", keep)
        argv = ["compare", "--rounds", "1", "--json", str(folder / "it.json"), "--html", str(folder / "it.html")]
        output, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            code = main(argv)
        assert made, errors.getvalue()
        yield Run(code, output.getvalue(), errors.getvalue(), folder, made[0])


@pytest.fixture(scope="module")
def found(run: Run) -> Findings:
    return run.findings


def test_one_question_is_asked_of_both_kinds(tmp_path: Path) -> None:
    command = [sys.executable, "supervisor.py", "compare", "--rounds", "1", "--question", "memory"]
    command += ["--json", str(tmp_path / "it.json"), "--html", str(tmp_path / "it.html")]
    (tmp_path / "sides").mkdir()
    environment = os.environ | {"TMPDIR": str(tmp_path / "sides")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "it.json").read_text())
    assert told["rounds"] == 1
    assert "memory" in done.stdout
    assert "<html" in (tmp_path / "it.html").read_text()
    assert list((tmp_path / "sides").iterdir()) == []


def test_the_command_ends_well_and_writes_its_report(run: Run) -> None:
    assert run.code == 0, run.errors
    assert "Mean difference" in run.output
    assert "not measured" not in run.output
    told = json.loads((run.folder / "it.json").read_text())
    assert (told["rounds"], {each["replicas"] for each in told["growth"]}) == (1, set(growth.STEPS))
    assert all(told[part] for part in ("summary", "warnings", "verdicts"))
    html = (run.folder / "it.html").read_text()
    assert "In words" in html
    assert "A start, layer by layer" in html
    assert len(html) < 60_000
    assert sorted(each.name for each in run.folder.iterdir()) == ["it.html", "it.json"]


def test_every_question_has_an_answer_of_both_kinds(found: Findings) -> None:
    unanswered = {
        each.name: {way: values for way, values in each.values.items() if None in values}
        for each in found.measures
        if any(None in values for values in each.values.values())
    }
    # The moment of a process's death is known only where the supervisor itself killed it.
    assert unanswered == {}
    assert {each.name for each in found.measures if each.paired is None and each.section != SECTION} <= {
        study.IMAGE,
        "accounted by the control group, page cache included",
        "CPU at the engine's proxy, 4 in flight",
        "CPU at the engine's proxy, 200 requests/s",
    }
    assert HOST_NETWORK in found.measure("cost", "latency p50, 4 in flight", "ms").values


def test_a_start_is_a_waterfall_of_its_layers(found: Findings) -> None:
    for kind, layers in (
        ("process", ("program", "interpreter", "imports", "ready")),
        ("container", NAMES),
    ):
        steps = waterfall(found, kind)  # type: ignore[arg-type]
        assert tuple(steps) == layers
        assert list(steps.values()) == sorted(steps.values())
    assert 0 < waterfall(found, "container")["namespaces"] < waterfall(found, "container")["network"]


def test_a_start_is_measured_by_every_sandbox_that_is_installed(found: Findings) -> None:
    measured = {each.name for each in found.measures if each.section == SECTION}
    for name, program in start.SANDBOXES.items():
        assert (f"an empty program by {name} alone" in measured) == (shutil.which(program) is not None), name


def test_system_calls_disk_and_cpu_are_measured_in_both_kinds(found: Findings) -> None:
    names = {section: [each.name for each in measures] for section, measures in found.sections()}
    assert {"getppid", "getppid, seccomp off", "futex", "futex, seccomp off", "fork and exec"} <= set(
        names["system calls"]
    )
    assert {f"{what}, {place}" for what in ("4 KiB written and synced", "database commits") for place in PLACES} <= set(
        names["disk"]
    )
    assert {"p99, alone", "p99, half a core", "p99, busy neighbors"} <= set(names["CPU"])


def test_each_network_path_is_measured_on_an_own_engine(found: Findings, run: Run) -> None:
    medians = {}
    for way in WAYS:
        for name, unit in (("latency p50", "µs"), ("latency p99", "µs"), ("stream", "MiB/s")):
            values = found.measure(NETWORK, f"{name}, {way}", unit).values
            assert all(value > 0 for listed in values.values() for value in listed if value is not None), (name, way)
            medians[name, way] = values["container"][0]
        assert found.measure(NETWORK, f"CPU of the machine, {way}", "µs/request").paired is not None
    # Only one of the ways hands every byte to a further process.
    proxied, translated = (
        medians["latency p50", f"published port by {by}"] for by in ("the engine's proxy", "NAT alone")
    )
    assert proxied is not None
    assert translated is not None
    assert proxied > translated
    assert "An answer of 64 bytes" in run.output
    assert _groups(os.getpid()) == []


def test_every_way_has_its_distribution(found: Findings) -> None:
    assert {(each.load, each.way) for each in found.spreads} == {
        (load, way) for load in ("4 in flight", "200 requests/s") for way in ("process", "container", HOST_NETWORK)
    }
    for each in found.spreads:
        assert list(each.percentiles.values()) == sorted(each.percentiles.values())


def test_growth_tells_time_cpu_memory_and_disk(found: Findings) -> None:
    grown = {(each.kind, each.replicas): each for each in found.growth}
    assert set(grown) == {(kind, number) for kind in ("process", "container") for number in growth.STEPS}
    for kind in ("process", "container"):
        one, two = grown[kind, 1], grown[kind, MORE]
        assert (one.ready_ms, one.cpu_ms) == (None, None)
        assert two.ready_ms
        assert two.cpu_ms
        assert two.pss > one.pss
    assert grown["container", MORE].cgroup
    assert grown["process", MORE].disk > grown["process", 1].disk > 0
    assert grown["container", MORE].disk > grown["container", 1].disk > 0
    assert grown["container", MORE].keeper > grown["container", 1].keeper > grown["process", MORE].keeper == 0


def test_density_is_told_with_what_bounded_it(found: Findings) -> None:
    for kind in ("process", "container"):
        reached = {each.replicas: each for each in found.density if each.kind == kind}
        assert set(reached) <= set(growth.FURTHER)
        assert found.bounds[kind]
        for each in (each for each in (*found.growth, *reached.values()) if each.kind == kind):
            assert each.rss > each.pss > each.private > 0
            assert each.pss > each.files > 0


def test_recoveries_have_their_steps_in_order(found: Findings) -> None:
    assert {(each.kind, each.loaded) for each in found.recoveries} == {
        (k, loaded) for k in ("process", "container") for loaded in (False, True)
    }
    for recovery in found.recoveries:
        assert recovery.steps["noticed"] <= recovery.steps["decided"] <= recovery.steps["ready"]
        # All count from the order to kill; a timeline has whole milliseconds.
        assert min(recovery.steps.values()) > -2
        assert recovery.steps["first answer"] > recovery.steps["noticed"] - 2


def test_clients_lost_nothing_that_could_be_kept(found: Findings) -> None:
    seen = {(each.fault, each.kind): each.failed for each in found.seen}
    assert len(seen) == 10
    assert {(each.fault, each.kind): each.requests for each in found.seen if each.requests < 10} == {}
    assert {fault: failed for fault, failed in seen.items() if failed} == {}


def test_what_a_further_replica_adds_is_compared(found: Findings) -> None:
    for name, title in SLOPES.items():
        adds = found.measure("growth", title, UNITS[name]).paired
        assert adds is not None, title
        assert (adds.rounds, adds.process > 0, adds.container > 0) == (1, True, True), title


def test_what_each_kind_contains(found: Findings) -> None:
    judged = {(each.name, each.kind): each for each in verdicts(found.attempts)}
    contained = {which: each.contained for which, each in judged.items()}
    bomb = f"fork bomb (the container's limit lowered to {isolation.PIDS})"
    for attack in (
        "memory hog",
        bomb,
        "full disk (its own files)",
        "reads a file of the host",
        "ends another process of its user",
    ):
        assert (attack, contained[attack, "process"], contained[attack, "container"]) == (attack, False, True)
    # That folder is the host's.
    assert (
        contained["full disk (the folder of the data)", "process"],
        contained["full disk (the folder of the data)", "container"],
    ) == (
        False,
        False,
    )
    # Tried several times a round, and judged by what the neighbours met.
    for kind in ("process", "container"):
        burner = judged["CPU burner", kind]
        assert (burner.tried, burner.by_neighbours, burner.neighbours.keys()) == (
            isolation.BURNS,
            True,
            {"process", "container"},
        )


def test_nothing_is_left(run: Run) -> None:
    with contextlib.closing(docker.from_env()) as engine:
        assert _labeled(engine, f"comet.compare={os.getpid()}") == []
        assert _mounting(engine, str(run.folder)) == []
    wait_until(lambda: not _left(run.folder), 10, "its processes end")


@pytest.mark.parametrize(
    ("words", "moment", "signals", "code"),
    [
        ([], "round 1", (signal.SIGTERM,), 143),
        (["--question", "network"], "an engine of its own", (signal.SIGTERM,), 143),
        # A terminal's Ctrl-C reaches the whole foreground group, and an impatient user presses it again.
        ([], "starting the container side", (signal.SIGINT, signal.SIGINT), 130),
    ],
)
def test_an_end_in_the_middle_cleans_up_as_well(
    words: list[str], moment: str, signals: tuple[int, ...], code: int, tmp_path: Path
) -> None:
    argv = [sys.executable, str(ROOT / "supervisor.py"), "compare", "--rounds", "1", *words]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        argv,
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        told = [next(line for line in process.stderr if moment in line)]
        for number in signals:
            os.killpg(process.pid, number)
            # It may have gone on to its next steps meanwhile.
            while "interrupted: cleaning up" not in "".join(told) and (line := process.stderr.readline()):
                told.append(line)
        told += process.stderr.readlines()
        assert process.wait(480) == code, told
    assert not [line for line in told if "Traceback" in line]
    assert "interrupted: cleaning up" in "".join(told)
    wait_until(lambda: not _left(tmp_path), 10, "its processes end")
    assert list(tmp_path.glob("comet-compare-*")) == []
    assert _groups(process.pid) == []
    with contextlib.closing(docker.from_env()) as engine:
        assert _labeled(engine, f"comet.compare={process.pid}") == []
        assert _mounting(engine, str(tmp_path)) == []


def test_an_end_in_a_later_round_reports_the_earlier_ones(tmp_path: Path) -> None:
    argv = [sys.executable, "supervisor.py", "compare", "--rounds", "3", "--question", "calls"]
    argv += ["--json", str(tmp_path / "it.json")]
    with subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        next(line for line in process.stderr if "round 2 of 3: layers: calls" in line)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=480)
    assert process.returncode == 130, errors
    assert "interrupted after 1 of 3 rounds" in output
    told = json.loads((tmp_path / "it.json").read_text())
    assert told["rounds"] == 1
    assert {len(values) for each in told["measures"] for values in each["values"].values()} == {1}


def _labeled(engine: docker.DockerClient, label: str) -> list[str]:
    """The containers with this label; those that are going are not asked about, as `containers.list` does."""
    return [row["Id"] for row in engine.api.containers(all=True, filters={"label": label})]


def _mounting(engine: docker.DockerClient, folder: str) -> list[str]:
    """The containers, the clusters' own among them, that mount something of a folder."""
    rows = engine.api.containers(all=True)
    return [row["Id"] for row in rows if any(str(mount.get("Source")).startswith(folder) for mount in row["Mounts"])]


def _groups(pid: int) -> list[Path]:
    """The control groups of the engine of a comparison's own."""
    name = f"{own_engine.NAME}{pid}"
    return [*own_engine.GROUPS.glob(name), *own_engine.GROUPS.glob(f"*/{name}")]


def _left(folder: Path) -> list[int]:
    return [
        each.pid for each in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(each.info["cmdline"] or [])
    ]


@pytest.mark.parametrize("words", [["--rounds", "0"], ["--json", "/nowhere/at/all.json"]])
def test_bad_usage_is_one_line_before_anything_starts(words: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "supervisor.py"), "compare", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


def test_leftovers_of_a_killed_comparison_go_with_the_next() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with contextlib.closing(docker.from_env()) as engine:
        image = ensure_image(engine, ROOT, lambda step: None)  # Others may be going: of tests of images.
        made = {
            owner: engine.containers.create(image, labels={isolation.LABEL: str(owner), "comet.test": str(os.getpid())})
            for owner in (gone.pid, os.getppid())
        }
        try:
            study.remove_leftovers()
            assert _labeled(engine, f"comet.test={os.getpid()}") == [made[os.getppid()].id]
        finally:
            for each in made.values():
                with contextlib.suppress(docker.errors.APIError):
                    each.remove(force=True)
