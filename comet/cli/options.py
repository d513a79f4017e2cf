"""Resolves a command's options to the config file and the cluster, which is the config's folder.

A folder with `.comet/` is a cluster, even if its config no longer exists. A file that the user named is that file, and
nothing else is tried in its place: a command that ends or removes something must not affect another cluster.
"""

import argparse
import contextlib
import os
import stat
import sys
from pathlib import Path

from comet.common.errors import NOTHING_RUNS, UserError
from comet.host.checkout import SOURCES
from comet.host.files import STATE_FOLDER, Directory
from comet.state.directory import Cluster
from comet.state.lock import Lock
from comet.state.ownership import denied, require_access

CONFIG = "config.yaml"


def config_path(options: argparse.Namespace) -> Path:
    """Return the path of the config file.

    It is the named config, or that of the named folder; else ./config.yaml; if this folder is no cluster, the one next
    to supervisor.py.
    """
    if options.config is not None:
        return _named(str(options.config))
    here, installed = Path(CONFIG), SOURCES / CONFIG
    return installed if not os.path.lexists(here) and not Path(STATE_FOLDER).is_dir() and installed.exists() else here


def _named(name: str) -> Path:
    path = Path(name)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        folder = path.absolute().parent
        if not folder.exists():
            raise UserError(f"{folder}: there is no such folder (was it renamed or removed?)", 2) from None
        folder = path.parent
        known = os.path.isdir(folder / STATE_FOLDER)
        more = (
            f"; for the cluster in that folder: --config {folder}" if known else " (name the config with --config FILE)"
        )
        raise UserError(f"{path}: there is no such file{more}", 2) from None
    except PermissionError:
        raise denied(path) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}", 2) from None
    if not stat.S_ISDIR(mode):
        return path
    if not os.access(path, os.X_OK, effective_ids=True):
        raise denied(path)
    if not os.path.isdir(path / STATE_FOLDER):
        raise UserError(f"{path}: is a directory (name the config file itself)", 2)
    return path / CONFIG


def cluster_of(options: argparse.Namespace) -> Cluster:
    """Return the cluster that the options name; its config need not be valid, or even exist.

    Raises UserError if the cluster belongs to another user.
    """
    cluster = Cluster(config_path(options).absolute().parent)
    require_access(cluster)
    with contextlib.suppress(FileNotFoundError), Directory.based(cluster.folder) as folder:
        found = folder.lstat(STATE_FOLDER)
        if found is not None and not stat.S_ISDIR(found.st_mode):
            folder.child(STATE_FOLDER).close()
    return cluster


def known_cluster(options: argparse.Namespace) -> Cluster:
    """Like `cluster_of`; a cluster whose id is lost is recognized by its running replicas."""
    cluster = cluster_of(options)
    if cluster.id is None and cluster.folder.is_dir():
        from comet.runtimes import discovery  # It takes as long as all else of most commands.

        discovery.recognize(cluster)
    return cluster


def existing_cluster(options: argparse.Namespace) -> Cluster:
    cluster = known_cluster(options)
    # A live supervisor creates the files again; until then the cluster is known by its lock alone.
    if cluster.id is None and Lock(cluster).holder() is None:
        raise UserError(
            f"{cluster.folder}: no cluster has run here (start one with: python supervisor.py)", NOTHING_RUNS
        )
    return cluster


def changing_cluster(options: argparse.Namespace) -> Cluster:
    """Like `existing_cluster`, for a command that changes something.

    If the user did not name the folder and it is not the current one, print which cluster is affected.
    """
    cluster = existing_cluster(options)
    if options.config is None and cluster.folder != Path.cwd():
        print(f"for the cluster in {cluster.folder}: there is none in this folder", file=sys.stderr)
    return cluster
