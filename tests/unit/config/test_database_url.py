"""A server's URL: read as libpq reads it, given another address, and never shown with its password."""

from __future__ import annotations

import pytest
from psycopg import conninfo

from comet.config.database_url import Location, parse, without_password

GOOD = [
    "postgresql://localhost/stats",
    "postgres://user:pw@db.example:6432/stats?sslmode=require&application_name=x+y",
    "postgresql://us%40er:p%2Fw%23%25%20%27@[::1]:5433/stats",
    "postgresql://%2Fvar%2Frun%2Fpostgresql/stats",
    "postgresql://user@one:1,two:2,three/stats?target_session_attrs=read-write",
    "postgresql:///stats?host=/tmp&port=5433&password=secret",
    "postgresql://user:secret@/",
    "postgresql://h/d?options=-csearch_path%3Dcomet",
]


def normal(parameters: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in parameters.items() if value.strip(",")}


@pytest.mark.parametrize("url", GOOD)
def test_a_url_means_to_us_what_it_means_to_libpq(url: str) -> None:
    found = parse(url)
    assert normal(dict(found.parameters)) == normal(conninfo.conninfo_to_dict(url))
    assert conninfo.conninfo_to_dict(found.url) == dict(found.parameters)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:secret@h/d",
        "postgresql:/u:secret@h/d",
        "postgresql://u:sec/ret@h:x/d",
        "postgresql://u:secret@h:port/d",
        "postgresql//u:secret@h/d",
        "postgresql://u:secret@h:99999/d",
        "postgresql://u:secret%@h/d",
        "postgresql://u:sec ret@h/d",
        "postgresql://u:secret@one@two/d",
        "postgresql://u:secret@h/d?secret",
        "postgresql://u:secret@h/d?port=1,2",
    ],
)
def test_what_is_wrong_is_told_without_the_secret(url: str) -> None:
    with pytest.raises(ValueError, match=r"^[a-z]") as caught:
        parse(url)
    assert "secret" not in str(caught.value)
    assert "secret" not in without_password(url)


@pytest.mark.parametrize("url", GOOD)
def test_what_is_shown_has_no_password(url: str) -> None:
    found = parse(url)
    for shown in (str(found), repr(found), without_password(url), f"{[found]}"):
        assert found.parameters.get("password", "\0") not in shown
    assert without_password("worker-stats.db") == "worker-stats.db"


def test_defaults_are_filled_in_and_addresses_exchanged() -> None:
    found = parse("postgresql:///stats").with_defaults("me", "/run/sockets")
    assert found.parameters == {"dbname": "stats", "user": "me", "host": "/run/sockets"}
    assert parse("postgresql://you@h/stats").with_defaults("me", "/s").parameters["user"] == "you"
    moved = parse("postgresql://u:p@localhost:6000/d?hostaddr=127.0.0.1").at("/run/comet", "6000")
    assert moved.parameters == {"user": "u", "password": "p", "dbname": "d", "host": "/run/comet", "port": "6000"}


def test_every_address_is_listed() -> None:
    assert parse("postgresql://a:1,b:2/d").addresses == [("a", "1"), ("b", "2")]
    assert parse("postgresql://a,b/d?port=7").addresses == [("a", "7"), ("b", "7")]
    assert Location({"host": "x", "hostaddr": "127.0.0.1"}).addresses == [("127.0.0.1", "")]
