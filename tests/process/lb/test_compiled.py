"""Which data path runs: the compiled one exactly where it was compiled from these sources for this interpreter."""

import contextlib
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import requests

from lb import build
from lb.system import compiled
from tests.support.cluster import free_ports
from tests.support.waiting import wait_until
from tests.unit.lb.system.test_compiled import ROOT


@pytest.mark.parametrize("switch", ["", "interpreted"])
def test_the_compiled_data_path_can_be_disabled(switch: str) -> None:
    """All of it, in packages within `lb` too."""
    asked = (
        "import importlib, lb.system.compiled as it; print(it.in_use(),"
        " *{importlib.import_module(each).__file__.endswith('.py') for each in it.MODULES})"
    )
    told = subprocess.run(
        [sys.executable, "-c", asked],
        cwd=ROOT,
        env=os.environ | {"COMET_LB": switch},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == [str(switch == ""), str(switch != "")]


@pytest.mark.parametrize("switch", ["", "interpreted"])
def test_warnings_as_errors_do_not_hang_refused_connections(switch: str) -> None:
    port, nobody = free_ports(2), 9
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "lb",
        "--listen",
        f"127.0.0.1:{port}",
        "--upstream",
        f"127.0.0.1:{nobody}",
    ]
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"COMET_LB": switch}, stderr=subprocess.PIPE, text=True
    ) as balancer:
        try:
            assert wait_until(partial(ask, port)) == 503
        finally:
            balancer.terminate()
        assert "Warning" not in balancer.communicate(timeout=20)[1]


def ask(port: int) -> int | None:
    with contextlib.suppress(requests.ConnectionError):
        return requests.get(f"http://127.0.0.1:{port}/", timeout=20).status_code
    return None


def test_a_failed_compilation_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compiled, "CACHE", tmp_path)
    monkeypatch.setattr(build, "_STEPS", "raise SystemExit('no compiler')")
    assert build.main() == 1
    assert capsys.readouterr().err.splitlines() == [
        "no compiler",
        "lb.build: the data path could not be compiled; load balancers run interpreted",
    ]
    assert list(tmp_path.iterdir()) == []
