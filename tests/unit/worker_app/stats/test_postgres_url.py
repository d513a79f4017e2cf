"""A PostgreSQL URL in a worker: refused in one line, and shown as a URL, without its password."""

from __future__ import annotations

import pytest
from psycopg import conninfo

from worker_app.common.errors import WorkerError
from worker_app.stats import postgres


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://comet:s3cret@db.example:5433/stats?sslmode=require", "postgresql://comet@db.example:5433/stats"),
        ("postgres://h", "postgresql://h"),
        ("postgresql://u:s3cret@one:1,two:2/s2", "postgresql://u@one:1,two:2/s2"),
        ("postgresql://u@one,two:2/s2", "postgresql://u@one,two:2/s2"),
        ("postgresql://u@one,two/s2?port=7", "postgresql://u@one:7,two:7/s2"),
        ("postgresql://[::1]:21099/s2", "postgresql://[::1]:21099/s2"),
        ("postgresql://[::1],[fe80::1%25eth0]:2/d", "postgresql://[::1],[fe80::1%25eth0]:2/d"),
        ("postgresql:///d?hostaddr=127.0.0.1,::1&port=1,2", "postgresql://127.0.0.1:1,[::1]:2/d"),
        ("postgresql://u%40x@h/a%2Fb", "postgresql://u%40x@h/a%2Fb"),
        ("postgresql://u@%2Frun%2Fsockets,h/d", "postgresql://u@%2Frun%2Fsockets,h/d"),
        ("postgresql://u@/d?host=/run/sockets&port=5433", "postgresql://u@:5433/d?host=/run/sockets"),
        ("postgresql://u@/d", "postgresql://u@/d"),
    ],
)
def test_a_url_is_shown_as_one(url: str, shown: str) -> None:
    parameters = postgres.parameters(url)
    assert postgres.display_url(parameters) == shown
    meant = conninfo.conninfo_to_dict(shown)
    assert {key: parameters.get(key) for key in ("user", "dbname")} == {
        key: meant.get(key) for key in ("user", "dbname")
    }
    assert postgres.display_url(meant) == shown


@pytest.mark.parametrize("timeout", ["soon", "2.5", "", "1_0", "1e3", "9999999", "٣"])
def test_a_bad_connect_timeout_is_refused(timeout: str) -> None:
    with pytest.raises(WorkerError, match=r"connect_timeout is not .* \(allowed: [^\n]*\)$"):
        postgres.parameters(f"postgresql://u:s3cret@h/d?connect_timeout={timeout}")


@pytest.mark.parametrize("timeout", ["0", "-1", "+5", " 5 ", "999999"])
def test_a_good_connect_timeout_is_taken(timeout: str) -> None:
    assert postgres.parameters(f"postgresql://h/d?connect_timeout={timeout}".replace(" ", "%20"))


@pytest.mark.parametrize("url", ["postgresql://one,two/d?port=1,2,3", "postgresql://h/d?host=a,b,c&hostaddr=::1,::2"])
def test_lists_of_different_lengths_are_refused(url: str) -> None:
    with pytest.raises(WorkerError, match=r"^not a usable PostgreSQL URL \(allowed: [^\n]*one for each host\)$"):
        postgres.parameters(url)
