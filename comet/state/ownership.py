"""Checks whether this user may use a cluster, and names the owner where not.

Only root and the user who made `.comet/` can read it. An inaccessible cluster is never taken for a stopped one. A user
who runs a cluster alternately with and without sudo leaves files of root's in it; the message says what to chown.
"""

import os
import pwd
import shlex
from collections.abc import Iterator
from pathlib import Path

from comet.common.errors import UserError
from comet.state.directory import Cluster

FOLDERS = (".", "logs", "run")
"""The folders to check in `.comet/`; files that workers write below `stats` belong to whichever user they run as."""


def require_access(cluster: Cluster) -> None:
    """Raise UserError if this user may not use all of the cluster's state; a cluster without state is accepted."""
    try:
        here = cluster.state.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise denied(cluster.state) from error
    if os.geteuid() == 0:
        return
    if here.st_uid != os.geteuid():
        raise UserError(
            f"{cluster.state}: permission denied, it belongs to {user(here.st_uid)}; {_advice(cluster, here.st_uid)}"
        )
    try:
        # Root's files come first, because the run was root's, whichever user its workers had.
        foreign = min(_foreign(cluster.state), key=lambda entry: entry[1], default=None)
    except OSError as error:
        raise denied(cluster.state) from error
    if foreign is not None:
        path, uid = foreign
        command = f"sudo chown -R {user(os.geteuid()).removeprefix('uid ')} {shlex.quote(str(cluster.state))}"
        raise UserError(
            f"{path}: permission denied, it belongs to {user(uid)} (of a run by that user); stop it as that user, "
            f"then: {command}"
        )


def denied(path: str | Path) -> UserError:
    """Return the error for a file that this user may not use."""
    return UserError(f"{path}: permission denied{_owner_of(Path(path))}")


def user(uid: int) -> str:
    """Return the name of a user, or the number if there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _foreign(state: Path) -> Iterator[tuple[str, int]]:
    """Yield the entries that belong to another user, with that user's uid."""
    for folder in FOLDERS:
        try:
            with os.scandir(state / folder) as entries:
                for entry in entries:
                    owner = entry.stat(follow_symlinks=False).st_uid
                    if owner != os.geteuid():
                        yield entry.path, owner
        except FileNotFoundError:
            continue


def _advice(cluster: Cluster, uid: int) -> str:
    return "use sudo" if uid == 0 else f"only {user(uid)} and root can use the cluster in {cluster.folder}"


def _owner_of(path: Path) -> str:
    """Return who could grant access: the owner of the path, or of the folder at which the way to it ends."""
    for each in (path, *path.parents):
        try:
            return (
                f", it belongs to {user(each.lstat().st_uid)}"
                if each == path
                else f", {each} belongs to {user(each.lstat().st_uid)}"
            )
        except OSError:
            continue
    return ""
