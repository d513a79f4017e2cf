"""Whatever character a name may have, in every path that Comet makes, quotes, mounts or gives to somebody else: the
files lie where they are said to lie, and nowhere else.
"""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.cluster import ROOT, TestCluster, open_cluster
from tests.support.waiting import wait_until
from tests.unit.test_odd_names import NAMES
from worker_app.stats.sqlite_database import SqliteDatabase


def test_a_database_path_with_odd_characters(tmp_path: Path) -> None:
    for name in NAMES:
        folder = tmp_path / name
        folder.mkdir()
        path = folder / f"{name[:120]}.db"
        kept = SqliteDatabase(str(path))
        assert kept.name == str(path)
        kept.create()
        store = kept.store(lambda taken: "1")
        store.open()
        assert store.path == str(path)
        assert sorted(os.listdir(folder)) == sorted(path.name + suffix for suffix in ("", "-wal", "-shm")), ascii(name)
        store.close()
        shutil.rmtree(folder)
    assert not os.listdir(tmp_path)


def cluster_in(folder: Path, name: str, **config: object) -> contextlib.AbstractContextManager[TestCluster]:
    inner = folder / name
    inner.mkdir()
    return open_cluster(inner, **config)


@pytest.mark.docker
@pytest.mark.parametrize("runtime", ["docker", "process"])
def test_a_cluster_in_a_folder_of_any_name(tmp_path: Path, runtime: str) -> None:
    stats = "st?ats%41 #&;:,'\"\\$x{}[b]\té日\n.db"
    quoted = "".join(f"\\U{ord(character):08X}" for character in stats)
    name = "a ?%41#&;:,'\"\\$x{y}[b]=+é~!*|<>`id`\t\n-"
    with cluster_in(
        tmp_path, name, worker=1, pool=1, runtime=runtime, stats_dir=f'"{quoted}"', access_log="true"
    ) as made:
        made.start()
        assert [made.hello().status_code for _ in range(3)] == [200] * 3
        file = made.folder / ".comet/stats" / stats
        assert (made.folder / stats).resolve() == file
        with closing(sqlite3.connect(file)) as connection:
            assert connection.execute("SELECT sum(successful) FROM workers").fetchone() == (3,)
        for command in (
            ["ps"],
            ["stats"],
            ["stats", "--json"],
            ["events"],
            ["logs", "worker-0"],
            ["check"],
            ["faults", "--failure", "100"],
        ):
            done = made.comet(*command)
            assert (done.returncode, done.stderr) == (0, ""), command
        # The faults' file is read where it is written, some moments later.
        wait_until(lambda: made.hello().status_code == 500, what="the faults are in force")
        assert made.comet("restart", "worker-0").returncode == 0
        made.stop()
        made.assert_nothing_left()
    assert os.listdir(tmp_path) == [name]
    assert sorted(os.listdir(tmp_path / name)) == sorted([".comet", "config.yaml", stats])


@pytest.mark.docker
def test_a_folder_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    """A process has no trouble with it; an engine is spoken to in JSON, and cannot be told of it."""
    with cluster_in(tmp_path, "\udcff\udc80", worker=1, pool=1, runtime="process") as made:
        made.start()
        assert made.hello().status_code == 200
        assert made.comet("stats", "--json").returncode == 0
        made.stop()
        made.write(runtime="docker")
        refused = made.comet("run", "--detach")
        assert refused.returncode == 2
        assert refused.stderr.count("\n") == 1
        assert "is not UTF-8" in refused.stderr


def test_a_checkout_in_a_folder_of_any_name(tmp_path: Path, make_cluster: Callable[..., TestCluster]) -> None:
    # A colon separates what PYTHONPATH lists: no Python runs from there, and venv refuses it.
    checkout = tmp_path / "co ?%41#&;,'\"\\$x{y}[b]=+é~!*|<>`id`\t-"
    checkout.mkdir()
    for part in ("comet", "fault_rules", "lb", "worker_app", "supervisor.py"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, checkout / part)
    cluster = make_cluster(worker=1, pool=1, runtime="process")
    cluster.command = (sys.executable, str(checkout / "supervisor.py"))
    cluster.start()
    assert cluster.hello().status_code == 200
    assert cluster.comet("stats", "--json").returncode == 0
    cluster.stop()


def test_a_config_of_any_name(tmp_path: Path) -> None:
    for name in ("-x.yaml", "a b?%#.yaml", "{x}.yaml", "[red].yaml", "\udcff.yaml", "é.yaml"):
        (tmp_path / name).write_text("worker: many\nfaults: {worker-9: {hang: 1}}\n")
        command = [sys.executable, str(ROOT / "supervisor.py"), "check", f"--config={name}"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=60)
        assert done.returncode == 2
        assert done.stderr.count(b"\n") == 2
        assert b"Traceback" not in done.stderr
