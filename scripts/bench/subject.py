"""The cluster that `bench.sh` loads: the running one, else a copy made for the test."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from comet.config.schema import load as read_config
from scripts.bench.cluster import BenchCluster, temporary_cluster
from scripts.bench.proc import BenchError
from scripts.bench.report import ROOT, say

PLACES = {"load-balancer-port", "worker-port", "admin-port", "stats-dir", "load-balancer-host", "worker-host"}
"""Keys for the places where a cluster lives: a copy has its own."""

FILES = ("tls-certificate", "tls-key")
"""Keys that name files next to the config."""


def config_of(named: Path | None) -> Path:
    """Return the config: the named one, else ./config.yaml, else the project's. BenchError if there is none."""
    if named is not None and not named.exists():
        raise BenchError(f"{named}: no such file (--config names the config of the cluster to load)")
    found = named or (Path("config.yaml") if Path("config.yaml").exists() else ROOT / "config.yaml")
    return found.resolve()


def copied(config: Path, runtime: str | None) -> dict[str, Any]:
    """Return the config of a copy of that cluster. BenchError if the file cannot be read."""
    try:
        given = yaml.safe_load(config.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise BenchError(f"{config}: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict):
        raise BenchError(f"{config}: not a list of `key: value` lines")
    kept = {str(key): value for key, value in given.items() if key not in PLACES}
    kept |= {key: str(config.parent / str(kept[key])) for key in FILES if kept.get(key)}
    return kept | ({"runtime": runtime} if runtime else {})


@contextlib.contextmanager
def subject(named: Path | None, runtime: str | None) -> Iterator[tuple[BenchCluster, str, Path]]:
    """Yield the cluster, its description and the folder for results.

    `runtime` is for a cluster that has to be made. BenchError if it cannot be.
    """
    config = config_of(named)
    running = BenchCluster.existing(config)
    read_config(config)
    rows = running.ps()["replicas"]
    if any(row["role"] == "lb" for row in rows):
        yield running, f"the running cluster of {config}", config.parent
        return
    made_of = copied(config, runtime)
    say("no cluster runs here: starting one for this test")
    with temporary_cluster(**made_of) as made:
        shown = ", ".join(f"{key} {value}" for key, value in made_of.items() if not isinstance(value, dict))
        yield made, "one of this test's own: " + shown, config.parent
