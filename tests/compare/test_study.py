"""A whole comparison, small: real processes, real containers, and nothing of them afterwards."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import docker
import psutil
import pytest

from comet.compare import bed, cost, growth, isolation, study
from comet.compare.findings import HOST_NETWORK, Findings
from comet.compare.grown import SLOPES, UNITS
from comet.compare.verdicts import verdicts
from tests.integration.clusters import ROOT, eventually

pytestmark = [pytest.mark.docker, pytest.mark.slow]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Findings]:
    """One round with short blocks, two sizes and every attack."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("compare")))
        patch.setattr("tempfile.tempdir", None)
        patch.setitem(bed.SETTINGS, "restart-stable", 0.2)
        patch.setattr(bed, "STABLE", 0.2)
        for module, name, value in ((cost, "IN_FLIGHT", (4,)), (cost, "SECONDS", 0.5), (growth, "STEPS", (1, 2)), (isolation, "CALM", 0.3)):
            patch.setattr(module, name, value)
        yield study.run(1, lambda told: None)


def test_every_question_has_an_answer_of_both_kinds(found: Findings) -> None:
    unanswered = {
        each.name: {way: values for way, values in each.values.items() if None in values}
        for each in found.measures
        if any(None in values for values in each.values.values())
    }
    # The moment of a process's death is known only where the supervisor itself killed it.
    assert unanswered == {}
    assert {each.name for each in found.measures if each.paired is None} <= {
        study.IMAGE,
        "accounted by the control group, page cache included",
        "CPU at the engine's proxy, 4 in flight",
        "CPU at the engine's proxy, 200 requests/s",
    }
    assert HOST_NETWORK in found.measure("cost", "latency p50, 4 in flight", "ms").values


def test_every_way_has_its_distribution(found: Findings) -> None:
    assert {(each.load, each.way) for each in found.spreads} == {
        (load, way) for load in ("4 in flight", "200 requests/s") for way in ("process", "container", HOST_NETWORK)
    }
    for each in found.spreads:
        assert list(each.percentiles.values()) == sorted(each.percentiles.values())


def test_growth_tells_time_cpu_memory_and_disk(found: Findings) -> None:
    grown = {(each.kind, each.replicas): each for each in found.growth}
    assert set(grown) == {(kind, number) for kind in ("process", "container") for number in (1, 2)}
    for kind in ("process", "container"):
        one, two = grown[kind, 1], grown[kind, 2]
        assert (one.ready_ms, one.cpu_ms) == (None, None)
        assert two.ready_ms
        assert two.cpu_ms
        assert two.pss > one.pss
    assert grown["container", 2].cgroup
    assert grown["process", 2].disk > grown["process", 1].disk > 0
    assert grown["container", 2].disk > grown["container", 1].disk > 0
    assert grown["container", 2].keeper > grown["container", 1].keeper > grown["process", 2].keeper == 0


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
    for attack in ("memory hog", bomb, "full disk (its own files)", "reads a file of the host", "ends another process of its user"):
        assert (attack, contained[attack, "process"], contained[attack, "container"]) == (attack, False, True)
    # That folder is the host's.
    assert (contained["full disk (the folder of the data)", "process"], contained["full disk (the folder of the data)", "container"]) == (
        False,
        False,
    )
    # Tried several times a round, and judged by what the neighbours met.
    for kind in ("process", "container"):
        burner = judged["CPU burner", kind]
        assert (burner.tried, burner.by_neighbours, burner.neighbours.keys()) == (isolation.BURNS, True, {"process", "container"})


def test_nothing_is_left(found: Findings) -> None:
    with contextlib.closing(docker.from_env()) as engine:
        assert engine.containers.list(all=True, filters={"label": f"comet.compare={os.getpid()}"}) == []
        assert _mounting(engine, os.environ["TMPDIR"]) == []
    assert not _left(Path(os.environ["TMPDIR"]))
    folder = os.environ.get("TMPDIR", "/tmp")
    assert list(Path(folder).glob("comet-compare-*")) == []


@pytest.mark.parametrize(
    ("moment", "signals", "code"),
    [
        ("round 1", (signal.SIGTERM,), 143),
        # A terminal's Ctrl-C reaches the whole foreground group, and an impatient user presses it again.
        ("starting the container side", (signal.SIGINT, signal.SIGINT), 130),
    ],
)
def test_an_end_in_the_middle_cleans_up_as_well(moment: str, signals: tuple[int, ...], code: int, tmp_path: Path) -> None:
    argv = [sys.executable, str(ROOT / "supervisor.py"), "compare", "--rounds", "1"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        argv, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        told = [next(line for line in process.stderr if moment in line)]
        for number in signals:
            os.killpg(process.pid, number)
            told.append(next(iter(process.stderr), ""))
        told += process.stderr.readlines()
        assert process.wait(120) == code, told
    assert not [line for line in told if "Traceback" in line]
    assert "interrupted: cleaning up" in told[1]
    eventually(lambda: not _left(tmp_path), 10, "its processes end")
    assert list(tmp_path.glob("comet-compare-*")) == []
    with contextlib.closing(docker.from_env()) as engine:
        assert engine.containers.list(all=True, filters={"label": f"comet.compare={process.pid}"}) == []
        assert _mounting(engine, str(tmp_path)) == []


def test_the_command_ends_well_and_writes_its_report(tmp_path: Path) -> None:
    argv = [sys.executable, str(ROOT / "supervisor.py"), "compare", "--rounds", "1", "--json", "it.json", "--html", "it.html"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    assert "MEAN DIFFERENCE" in done.stdout
    assert "not measured" not in done.stdout
    told = json.loads((tmp_path / "it.json").read_text())
    assert (told["rounds"], {each["replicas"] for each in told["growth"]}) == (1, {1, 5, 10, 20})
    assert all(told[part] for part in ("summary", "warnings", "verdicts"))
    assert "In words" in (tmp_path / "it.html").read_text()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["it.html", "it.json"]
    with contextlib.closing(docker.from_env()) as engine:
        assert _mounting(engine, str(tmp_path)) == []


def _mounting(engine: docker.DockerClient, folder: str) -> list[str]:
    """The containers, the clusters' own among them, that mount something of a folder."""
    rows = engine.api.containers(all=True)
    return [row["Id"] for row in rows if any(str(mount.get("Source")).startswith(folder) for mount in row["Mounts"])]


def _left(folder: Path) -> list[int]:
    return [each.pid for each in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(each.info["cmdline"] or [])]


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


def test_what_a_killed_comparison_left_goes_with_the_next_and_a_living_ones_stays() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with contextlib.closing(docker.from_env()) as engine:
        image = engine.images.list(filters={"label": "comet.image=worker"})[0]
        made = {
            owner: engine.containers.create(image, labels={isolation.LABEL: str(owner), "comet.test": str(os.getpid())})
            for owner in (gone.pid, os.getppid())
        }
        try:
            study.sweep()
            left = engine.containers.list(all=True, filters={"label": f"comet.test={os.getpid()}"})
            assert [each.id for each in left] == [made[os.getppid()].id]
        finally:
            for each in made.values():
                with contextlib.suppress(docker.errors.NotFound):
                    each.remove(force=True)
