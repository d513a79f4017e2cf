"""A fleet of processes under random kills, every request accounted for: the bench that does so, at the size that is
promised where large counts are asked for.
"""

import os
import subprocess
import sys

from tests.support.cluster import ROOT

SECONDS, WORKERS, BALANCERS = (60, 50, 8) if os.environ.get("COMET_TEST_FULL") else (5, 8, 3)


def test_chaos_loses_no_request_of_a_fleet_of_processes(tmp_path: object) -> None:
    command = [
        sys.executable,
        "-m",
        "scripts.bench",
        "chaos",
        str(SECONDS),
        "--runtime",
        "process",
        "--json",
        f"{tmp_path}/chaos.json",
    ]
    size = ["--workers", str(WORKERS), "--lbs", str(BALANCERS), "--clients", "2"]
    done = subprocess.run([*command, *size], cwd=ROOT, capture_output=True, text=True, timeout=1600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "* all zero" in done.stdout
