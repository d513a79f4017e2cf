"""Keeps what only workers may know, each in a small file in `.comet/secrets/` readable by the workers' user.

A name stays the same as long as the content does, and changes with it. The name may therefore be publicly visible (in a
mount or an environment): it shows that the content has changed without revealing it.
"""

import secrets
from pathlib import Path

from comet.common.errors import UserError, os_error_text
from comet.common.file_checks import UnsafeFile
from comet.host import files
from comet.host.files import Directory
from comet.state.directory import Cluster, Owner

FOLDER = "secrets"


def keep(cluster: Cluster, name: str, content: str, owner: Owner) -> Path:
    """Return the file with this content, which is written if there is none; raise UserError if that fails.

    Files with previous contents stay, because processes that read them may still run.
    """
    folder = cluster.path(FOLDER)
    try:
        with Directory.of(cluster.state) as state, state.child(FOLDER, make=True) as directory:
            directory.owners = {owner.uid}
            for former in directory.names():
                if former.startswith(f"{name}-") and _content(directory, former) == content:
                    return folder / former
            fresh = f"{name}-{secrets.token_hex(4)}"
            directory.write(fresh, content, mode=0o400, owner=owner)
    except UnsafeFile:
        raise
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {os_error_text(error)}") from None
    return folder / fresh


def forget(cluster: Cluster) -> None:
    files.discard(cluster.path(FOLDER))


def _content(directory: Directory, name: str) -> str | None:
    """Return the content of a file, or None if it is no file of its readers."""
    try:
        return directory.read(name).decode()
    except (OSError, ValueError):
        return None
