"""What a worker, or another user of the machine, plants where the SQLite database lies, against the start as root and
as an ordinary user.

The directory belongs to the workers' user, so a worker can put anything there; before this was guarded, a start as root
made a link's target, gave it to uid 10001, or waited for a FIFO for ever.
"""

import contextlib
import os
import shutil
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from worker_app.stats import sqlite


@pytest.mark.slow
def test_a_host_command_never_follows_a_swapped_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary user's containers have that user's uid, and its commands that user's rights on the host."""
    monkeypatch.setattr(sqlite, "follow_links", False)
    path, victim = tmp_path / "worker-stats.db", tmp_path / "browser-history.db"
    for each in (path, victim):
        with closing(sqlite3.connect(each)) as connection:
            connection.execute("CREATE TABLE kept (a)")
    ending, opened = threading.Event(), 0

    def attack() -> None:
        while not ending.is_set():
            for plant in (
                lambda draft: draft.symlink_to(victim),
                lambda draft: shutil.copyfile(path.with_name("copy"), draft),
            ):
                draft = tmp_path / "draft"
                plant(draft)
                os.replace(draft, path)

    shutil.copyfile(path, tmp_path / "copy")
    attacker = threading.Thread(target=attack)
    attacker.start()
    try:
        deadline = time.monotonic() + 100
        while opened <= 50 and time.monotonic() < deadline:
            with contextlib.suppress(sqlite3.Error, OSError), closing(sqlite.connect(str(path))) as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS planted (a)")
                opened += 1
    finally:
        ending.set()
        attacker.join()
    assert opened
    with closing(sqlite3.connect(victim)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("kept",)]
