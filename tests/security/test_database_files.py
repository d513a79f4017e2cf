"""What a worker, or another user of the machine, plants where the SQLite database lies, against the start as root and
as an ordinary user.

The directory belongs to the workers' user, so a worker can put anything there; before this was guarded, a start as root
made a link's target, gave it to uid 10001, or waited for a FIFO for ever.
"""

import os
import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from comet.common.errors import UserError
from comet.common.file_checks import Owner
from comet.statistics import database
from comet.statistics.database import Place
from tests.support.users import STRANGER, USER, as_root, python_as
from tests.unit.host.test_files import PLANTED, Plant, directory, fifo, hard_link, link, link_to_directory

PREPARE = """
import sys
from pathlib import Path
from comet.statistics import database
from comet.state.directory import worker_owner
from comet.statistics.database import Place
from comet.common.errors import UserError
try:
    print("\\n".join(database.prepare(Place(*map(Path, sys.argv[1:])), worker_owner())))
except UserError as error:
    print(error.message, file=sys.stderr)
    raise SystemExit(1)
"""
SUFFIXES = ("", "-wal", "-shm", "-journal")


class Stage:
    """A cluster's folder, its database prepared once, and a file that nobody must touch. `uid`: who runs the
    cluster.
    """

    def __init__(self, tmp_path: Path, uid: int, stats_dir: str) -> None:
        self.uid = uid
        self.folder = tmp_path / "cluster"
        self.folder.mkdir()
        self.victim = self.folder / "victim"
        self.victim.write_text("secret")
        self.victim.chmod(0o600)
        (self.folder / ".comet").mkdir(mode=0o700)
        for each in (self.folder, self.victim, self.folder / ".comet"):
            os.chown(each, uid, uid)
        link = Path(os.path.abspath(self.folder / stats_dir))
        own = self.folder / ".comet/stats" if link.parent == self.folder else link.with_name(f"{link.name}.d")
        self.place = Place(link, own / link.name, self.folder)
        self.worker = Owner(10001, 10001) if uid == 0 else Owner(uid, uid)

    def prepare(self) -> tuple[int, str]:
        """Exit code, and what was said."""
        done = python_as(self.uid, PREPARE, *map(str, (self.place.link, self.place.file, self.place.folder)))
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, (done.stdout + done.stderr).strip()

    def assert_harmless(self) -> None:
        status = self.victim.stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (self.uid, self.uid, 0o600)
        assert self.victim.read_text() == "secret"
        assert not self.victim.with_name("not-there").exists()

    def count(self) -> int:
        """Rows in the database, which is usable by its workers."""
        with closing(sqlite3.connect(f"file:{self.place.link}?mode=ro", uri=True)) as connection:
            assert self.place.file.stat().st_uid == self.worker.uid
            found: int = connection.execute("SELECT count(*) FROM workers").fetchone()[0]
            return found

    def insert(self) -> None:
        with closing(sqlite3.connect(self.place.file, isolation_level=None)) as connection:
            columns = [column[1] for column in connection.execute("PRAGMA table_info(workers)") if not column[5]]
            values = ", ".join("'w'" if column == "name" else "0" for column in columns)
            connection.execute(f"INSERT INTO workers ({', '.join(columns)}) VALUES ({values})")
        self.own_all()

    def own_directory(self) -> None:
        """Make the database's directory as a start does."""
        self.place.file.parent.mkdir(mode=0o700)
        os.chown(self.place.file.parent, self.worker.uid, self.worker.gid)

    def own_all(self) -> None:
        for path in self.place.file.parent.iterdir():
            os.chown(path, self.worker.uid, self.worker.gid, follow_symlinks=False)


@pytest.fixture(params=[pytest.param(0, marks=as_root, id="root"), pytest.param(USER, marks=as_root, id="user")])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    return Stage(tmp_path, request.param, "worker-stats.db")


def by_worker(plant: Plant, path: Path, stage: Stage) -> None:
    """Plant something as the workers' user would, in place of what is there."""
    if path.is_symlink() or path.exists():
        path.unlink()
    plant(path, stage.victim)
    if plant is not hard_link:
        os.chown(path, stage.worker.uid, stage.worker.gid, follow_symlinks=False)


@pytest.mark.parametrize("first", range(0, len(PLANTED), 2), ids=lambda first: PLANTED[first].__name__)
def test_files_planted_for_the_database_are_moved_aside(stage: Stage, first: int) -> None:
    stage.own_directory()
    for number, suffix in enumerate(SUFFIXES):
        # Each kind takes the place of the database itself, or of its journal, which were the worst.
        by_worker(PLANTED[(first + (number + 1) // 3) % len(PLANTED)], Path(f"{stage.place.file}{suffix}"), stage)
    code, said = stage.prepare()
    assert (code, said.count("moved aside")) == (0, len(SUFFIXES)), said
    stage.assert_harmless()
    assert stage.count() == 0


def test_a_side_file_that_is_a_link_costs_none_of_the_statistics(stage: Stage) -> None:
    stage.prepare()
    stage.insert()
    by_worker(link, Path(f"{stage.place.file}-journal"), stage)
    by_worker(fifo, Path(f"{stage.place.file}-shm"), stage)
    code, said = stage.prepare()
    assert code == 0, said
    stage.assert_harmless()
    assert stage.count() == 1


@pytest.mark.parametrize("plant", [link, link_to_directory, fifo])
def test_a_planted_statistics_directory_is_refused(stage: Stage, plant: Plant) -> None:
    by_worker(plant, stage.place.file.parent, stage)
    code, said = stage.prepare()
    assert (code, len(said.splitlines())) == (1, 1), said
    assert str(stage.place.file.parent) in said
    stage.assert_harmless()


def test_planted_names_of_former_databases_lose_nothing(stage: Stage) -> None:
    """The name under which a database is kept can be foreseen: it has the time in it."""
    stage.prepare()
    stage.insert()
    stage.place.link.unlink()
    code, said = stage.prepare()
    assert code == 0
    kept = Path(said.rpartition(" ")[2])
    assert stage.count() == 0
    for second in range(20):
        name = database.database_files.rotated_name(stage.place.file.name, second)
        if not (kept.parent / name).exists():
            by_worker(link, kept.parent / name, stage)
    stage.place.link.unlink()
    code, said = stage.prepare()
    assert code == 0
    assert Path(said.rpartition(" ")[2]) != kept
    stage.assert_harmless()


@pytest.mark.parametrize("plant", [link, fifo, directory])
def test_a_foreign_file_at_the_links_place_is_refused(stage: Stage, plant: Plant) -> None:
    by_worker(plant, stage.place.link, stage)
    code, said = stage.prepare()
    assert (code, len(said.splitlines())) == (1, 1), said
    assert str(stage.place.link) in said
    stage.assert_harmless()


def test_a_database_at_the_links_place_moves_in_and_is_chowned(stage: Stage) -> None:
    stage.prepare()
    stage.insert()
    stage.place.link.unlink()
    shutil.move(stage.place.file, stage.place.link)
    os.chown(stage.place.link, stage.uid, stage.uid)
    code, said = stage.prepare()
    assert (code, "moved into" in said) == (0, True), said
    assert stage.count() == 1


def test_a_file_that_is_no_database_is_put_back_untouched(stage: Stage) -> None:
    stage.prepare()
    stage.insert()
    stage.place.link.unlink()
    stage.place.link.write_text("no database")
    stage.place.link.chmod(0o640)
    os.chown(stage.place.link, stage.uid, stage.uid)
    code, said = stage.prepare()
    assert (code, len(said.splitlines())) == (1, 1), said
    assert f"{stage.place.link}: damaged" in said
    status = stage.place.link.stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode), stage.place.link.read_text()) == (
        stage.uid,
        0o640,
        "no database",
    )
    stage.place.link.unlink()
    assert "is kept as" in stage.prepare()[1]


@as_root
def test_a_database_with_planted_side_files_takes_none_in(tmp_path: Path) -> None:
    """Next to a file in a sticky folder anybody may put what SQLite would read with it."""
    stage = sticky(tmp_path, 0)
    (tmp_path / "other").mkdir()
    ours = Stage(tmp_path / "other", 0, "worker-stats.db")
    ours.prepare()
    ours.insert()
    shutil.copy(ours.place.file, stage.place.link)
    planted = Path(f"{stage.place.link}-wal")
    planted.write_text("planted")
    os.chown(planted, STRANGER, STRANGER)
    by_worker(link, Path(f"{stage.place.link}-journal"), stage)
    code, said = stage.prepare()
    assert code == 0, said
    stage.assert_harmless()
    assert stage.count() == 1
    assert (stage.place.file.parent / f"{stage.place.file.name}.incoming-wal.unusable").read_text() == "planted"


def sticky(tmp_path: Path, uid: int) -> Stage:
    """A database in a folder like /tmp, where everybody may make files."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    return Stage(tmp_path, uid, "../tmp/figures.db")


@as_root
@pytest.mark.parametrize("uid", [0, USER])
def test_a_directory_that_a_stranger_made_before_is_refused(tmp_path: Path, uid: int) -> None:
    stage = sticky(tmp_path, uid)
    stage.place.file.parent.mkdir(mode=0o777)
    for suffix in SUFFIXES:
        link(Path(f"{stage.place.file}{suffix}"), stage.victim)
    os.chown(stage.place.file.parent, STRANGER, STRANGER)
    code, said = stage.prepare()
    assert (code, len(said.splitlines())) == (1, 1), said
    assert f"{stage.place.file.parent}: belongs to uid {STRANGER}" in said
    stage.assert_harmless()


@as_root
@pytest.mark.parametrize("uid", [0, USER])
@pytest.mark.parametrize("target", ["figures.db.d/figures.db", "../cluster/victim", "/dev/null"])
def test_a_link_that_a_stranger_made_before_is_refused(tmp_path: Path, uid: int, target: str) -> None:
    stage = sticky(tmp_path, uid)
    stage.place.link.symlink_to(target)
    os.chown(stage.place.link, STRANGER, STRANGER, follow_symlinks=False)
    code, said = stage.prepare()
    assert (code, len(said.splitlines())) == (1, 1), said
    stage.assert_harmless()


@as_root
@pytest.mark.parametrize("uid", [0, USER])
def test_a_database_of_a_strangers_is_not_taken_in(tmp_path: Path, uid: int) -> None:
    stage = sticky(tmp_path, uid)
    stage.place.link.write_bytes(b"")
    os.chown(stage.place.link, STRANGER, STRANGER)
    code, said = stage.prepare()
    assert (code, len(said.splitlines())) == (1, 1), said
    assert f"belongs to uid {STRANGER}" in said


@as_root
@pytest.mark.parametrize("uid", [0, USER])
def test_a_sticky_folder_without_planted_files_serves(tmp_path: Path, uid: int) -> None:
    stage = sticky(tmp_path, uid)
    assert stage.prepare() == (0, "")
    assert stage.count() == 0
    assert stat.S_IMODE(stage.place.file.parent.stat().st_mode) == 0o700


@as_root
@pytest.mark.parametrize("uid", [0, USER])
@pytest.mark.parametrize("way", ["writable", "strangers", "strangers-above", "strangers-link"])
def test_a_folder_that_others_can_replace_is_refused(tmp_path: Path, uid: int, way: str) -> None:
    """The engine mounts the database's directory by its path: who can rename a folder on it decides what a container
    sees.
    """
    shared = tmp_path / "shared"
    (shared / "deep").mkdir(parents=True)
    os.chown(shared / "deep", uid, uid)
    stats_dir = "../shared/deep/figures.db"
    if way == "writable":
        (shared / "deep").chmod(0o777)
    elif way == "strangers":
        os.chown(shared / "deep", STRANGER, STRANGER)
        (shared / "deep").chmod(0o755)
    elif way == "strangers-above":
        os.chown(shared, STRANGER, STRANGER)
    else:
        shared.chmod(0o1777)
        (shared / "way").symlink_to("deep")
        os.chown(shared / "way", STRANGER, STRANGER, follow_symlinks=False)
        stats_dir = "../shared/way/figures.db"
    stage = Stage(tmp_path, uid, stats_dir)
    code, said = stage.prepare()
    assert (code, len(said.splitlines())) == (1, 1), said
    assert "swap" in said
    assert not stage.place.file.parent.exists()


@as_root
def test_roots_cluster_takes_over_a_users_database(tmp_path: Path) -> None:
    stage = Stage(tmp_path, USER, "worker-stats.db")
    assert stage.prepare()[0] == 0
    stage.insert()
    stage.uid, stage.worker = 0, Owner(10001, 10001)
    code, said = stage.prepare()
    assert (code, said) == (0, "")
    assert stage.count() == 1


@as_root
def test_statistics_are_not_read_through_a_link(stage: Stage) -> None:
    stage.own_directory()
    by_worker(link, stage.place.file, stage)
    with pytest.raises(UserError, match="symbolic link"):
        database.read_stats(stage.place, stage.worker)
    by_worker(fifo, stage.place.file, stage)
    with pytest.raises(UserError, match="FIFO"):
        database.read_stats(stage.place, stage.worker)
