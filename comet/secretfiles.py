"""What workers may know and nobody else: one small file each in `.comet/secrets/`, for the workers' user to read.

A name is the same as long as the content is, and another one for another content, so the name may stand where everybody sees it (a
mount, an environment) and tells that something has changed without telling what.
"""

import os
import secrets
import shutil
from pathlib import Path

from comet.cluster import Cluster, Owner
from comet.errors import UserError

FOLDER = "secrets"


def keep(cluster: Cluster, name: str, content: str, owner: Owner) -> Path:
    """The file with this content; UserError where it cannot be written. Former contents stay while their readers may live."""
    folder = cluster.path(FOLDER)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        for former in sorted(folder.glob(f"{name}-*")):
            if former.read_text() == content and former.stat().st_uid == owner.uid:
                return former
        path = folder / f"{name}-{secrets.token_hex(4)}"
        draft = folder / f".{path.name}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        with os.fdopen(descriptor, "w") as file:
            file.write(content)
            if os.getuid() != owner.uid:
                os.fchown(descriptor, owner.uid, owner.gid)
        draft.rename(path)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}; free some space or mend its permissions") from None
    return path


def forget(cluster: Cluster) -> None:
    shutil.rmtree(cluster.path(FOLDER), ignore_errors=True)
