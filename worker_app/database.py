"""`python -m worker_app.database create|stats|report|reset`: the statistics database by hand, with and without running workers.

The address comes from the environment (see `worker_app.address`): a password in a URL must not stand in a process listing. Errors are
one line on stderr and exit code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, delete, inspect, select, text, update
from sqlalchemy.exc import DatabaseError

from worker_app import address, layout, schema
from worker_app.errors import NotCommitted, WorkerError
from worker_app.latency import LAST_BUCKET, percentile_ms, upper_bound_ms
from worker_app.stats import mean_ms, render

_SUMS = ("successful", "failed", "unplanned", "disconnected", "duration_us")


def create(where: str) -> None:
    """Make the database if it is missing, migrate or take over an older one, check an existing one. WorkerError: not usable."""
    address.at(where).create()


def stats(where: str) -> str:
    """The text of `/worker/stats`."""
    database = address.at(where)
    database.require()
    reader = database.reader()
    try:
        return render(reader.rows())
    except NotCommitted as error:
        raise WorkerError(f"{database.name}: {error}") from None
    finally:
        reader.close()


def report(where: str) -> str:
    """Everything that is kept per worker, as JSON: what the contract's answer has no room for."""
    with _opened(where) as connection:
        rows = connection.execute(select(schema.workers).order_by(schema.workers.c.first_started, schema.workers.c.id)).mappings().all()
        buckets: dict[str, dict[int, int]] = {}
        for worker, bucket, count in connection.execute(select(schema.latency)):
            buckets.setdefault(worker, {})[bucket] = count
        injected: dict[str, dict[str, int]] = {}
        for worker, kind, count in connection.execute(select(schema.injections)):
            injected.setdefault(worker, {})[kind] = count
    listed = [_worker(dict(row), buckets.get(row["name"], {}), injected.get(row["name"], {})) for row in rows]
    total = _figures(
        {name: sum(row[name] for row in rows) for name in _SUMS},
        dict(sum((Counter(each) for each in buckets.values()), Counter())),
        dict(sum((Counter(each) for each in injected.values()), Counter())),
    )
    return json.dumps({"schema": layout.VERSION, "total": total, "workers": listed}, separators=(",", ":"))


def _worker(row: dict[str, Any], buckets: dict[int, int], injected: dict[str, int]) -> dict[str, Any]:
    when = {name: row[name] for name in ("name", "first_started", "updated")}
    return when | _figures(row, buckets, injected)


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
        # Pairs of inclusive upper bound (ms, null = none) and number of requests.
        "latency": [[None if number >= LAST_BUCKET else round(upper_bound_ms(number), 4), buckets[number]] for number in sorted(buckets)],
        "injections": injected,
    }


def reset(where: str, keep: Sequence[str] = ()) -> None:
    """Set the workers named in `keep` to zero and drop all other rows, at one moment. A living worker that was not named registers
    itself again, with zeros, within about a second."""
    with _opened(where) as connection:
        schema.lock(connection)
        if connection.dialect.name == "postgresql":
            # Those who write wait, those who read do not.
            connection.execute(text("LOCK TABLE workers IN EXCLUSIVE MODE"))
        connection.execute(delete(schema.latency))
        connection.execute(delete(schema.injections))
        if inspect(connection).has_table(schema.counted_requests.name):  # Older statistics have none until a worker opens them.
            # One by one, millions of rows would take longer than others wait.
            postgres = connection.dialect.name == "postgresql"
            connection.execute(text("TRUNCATE counted_requests") if postgres else delete(schema.counted_requests))
        connection.execute(delete(schema.workers).where(schema.workers.c.name.not_in(list(keep))))
        connection.execute(
            update(schema.workers).values(successful=0, failed=0, unplanned=0, disconnected=0, duration_us=0, updated=time.time())
        )
        connection.commit()


@contextlib.contextmanager
def _opened(where: str) -> Iterator[Connection]:
    """A connection to statistics that are there. WorkerError: one line that begins with the database's name."""
    database = address.at(where)
    database.require()
    try:
        with database.engine().connect() as connection:
            yield connection
    except DatabaseError as error:
        raise WorkerError(f"{database.name}: {database.explain(error)}") from None
    except database.errors as error:
        raise WorkerError(f"{database.name}: {database.explain(error)}") from None


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m worker_app.database", description="The statistics database named by COMET_DATABASE or COMET_DATABASE_FILE."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("create", help="make, migrate or check it")
    commands.add_parser("stats", help="print what /worker/stats answers")
    commands.add_parser("report", help="print all that is kept per worker, as JSON")
    resetting = commands.add_parser("reset", help="zero the counters and drop former workers")
    resetting.add_argument("--keep", nargs="*", default=[], metavar="NAME", help="rows that stay, with zeros")
    options = parser.parse_args(argv)
    try:
        where = address.given()
        if options.command == "create":
            create(where)
        elif options.command == "stats":
            print(stats(where))
        elif options.command == "report":
            print(report(where))
        else:
            reset(where, options.keep)
    except WorkerError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"the database: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
