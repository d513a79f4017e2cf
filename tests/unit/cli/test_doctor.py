"""`doctor`: what it finds, what it advises, and what it keeps to itself."""

import json
import os
import socket
from pathlib import Path

import pytest

from comet.cli import doctor
from comet.cli.doctor import BAD, GOOD, NOTE, Finding, Subject, findings, report
from comet.cli.main import main
from tests.support.cluster import free_ports


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which one stands, on a machine without an engine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine")
    return tmp_path


def config(folder: Path, *lines: str, runtime: str = "process") -> Subject:
    first = free_ports(2)
    ports = f"worker: 1\npool: 1\nworker-port: {first}\nload-balancer-port: {first + 1}\nadmin-port: 0\n"
    (folder / "config.yaml").write_text(f"runtime: {runtime}\n{ports}" + "".join(f"{line}\n" for line in lines))
    return Subject.of(folder / "config.yaml")


def of(found: list[Finding], topic: str) -> list[Finding]:
    return [each for each in found if each.topic == topic]


def test_it_tells_versions_limits_and_ports_and_changes_nothing(folder: Path) -> None:
    subject = config(folder)
    before = sorted(folder.rglob("*"))
    found = findings(subject)
    assert {"comet", "system", "python", "packages", "user", "kernel", "cgroups", "open files", "memory", "disk",
    "engine", "config",
            "cluster", "ports", "data path"} == {each.topic for each in found}  # fmt: skip
    assert all(each.state in (GOOD, NOTE) for each in found), report(found)
    assert any("Flask" in each.text and "psutil" in each.text for each in of(found, "packages"))
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(("runtime", "state"), [("docker", BAD), ("process", NOTE)])
def test_a_missing_engine_is_bad_where_one_is_needed(folder: Path, runtime: str, state: str) -> None:
    found = of(findings(config(folder, runtime=runtime)), "engine")
    assert "named by DOCKER_HOST" in found[0].text
    assert (found[1].state, "no such socket" in found[1].text) == (state, True)


@pytest.mark.slow
def test_doctor_reports_config_errors_by_line_and_goes_on(folder: Path) -> None:
    found = findings(config(folder, "avg-delay: soon", "failure: 120"))
    problems = of(found, "config")
    assert [each.state for each in problems] == [BAD, BAD]
    assert "config.yaml:7: avg-delay" in problems[0].text
    assert of(found, "kernel")
    assert of(findings(Subject.of(folder / "nowhere.yaml")), "config")[0].state == BAD


@pytest.mark.slow
def test_a_taken_port_is_bad_and_its_holder_named(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (folder / "config.yaml").write_text(
            f"runtime: process\nworker: 1\npool: 1\nworker-port: {port}\nload-balancer-port: {free_ports(1)}\n"
            "admin-port: 0\n"
        )
        bad = [each for each in of(findings(Subject.of(folder / "config.yaml")), "ports") if each.state == BAD]
    assert [f"port {port} is taken by" in each.text and f"(PID {os.getpid()})" in each.text for each in bad] == [True]


@pytest.mark.slow
def test_no_secret_is_in_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "hunter2")
    monkeypatch.setenv("DOCKER_HOST", "tcp://me:hunter2@192.0.2.1:2375")
    subject = config(folder, "stats-dir: postgresql://me:hunter2@db/stats", "worker-command: serve --token hunter2")
    assert "hunter2" not in report(findings(subject)) + json.dumps(doctor.as_dict(findings(subject)))
    broken = config(folder, "worker: postgresql://me:hunter2@db/stats?password=hunter2")
    assert "hunter2" not in report(findings(broken))


def test_a_look_that_fails_is_a_finding_and_not_the_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def _limits(_: Subject) -> list[Finding]:
        raise RuntimeError("no such file: /proc")

    monkeypatch.setattr(doctor, "CHECKS", (_limits, *doctor.CHECKS[-2:]))
    found = findings(config(folder))
    assert (found[0].topic, found[0].state) == ("limits", NOTE)
    assert of(found, "config")


@pytest.mark.slow
def test_the_command_prints_advice_below_what_it_is_about(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config(folder)
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("ok    comet: ")
    config(folder, runtime="docker")
    assert main(["doctor", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["healthy"] is False
    assert next(each for each in told["findings"] if each["state"] == "bad")["topic"] == "engine"
    assert report([Finding("disk", "full", BAD, "make room")]) == "bad   disk: full\n      -> make room"
