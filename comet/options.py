"""What a command's options name: the config file, and the cluster that is its folder."""

import argparse
from pathlib import Path

from comet import database
from comet.cluster import Cluster
from comet.errors import UserError

NOTHING_RUNS = 3
"""The exit code for it."""


def config_path(options: argparse.Namespace) -> Path:
    """The config named, else ./config.yaml, else the one beside supervisor.py."""
    if options.config is not None:
        return Path(options.config)
    here, beside = Path("config.yaml"), database.SOURCES / "config.yaml"
    return beside if beside.exists() and not here.exists() else here


def cluster_of(options: argparse.Namespace) -> Cluster:
    """The cluster that the options speak of; its config need not be valid for that, nor exist."""
    return Cluster(config_path(options).absolute().parent)


def existing_cluster(options: argparse.Namespace) -> Cluster:
    cluster = cluster_of(options)
    if cluster.id is None:
        raise UserError(f"{cluster.folder}: no cluster has run here (start one with: python supervisor.py)", NOTHING_RUNS)
    return cluster
