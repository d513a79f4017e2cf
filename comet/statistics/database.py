"""Locates the statistics database and runs the few operations of the control plane on it.

SQLite's write-ahead log needs side files in the same directory for every process that opens the database. The real file
therefore lies in a directory of its own, which can be mounted into containers as a whole. The path in the config is a
symbolic link to it. Removing the link means to start with an empty database.

A URL names a database on a server, for which no file is created or moved.

The worker owns the schema: everything that needs SQL is executed as `python -m worker_app.database`, by the worker's
user. A server's URL may contain a password, so that command gets it on standard input.
"""

import contextlib
import json
import os
import pwd
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comet.common.errors import UserError, os_error_text
from comet.config.database_url import ALLOWED, Location, is_url, parse
from comet.config.schema import Config
from comet.host import confinement
from comet.host.checkout import SOURCES, WORKER_SOURCES
from comet.host.confinement import Mount
from comet.state.directory import Cluster, Owner, worker_owner
from comet.statistics import database_files
from comet.statistics.database_files import Place as Place

MAX_NAME = 200
"""Bytes of the name of a database file; its side files and rotated ones have longer names."""

RESET_TIME = 5.0
"""Seconds in which one call of a reset deletes request ids, so that what it does ends within the limit of a call."""

SOCKET_FOLDERS = ("/var/run/postgresql", "/tmp")  # nosec B108  # nothing is made there
"""Folders of the socket of a server whose URL names no host: Debian's, and PostgreSQL's own."""


@dataclass(frozen=True)
class Server:
    """A database on a server; `origin` is where the user named it, and errors begin with it."""

    location: Location
    origin: str


@dataclass(frozen=True)
class Access:
    """How a worker reaches its database.

    It consists of the worker's environment, the paths of the host that it must see, as (source, target, read-only), and
    for a swarm task the content of its secret.
    """

    environment: Mapping[str, str]
    mounts: tuple[tuple[str, str, bool], ...] = ()
    secret: str | None = field(default=None, repr=False)
    outward: bool = False
    """Whether a container must connect to another machine, or to the host, to reach it."""


def place(config: Config, cluster: Cluster) -> Place | Server:
    """Return where the database of this config is; raise UserError for an unsupported location."""
    origin = f"{config.path.name}:{config.lines.get('stats-dir', 1)}: stats-dir"
    if is_url(config.stats_dir):
        try:
            return Server(_complete(parse(config.stats_dir)), origin)
        except ValueError as error:
            raise UserError(f"{origin}: {error} (allowed: {ALLOWED})", 2) from None
    if "\0" in config.stats_dir or not Path(config.stats_dir).name:
        raise UserError(f"{origin}: {config.stats_dir!r} names no file (allowed: {ALLOWED})", 2)
    link = Path(os.path.abspath(config.folder / config.stats_dir))
    if link in (config.path.absolute(), cluster.state, *cluster.state.parents) or cluster.state in link.parents:
        raise UserError(
            f"{origin}: {config.stats_dir!r} is Comet's own (choose another name, as in worker-stats.db)", 2
        )
    if len(os.fsencode(link.name)) > MAX_NAME:
        raise UserError(f"{origin}: its name is longer than {MAX_NAME} bytes (choose a shorter one)", 2)
    own = cluster.path("stats") if link.parent == config.folder else link.with_name(f"{link.name}.d")
    return Place(link, own / link.name, config.folder)


def _complete(location: Location) -> Location:
    """Return the location with what libpq would look up on the host; in a container it would find something else."""
    try:
        user = pwd.getpwuid(worker_owner().uid).pw_name
    except KeyError:
        user = None
    if not location.parameters.get("user") and user is None:
        raise ValueError("it names no user")
    return location.with_defaults(
        user, next((folder for folder in SOCKET_FOLDERS if os.path.isdir(folder)), SOCKET_FOLDERS[0])
    )


def prepare(where: Place | Server, owner: Owner) -> list[str]:
    """Create or check the database and its link, and return notes for the user.

    On UserError, every existing file is as it was.
    """
    notes: list[str] = []
    if isinstance(where, Server):
        _run(where, owner, "create")
        return notes
    try:
        has_link = database_files.link_exists(where)
        notes += database_files.fix_owners(where, owner)
        if not has_link and database_files.has_file_at_link(where, owner):
            _move_in(where, owner)
            notes.append(f"{where.link.name} moved into {where.file.parent} and replaced by a link")
        elif not has_link and database_files.exists(where, owner):
            rotated = database_files.rotate(where, owner)
            notes.append(
                f"{where.link.name} was removed: starting with an empty database; the previous one is kept as {rotated}"
            )
        database_files.make_empty(where, owner)
        _run(where, owner, "create")
        if not has_link:
            database_files.make_link(where)
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"{error.filename or where.link}: the database cannot be created there: {os_error_text(error)}"
        ) from None
    return notes


def read_stats(where: Place | Server, owner: Owner) -> dict[str, Any]:
    """Return the statistics in the shape of `/worker/stats`."""
    _require_database(where, owner)
    stats: dict[str, Any] = json.loads(_run(where, owner, "stats"))
    return stats


def report(where: Place | Server, owner: Owner) -> dict[str, Any]:
    """Return all data of each worker and of all together.

    That includes percentiles, injections and everything else that is not part of `/worker/stats`.
    """
    _require_database(where, owner)
    data: dict[str, Any] = json.loads(_run(where, owner, "report"))
    return data


def reset(where: Place | Server, owner: Owner, living: Collection[str] = ()) -> None:
    """Reset the statistics; the rows of the workers whose ids are `living` stay, with zeros."""
    _require_database(where, owner)
    names = []
    with contextlib.suppress(UserError):  # Unreadable rows are dropped; living workers create theirs again.
        names = [worker["name"] for worker in report(where, owner)["workers"]] if living else []
    page = "0"
    while page:  # A call that has not yet deleted all request ids says where the next one goes on.
        page = _run(
            where, owner, "reset", "--page", page, "--seconds", f"{RESET_TIME}", "--keep", *rows_of(living, names)
        ).strip()


def _require_database(where: Place | Server, owner: Owner) -> None:
    if isinstance(where, Server) or database_files.exists(where, owner):
        return
    if where.link.is_symlink():
        problem = f"{where.file} does not exist (start the cluster first)"
    elif where.link.exists():
        problem = f"{where.link} is not in use (start the cluster: it takes the file over, or says why not)"
    else:
        problem = f"{where.link} does not exist (start the cluster first)"
    raise UserError(f"there are no statistics yet: {problem}", 3)


def rows_of(living: Collection[str], names: Sequence[str]) -> list[str]:
    """Return which of the rows, in order of first start, are those of workers with these ids.

    A process that finds the row of an earlier one with the same PID counts under `<pid>.2`, `<pid>.3`…: the latest row
    is that of the living process.
    """
    latest = {name.partition(".")[0]: name for name in names}
    return [latest[identity] for identity in living if identity in latest]


def _move_in(where: Place, owner: Owner) -> None:
    """Move a database that was found at the link's place into its directory, if it is usable."""
    with database_files.moved_in(where, owner):
        try:
            _run(where.incoming, owner, "create")
        except UserError as error:
            raise UserError(error.message.replace(str(where.incoming.file), str(where.link)), error.exit_code) from None


def _run(where: Place | Server, owner: Owner, *command: str) -> str:
    argv = (sys.executable, "-m", "worker_app.database", "--no-links", *command)
    database_variables, url = (
        ({"COMET_DATABASE_FILE": "-"}, where.location.url)
        if isinstance(where, Server)
        else ({"COMET_DATABASE": where.address}, "")
    )
    origin = where.origin if isinstance(where, Server) else where.link
    try:
        code, output, errors = confinement.run(
            argv, owner, needs(where), url, 60, env=worker_environment(database_variables), cwd="/"
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{origin}: the database does not answer within 60 s") from None
    except OSError as error:
        raise UserError(f"{origin}: the database cannot be opened: {error.strerror}") from None
    if code:
        reason = errors.strip() or f"exit code {code}"
        raise UserError(f"{origin}: {reason}", 2 if isinstance(where, Server) and command == ("create",) else 1)
    return output


def needs(where: Place | Server) -> tuple[Mount, ...]:
    """Return the paths of this host that the worker application needs to run and to reach its database."""
    code = [str(SOURCES / package) for package in WORKER_SOURCES]
    if isinstance(where, Place):
        reached = [(str(where.file.parent), False)]
    else:
        # These are the socket's directory, keys and certificates.
        named = [*where.location.parameters.get("host", "").split(","), *where.location.parameters.values()]
        reached = [(path, True) for path in dict.fromkeys(named) if path.startswith("/") and os.path.exists(path)]
    return (
        *confinement.interpreter(),
        *((path, path, True) for path in code),
        *((path, path, read_only) for path, read_only in reached),
    )


def worker_environment(database_variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which this Python runs the worker application on this host.

    `database_variables` describe the database.
    """
    inherited = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ") if name in os.environ}
    return inherited | {"PYTHONPATH": str(SOURCES), "PYTHONDONTWRITEBYTECODE": "1", **database_variables}
