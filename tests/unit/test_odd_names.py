"""Whatever character a name may have, in every path that Comet makes, quotes, mounts or gives to somebody else: the
files lie where they are said to lie, and nowhere else.
"""

from pathlib import Path

import pytest

from comet.common.values import volumes
from comet.config.database_url import is_url
from comet.config.schema import parse
from worker_app.common.errors import WorkerError
from worker_app.stats import sqlite

ODD = [
    "a b", "?", "a?mode=ro", "%", "%41", "100%.db", "#x", "a&b;c", "it's", 'say "x"', "back\\slash", "line\nbreak",
    "tab\there", "$HOME",
    "`id`", "{x}", "{", "[red]", "*", "!", "(a)", "<a>", "|", "~", "~root", "-x", "--config", "a:b", "a,b", "a=b",
    "a@b", "é", "日本",
    "\x01", "\x1b[2J", "\x7f", " lead", "trail ", ".", "..dots", "...", "x" * 200, "\udcff\udc80", "postgresql:x",
    "file:x?vfs=y", "\u202e",
    "C:\\x",
]  # fmt: skip
NAMES = [name for name in ODD if name != "."]


@pytest.mark.slow
def test_a_url_may_name_the_same_file_percent_encoded() -> None:
    assert sqlite.path_of("sqlite:////a%3Fb%2541.db") == "/a?b%41.db"
    assert sqlite.path_of("sqlite:////a/%FF.db?mode=ro") == "/a/\udcff.db"
    with pytest.raises(WorkerError):
        sqlite.path_of("sqlite:////a%00b")


@pytest.mark.parametrize("text", ["/a://b", "./a://b.db", "../postgres://x", "/srv/postgresql:x", "a:b", "?x=y"])
def test_what_begins_like_a_path_is_no_url(text: str) -> None:
    assert not is_url(text)


def test_volumes_with_colons_and_commas() -> None:
    assert volumes(["/a:b/c:/data:ro", "x,y=z:/data", "a:b:/c"]) == (
        ("/a:b/c", "/data", True),
        ("x,y=z", "/data", False),
        ("a:b", "/c", False),
    )
    assert volumes([{"source": "/a:ro", "target": "/b:c", "read-only": True}]) == (("/a:ro", "/b:c", True),)
    for wrong in (
        "/a",
        "a:b",
        ":/x",
        {"source": "x"},
        {"source": "", "target": "/x"},
        {"source": "x", "target": "y"},
        {"source": "x", "target": "/y", "z": 1},
    ):
        with pytest.raises(ValueError, match="no volume"):
            volumes([wrong])


def test_every_name_is_a_stats_dir() -> None:
    for name in NAMES:
        if "\udcff" in name:
            continue  # YAML is text.
        quoted = "".join(f"\\U{ord(character):08X}" for character in f"./{name}")
        assert parse(f'stats-dir: "{quoted}"', Path("/folder/config.yaml")).stats_dir == f"./{name}"
