"""A whole comparison, small: real processes, real containers, and nothing of them afterwards."""

import contextlib
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
        "disk, shared by all replicas", "CPU at the engine's proxy, 4 in flight", "CPU at the engine's proxy, 200 requests/s",
    }  # fmt: skip
    assert HOST_NETWORK in found.measure("cost", "latency p50, 4 in flight", "ms").values


def test_recoveries_have_their_steps_in_order(found: Findings) -> None:
    assert {each.kind for each in found.recoveries} == {"process", "container"}
    for recovery in found.recoveries:
        assert recovery.steps["noticed"] <= recovery.steps["decided"] <= recovery.steps["ready"]
        assert recovery.steps["first answer"] > 0


def test_clients_lost_nothing_that_could_be_kept(found: Findings) -> None:
    seen = {(each.fault, each.kind): each.failed for each in found.seen}
    assert len(seen) == 10
    assert {fault: failed for fault, failed in seen.items() if failed} == {}


def test_what_each_kind_contains(found: Findings) -> None:
    contained = {(each.name, each.kind): each.contained for each in found.attempts}
    for attack in ("memory hog", "fork bomb", "full disk", "reads a file of the host", "ends another process of its user"):
        assert (attack, contained[attack, "process"], contained[attack, "container"]) == (attack, False, True)


def test_nothing_is_left(found: Findings) -> None:
    with contextlib.closing(docker.from_env()) as engine:
        assert engine.containers.list(all=True, filters={"label": f"comet.compare={os.getpid()}"}) == []
    folder = os.environ.get("TMPDIR", "/tmp")
    assert list(Path(folder).glob("comet-compare-*")) == []


def test_an_end_in_the_middle_cleans_up_as_well(tmp_path: Path) -> None:
    argv = [sys.executable, str(ROOT / "supervisor.py"), "compare", "--rounds", "1"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(argv, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        told = [next(line for line in process.stderr if "round 1" in line)]
        process.send_signal(signal.SIGTERM)
        told += process.stderr.readlines()
        assert process.wait(120) == 130, told
    assert not [line for line in told if "Traceback" in line]
    eventually(lambda: not _left(tmp_path), 10, "its processes end")
    assert list(tmp_path.glob("comet-compare-*")) == []


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
