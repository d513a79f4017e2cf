"""Where the statistics lie, and the few things the control plane does with them.

SQLite's write-ahead log needs side files in the same directory for every process that opens the database. So the real file lies in a
directory of its own, which can be mounted into containers as a whole, and the path of the config is a symbolic link to it: removing
the link means to begin anew.

A URL names a database on a server, which nothing is made or moved for.

The schema is the worker's business: everything that needs SQL is executed as `python -m worker_app.database`, by the worker's user. A
server's URL may hold a password: it is told to that command on its standard input.
"""

import json
import os
import pwd
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comet.cluster import Cluster, Owner, worker_owner
from comet.config import Config
from comet.drivers.execute import as_owner
from comet.errors import UserError
from comet.location import ALLOWED, Location, is_url, parse

SIDE_FILES = ("", "-wal", "-shm", "-journal")
SOCKET_FOLDERS = ("/var/run/postgresql", "/tmp")
"""Where a server's socket lies whose URL names no host: Debian's place, and PostgreSQL's own."""

SOURCES = Path(__file__).resolve().parents[1]
"""The folder that holds the packages comet, lb and worker_app."""


@dataclass(frozen=True)
class Place:
    """`link` is the path of the config, `file` the real database, alone with its side files in `file.parent`."""

    link: Path
    file: Path

    @property
    def url(self) -> str:
        return f"sqlite:///{self.file}"

    def url_under(self, directory: str) -> str:
        """The database's URL for a container in which its directory is mounted at `directory`."""
        return f"sqlite:///{directory}/{self.file.name}"


@dataclass(frozen=True)
class Server:
    """A database on a server. `origin` is where the user named it; errors begin with it."""

    location: Location
    origin: str


@dataclass(frozen=True)
class Access:
    """How a worker comes to its database: what its environment tells of it, and what of the host it has to see, as (source, target,
    read-only); of a swarm's task also the content of its secret."""

    environment: Mapping[str, str]
    mounts: tuple[tuple[str, str, bool], ...] = ()
    secret: str | None = field(default=None, repr=False)


def place(config: Config, cluster: Cluster) -> Place | Server:
    """Where the database of this config lies; UserError for a location that is not supported."""
    origin = f"{config.path.name}:{config.lines.get('stats-dir', 1)}: stats-dir"
    if is_url(config.stats_dir):
        try:
            return Server(_complete(parse(config.stats_dir)), origin)
        except ValueError as error:
            raise UserError(f"{origin}: {error} (allowed: {ALLOWED})", 2) from None
    if "\0" in config.stats_dir or not Path(config.stats_dir).name:
        raise UserError(f"{origin}: {config.stats_dir!r} names no file (allowed: {ALLOWED})", 2)
    link = Path(os.path.abspath(config.folder / config.stats_dir))
    own = cluster.path("stats") if link.parent == config.folder else link.with_name(f"{link.name}.d")
    return Place(link, own / link.name)


def _complete(location: Location) -> Location:
    """What libpq would look up on the host is looked up here: in a container it would find something else."""
    try:
        user = pwd.getpwuid(worker_owner().uid).pw_name
    except KeyError:
        user = None
    if not location.parameters.get("user") and user is None:
        raise ValueError("it names no user")
    return location.with_defaults(user, next((folder for folder in SOCKET_FOLDERS if os.path.isdir(folder)), SOCKET_FOLDERS[0]))


def prepare(where: Place | Server, owner: Owner) -> list[str]:
    """Make or check the database and its link; returns what a user should be told. UserError leaves every existing file as it was."""
    told: list[str] = []
    if isinstance(where, Server):
        _run(where, owner, "create")
        return told
    try:
        if where.link.is_symlink():
            _check_link(where)
        elif where.link.exists():
            _take_over(where, owner)
            told.append(f"{where.link.name} moved into {where.file.parent}, a link stands in its place")
        elif where.file.exists():
            aside = _put_aside(where.file)
            told.append(f"{where.link.name} was removed: beginning anew, the former database is kept as {aside}")
        _make_empty(where.file, owner)
        _run(where, owner, "create")
        if not where.link.is_symlink():
            where.link.symlink_to(os.path.relpath(where.file, where.link.parent))
    except OSError as error:
        raise UserError(f"{error.filename or where.link}: the database cannot be made there: {error.strerror}") from None
    return told


def read_stats(where: Place | Server, owner: Owner) -> dict[str, Any]:
    """The statistics in the shape of `/worker/stats`."""
    _require(where)
    stats: dict[str, Any] = json.loads(_run(where, owner, "stats"))
    return stats


def report(where: Place | Server, owner: Owner) -> dict[str, Any]:
    """All that is kept of each worker, and of all together: percentiles, injections and what else `/worker/stats` has no room for."""
    _require(where)
    kept: dict[str, Any] = json.loads(_run(where, owner, "report"))
    return kept


def reset(where: Place | Server, owner: Owner, living: Collection[str] = ()) -> None:
    """Begin the statistics anew; the rows of the workers whose ids are `living` stay, with zeros."""
    if isinstance(where, Server) or where.file.exists():
        names = [worker["name"] for worker in report(where, owner)["workers"]] if living else []
        _run(where, owner, "reset", "--keep", *rows_of(living, names))


def _require(where: Place | Server) -> None:
    if isinstance(where, Place) and not where.file.exists():
        raise UserError(f"there are no statistics yet: {where.link} does not exist (start the cluster first)", 3)


def rows_of(living: Collection[str], names: Sequence[str]) -> list[str]:
    """Which of the rows, in order of first start, are those of workers with these ids.

    A process that meets the row of an earlier one with the same PID counts under `<pid>.2`, `<pid>.3`…: the latest is the living one's.
    """
    latest = {name.partition(".")[0]: name for name in names}
    return [latest[identity] for identity in living if identity in latest]


def _check_link(where: Place) -> None:
    target = Path(os.path.abspath(where.link.parent / os.readlink(where.link)))
    if target != where.file:
        raise UserError(f"{where.link} is a link to {target}; remove it, or name that file as stats-dir")


def _take_over(where: Place, owner: Owner) -> None:
    """Move a database that was found at the link's place into its directory, if it is one that can be used."""
    if not where.link.is_file():
        raise UserError(f"{where.link} is not a file; stats-dir names the database file itself")
    if where.file.exists():
        _put_aside(where.file)
    me = Owner(os.getuid(), os.getgid())
    _run(Place(where.link, where.link), me, "create")
    _make_directory(where.file.parent, owner)
    for suffix in SIDE_FILES:
        side = Path(f"{where.link}{suffix}")
        if side.exists():
            os.chown(side, owner.uid, owner.gid)
            side.rename(f"{where.file}{suffix}")


def _put_aside(file: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    aside = file.with_name(f"{file.name}.{stamp}")
    for suffix in SIDE_FILES:
        side = Path(f"{file}{suffix}")
        if side.exists():
            side.rename(f"{aside}{suffix}")
    return aside


def _make_directory(directory: Path, owner: Owner) -> None:
    directory.mkdir(mode=0o700, parents=False, exist_ok=True)
    if directory.stat().st_uid != owner.uid:
        os.chown(directory, owner.uid, owner.gid)


def _make_empty(file: Path, owner: Owner) -> None:
    """Directory and file belong to the workers' user before anything opens them: one made by root is read-only to uid 10001."""
    _make_directory(file.parent, owner)
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    for suffix in SIDE_FILES:
        side = Path(f"{file}{suffix}")
        if side.exists() and side.stat().st_uid != owner.uid:
            os.chown(side, owner.uid, owner.gid)


def _run(where: Place | Server, owner: Owner, *command: str) -> str:
    argv = as_owner((sys.executable, "-m", "worker_app.database", *command), owner)
    given, url = ({"COMET_DATABASE_FILE": "-"}, where.location.url) if isinstance(where, Server) else ({"COMET_DATABASE": where.url}, "")
    origin = where.origin if isinstance(where, Server) else where.link
    try:
        done = subprocess.run(
            argv, env=worker_environment(given), cwd="/", input=url, capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{origin}: the database does not answer within 60 s") from None
    if done.returncode:
        reason = done.stderr.strip() or f"exit code {done.returncode}"
        raise UserError(f"{origin}: {reason}", 2 if isinstance(where, Server) and command == ("create",) else 1)
    return done.stdout


def worker_environment(given: Mapping[str, str]) -> dict[str, str]:
    """The environment in which this Python runs the worker application on this host; `given`: what tells of the database."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ") if name in os.environ}
    return kept | {"PYTHONPATH": str(SOURCES), "PYTHONDONTWRITEBYTECODE": "1", **given}
