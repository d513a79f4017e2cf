"""Creates, reads and resets the statistics database: `python -m worker_app.database create|stats|report|reset`.

It works with and without running workers. The address comes from the environment (see `worker_app.address`), because a
password in a URL must not appear in a process listing. Errors are one line on stderr and exit code 1. Only a
database whose tables are to be created or migrated, or that is to be refused, needs SQLAlchemy.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from worker_app import address
from worker_app.common.errors import NotCommitted, WorkerError
from worker_app.stats import layout, sqlite
from worker_app.stats.latency import LAST_BUCKET, percentile_ms, upper_bound_ms
from worker_app.stats.rows import checked_count, mean_ms, render

if TYPE_CHECKING:
    from worker_app.address import Database, Session

_SUMS = ("successful", "failed", "unplanned", "disconnected", "duration_us")
_COLUMNS = ("name", "first_started", "updated", *_SUMS)


def create(where: str) -> None:
    """Create a missing database, migrate an older one, check an existing one; raise WorkerError if it is not usable."""
    address.database_at(where).create()


def stats(where: str) -> str:
    """Return the text of `/worker/stats`."""
    database = address.database_at(where)
    database.require()
    reader = database.reader()
    try:
        return render(reader.rows())
    except NotCommitted as error:
        raise WorkerError(f"{database.name}: {error}") from None
    finally:
        reader.close()


def report(where: str) -> str:
    """Return everything that is stored per worker as JSON, including what `/worker/stats` does not show."""
    database = address.database_at(where)
    with _session(database) as session:
        for statement in database.READING:
            session.execute(statement)
        found = session.execute(f"SELECT {', '.join(_COLUMNS)} FROM workers ORDER BY first_started, id").fetchall()  # nosec B608
        rows = [_checked(dict(zip(_COLUMNS, row, strict=True))) for row in found]
        buckets: dict[str, dict[int, int]] = {}
        for worker, bucket, count in session.execute("SELECT worker, bucket, count FROM latency"):
            buckets.setdefault(worker, {})[checked_count(bucket, worker, "bucket")] = checked_count(
                count, worker, "count"
            )
        injected: dict[str, dict[str, int]] = {}
        for worker, kind, count in session.execute("SELECT worker, kind, count FROM injections"):
            injected.setdefault(worker, {})[str(kind)] = checked_count(count, worker, "count")
    listed = [_worker(row, buckets.get(row["name"], {}), injected.get(row["name"], {})) for row in rows]
    total = _figures(
        {name: sum(row[name] for row in rows) for name in _SUMS},
        dict(sum((Counter(each) for each in buckets.values()), Counter())),
        dict(sum((Counter(each) for each in injected.values()), Counter())),
    )
    return json.dumps({"schema": layout.VERSION, "total": total, "workers": listed}, separators=(",", ":"))


def _checked(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the workers table after checking its types."""
    for name in _SUMS:
        checked_count(row[name], row["name"], name)
    for name in ("first_started", "updated"):
        if not isinstance(row[name], int | float) or not -1e15 < row[name] < 1e15:
            raise ValueError(f"the row of {str(row['name'])[:60]!r} has no valid time in {name}")
    return row | {"name": str(row["name"])}


def _worker(row: dict[str, Any], buckets: dict[int, int], injected: dict[str, int]) -> dict[str, Any]:
    head = {name: row[name] for name in ("name", "first_started", "updated")}
    return head | _figures(row, buckets, injected)


def _figures(row: Mapping[str, Any], buckets: dict[int, int], injected: dict[str, int]) -> dict[str, Any]:
    requests = row["successful"] + row["failed"]
    return {
        "successful": row["successful"],
        "failed": row["failed"],
        "unplanned": row["unplanned"],
        "disconnected": row["disconnected"],
        "mean_ms": mean_ms(row["duration_us"], requests),
        "p50_ms": round(percentile_ms(buckets, 50), 3),
        "p99_ms": round(percentile_ms(buckets, 99), 3),
        # Pairs of inclusive upper bound (ms; null: unbounded) and number of requests.
        "latency": [
            [None if number >= LAST_BUCKET else round(upper_bound_ms(number), 4), buckets[number]]
            for number in sorted(buckets)
        ],
        "injections": injected,
    }


def reset(where: str, keep: Sequence[str] = (), page: int = 0, seconds: float = math.inf) -> int | None:
    """Set the workers in `keep` to zero and delete all other rows, in one transaction.

    A running worker that is not in `keep` registers again, with zeros, within about a second. There may be millions of
    request ids: they are deleted before the workers have to wait, and those that were added meanwhile at the end.
    (TRUNCATE would wait for all readers, and the workers behind it.) Where that takes longer than `seconds`, return the
    `page` of the ids for the call that goes on.
    """
    database = address.database_at(where)
    with _session(database) as session:
        has_requests = session.execute(database.HAS_REQUESTS).fetchone() != (0,)  # An older one gets it when opened.
        if has_requests and (next_page := database.forget(session, page, seconds)) is not None:
            return next_page
        for statement in (*database.CHANGING, *database.EXCLUDING):
            session.execute(statement)
        if has_requests:
            session.execute("DELETE FROM counted_requests")
        session.execute("DELETE FROM latency")
        session.execute("DELETE FROM injections")
        rows = session.execute("SELECT id, name FROM workers").fetchall()
        gone = [str(int(row)) for row, name in rows if name not in keep]
        session.execute(f"DELETE FROM workers WHERE id IN ({', '.join(gone) or 'NULL'})")  # nosec B608
        session.execute(f"UPDATE workers SET {', '.join(f'{name} = 0' for name in _SUMS)}, updated = {time.time()}")  # nosec B608
        session.execute("COMMIT")
    return None


@contextlib.contextmanager
def _session(database: Database) -> Iterator[Session]:
    """Connect to an existing database; raise WorkerError with one line that begins with its name."""
    database.require()
    try:
        with contextlib.closing(database.session()) as session:
            yield session
    except database.errors as error:
        raise WorkerError(f"{database.name}: {database.explain(error)}") from None
    except ValueError as error:
        raise WorkerError(f"{database.name}: {error}") from None


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m worker_app.database",
        description="The statistics database named by COMET_DATABASE or COMET_DATABASE_FILE.",
    )
    parser.add_argument("--no-links", action="store_true", help="refuse a SQLite file that is a symbolic link")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("create", help="create, migrate or check it")
    commands.add_parser("stats", help="print the response of /worker/stats")
    commands.add_parser("report", help="print all that is stored per worker, as JSON")
    resetting = commands.add_parser("reset", help="set the counters to zero and delete the rows of former workers")
    resetting.add_argument("--keep", nargs="*", default=[], metavar="NAME", help="workers whose rows stay, with zeros")
    resetting.add_argument("--page", type=int, default=0, help="where an earlier call ended with the request ids")
    resetting.add_argument(
        "--seconds",
        type=float,
        default=math.inf,
        help="delete request ids for no longer, and print the page to go on with",
    )
    options = parser.parse_args(argv)
    sqlite.follow_links = not options.no_links
    try:
        where = address.configured_url()
        if options.command == "create":
            create(where)
        elif options.command == "stats":
            print(stats(where))
        elif options.command == "report":
            print(report(where))
        else:
            page = reset(where, options.keep, options.page, options.seconds)
            if page is not None:
                print(page)
    except WorkerError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"the database: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    gc.freeze()  # The interpreter's end would search all objects for cycles.
    sys.exit(status)
