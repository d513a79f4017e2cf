"""The cluster that `bench.sh` loads: the one that runs, else one like it, made for the length of the test."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from scripts.bench.cluster import BenchCluster, cluster
from scripts.bench.proc import BenchError
from scripts.bench.report import ROOT, say

PLACES = {"load-balancer-port", "worker-port", "admin-port", "stats-dir", "load-balancer-host", "worker-host"}
"""Where a cluster lives is not what it is: a copy has places of its own."""


def config_of(asked: Path | None) -> Path:
    """The config that is meant: the one asked for, else ./config.yaml, else the project's. BenchError: there is none."""
    if asked is not None and not asked.exists():
        raise BenchError(f"{asked}: no such file (--config names the config of the cluster to load)")
    found = asked or (Path("config.yaml") if Path("config.yaml").exists() else ROOT / "config.yaml")
    return found.resolve()


def copied(config: Path, runtime: str | None) -> dict[str, Any]:
    """What a cluster like that one is made of. BenchError: the file cannot be read."""
    try:
        given = yaml.safe_load(config.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise BenchError(f"{config}: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict):
        raise BenchError(f"{config}: not a list of `key: value` lines")
    kept = {str(key): value for key, value in given.items() if key not in PLACES}
    return kept | ({"runtime": runtime} if runtime else {})


@contextlib.contextmanager
def subject(asked: Path | None, runtime: str | None) -> Iterator[tuple[BenchCluster, str]]:
    """The cluster and what it is, in words. `runtime` is for one that has to be made. BenchError: it cannot be."""
    config = config_of(asked)
    running = BenchCluster(config.parent, fresh=False, name=config.name)
    listed = running.command("ps", "--json")
    if listed.returncode == 2:
        raise BenchError(" / ".join(listed.stderr.strip().splitlines()))
    rows = json.loads(listed.stdout)["replicas"] if listed.returncode == 0 else []
    if any(row["role"] == "lb" for row in rows):
        yield running, f"the running cluster of {config}"
        return
    made_of = copied(config, runtime)
    say("no cluster runs here: starting one for this test")
    with cluster(**made_of) as made:
        shown = ", ".join(f"{key} {value}" for key, value in made_of.items() if not isinstance(value, dict))
        yield made, "one of this test's own: " + shown
