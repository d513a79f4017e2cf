"""Each feature of the load balancer next to HAProxy's or Envoy's on the same traffic: the bench that compares them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.bench import programs
from tests.support.cluster import ROOT

REQUESTS = 60


def measured(tmp_path: Path, rival: str) -> dict[str, dict[str, Any]]:
    """Return what was seen at Comet, by feature."""
    target = tmp_path / "features.json"
    command = [sys.executable, "-m", "scripts.bench", "features", "--json", str(target), "--rival", rival]
    command += ["--requests", str(REQUESTS), "--ramp", "2"]
    path = os.environ["PATH"] + ":/usr/local/sbin:/usr/sbin"
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=400, check=False
    )
    # 1: shares over time differ further than they should, as they may on a machine with other work.
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return {name: pair["comet"] for name, pair in json.loads(target.read_text())["data"].items()}


def test_features_do_what_those_of_haproxy_do(tmp_path: Path) -> None:
    found = measured(tmp_path, "haproxy")
    seen = {name: list(each["seen"].values()) for name, each in found.items()}
    assert {name: each["errors"] for name, each in found.items() if each["errors"]} == {"ejection after 3 5xx": 3}
    after = {name: each["after"] for name, each in found.items() if each["after"] is not None}
    hashes = [f"consistent hash of {kind}" for kind in ("header", "cookie", "path", "address")]
    ordered = [*hashes, "sticky cookie", "drain and undrain", "ejection after 3 5xx", "health-status 200-299"]
    ordered.append("TLS certificate renewed")
    assert after == dict.fromkeys(ordered, 0)
    assert seen["round-robin"] == [[20, 20, 20]]
    assert all(abs(count - fair) <= 2 for count, fair in zip(seen["weights 1, 2, 3"][0], (10, 20, 30), strict=True))
    assert seen["least-connections"] == [[2, 2, 2], [2, 2, 2]]
    assert seen["power of two choices"] == [1]
    assert [seen[name][2:] for name in hashes] == [[0, 0]] * 4
    assert seen["the same without the header"] == [[20, 20, 20]]
    assert seen["sticky cookie"] == [[10, 10, 10], 0, 0, 10]
    assert seen["retry of a refused connection"] == [REQUESTS]
    assert seen["retry of a closed one"][:2] == [0, 0]
    assert seen["trusted-proxies"][0] == "x-forwarded-for: 127.0.0.1"
    assert seen["PROXY protocol"] == ["x-forwarded-for: 192.0.2.7", "x-forwarded-for: 192.0.2.7", "400"]
    assert seen["TLS certificate renewed"] == [0, 1]
    assert seen["reload"][1] == 0


def lacks_envoy() -> str:
    return "" if (programs.VENV / "bin" / "envoy").exists() else "Envoy, which `scripts/bench.sh features` installs"


@pytest.mark.machine.with_args(lacks_envoy)
def test_features_do_what_those_of_envoy_do(tmp_path: Path) -> None:
    found = measured(tmp_path, "envoy")
    seen = {name: next(iter(each["seen"].values())) for name, each in found.items()}
    assert found["3 gateway errors apart"]["seen"] == {"answers of 500": 20, "of 503 until it is out": 3}
    assert seen["a share of 30 %"][0] == 0
    assert seen["its time grows"] == sorted(seen["its time grows"])
    assert seen["at most 50 % ejected"][:1] == [0]
    assert min(seen["at most 50 % ejected"][1:]) > 0
    assert min(seen["panic below 50 %"]) > 0
