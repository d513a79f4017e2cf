"""`comet.host.files` against what another user, or a worker, may plant where a file or a directory of Comet's
belongs.
"""

import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from comet.common.errors import UserError
from comet.common.file_checks import Owner, UnsafeFile
from comet.host import files
from comet.host.files import Directory

STRANGER = 12345
as_root = pytest.mark.root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / ".comet"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    made = tmp_path / "victim"
    made.write_text("secret")
    made.chmod(0o600)
    return made


def link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def dangling(path: Path, victim: Path) -> None:
    path.symlink_to(victim.with_name("not-there"))


def loop(path: Path, victim: Path) -> None:
    path.symlink_to(path)


def hard_link(path: Path, victim: Path) -> None:
    os.link(victim, path)


def fifo(path: Path, victim: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path, victim: Path) -> None:
    here = os.open(path.parent, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


def directory(path: Path, victim: Path) -> None:
    path.mkdir()
    (path / "within").write_text("kept")


def link_to_directory(path: Path, victim: Path) -> None:
    path.symlink_to(victim.parent)


def link_to_device(path: Path, victim: Path) -> None:
    path.symlink_to("/dev/zero")


def device(path: Path, victim: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))


PLANTED = [link, dangling, loop, hard_link, fifo, unix_socket, directory, link_to_directory, link_to_device]
Plant = Callable[[Path, Path], None]


@pytest.fixture(autouse=True)
def never_blocks() -> Iterator[None]:
    """Whoever opens a FIFO waits for its other end: it comes after a while, so that a test fails instead of hanging."""
    opened: list[Path] = []
    original = os.mkfifo

    def noted(path: Path, *arguments: int) -> None:
        original(path, *arguments)
        opened.append(path)

    def rescue() -> None:
        for path in opened:
            if path.exists():
                os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))

    timer = threading.Timer(300, rescue)
    timer.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "mkfifo", noted)
        yield
    assert timer.is_alive(), "something waited for a FIFO"
    timer.cancel()
    timer.join()


@pytest.mark.parametrize("plant", PLANTED)
def test_what_is_no_file_of_ours_is_never_read(folder: Path, victim: Path, plant: Plant) -> None:
    plant(folder / "state.json", victim)
    with pytest.raises((UnsafeFile, FileNotFoundError)) as caught:
        files.read(folder / "state.json")
    assert str(folder / "state.json") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, UserError) or plant is dangling


@pytest.mark.parametrize("plant", PLANTED)
def test_what_is_no_file_of_ours_is_replaced_by_a_write(folder: Path, victim: Path, plant: Plant) -> None:
    plant(folder / "state.json", victim)
    files.write(folder / "state.json", "ours")
    assert files.read(folder / "state.json") == b"ours"
    assert stat.S_ISREG((folder / "state.json").lstat().st_mode)
    assert victim.read_text() == "secret"
    assert not victim.with_name("not-there").exists()
    if plant is directory:
        assert (folder / "state.json.unusable" / "within").read_text() == "kept"


@pytest.mark.parametrize("plant", PLANTED)
def test_a_foreign_file_is_replaced_before_an_append(folder: Path, victim: Path, plant: Plant) -> None:
    plant(folder / "events.jsonl", victim)
    file = files.append(folder / "events.jsonl")
    os.write(file, b"line\n")
    os.close(file)
    again = files.append(folder / "events.jsonl")
    os.write(again, b"more\n")
    os.close(again)
    assert files.read_text(folder / "events.jsonl") == "line\nmore\n"
    assert victim.read_text() == "secret"
    assert not victim.with_name("not-there").exists()


@pytest.mark.parametrize("plant", PLANTED)
def test_what_is_no_file_of_ours_is_removed_as_itself(folder: Path, victim: Path, plant: Plant) -> None:
    plant(folder / "lb-0.sock", victim)
    files.remove(folder / "lb-0.sock")
    assert files.lstat(folder / "lb-0.sock") is None
    assert victim.read_text() == "secret"
    files.remove(folder / "lb-0.sock")


@pytest.mark.parametrize("plant", [each for each in PLANTED if each is not directory])
def test_what_is_no_directory_is_never_entered(folder: Path, victim: Path, plant: Plant) -> None:
    plant(folder / "run", victim)
    with Directory.of(folder) as state, pytest.raises(UnsafeFile, match="where a directory belongs"):
        state.child("run", make=True)
    with pytest.raises(UnsafeFile):
        files.write(folder / "run" / "file", "content")
    assert sorted(path.name for path in victim.parent.iterdir()) == [".comet", "victim"]


def test_the_state_folder_itself_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".comet").symlink_to("elsewhere")
    with pytest.raises(UnsafeFile, match="symbolic link"):
        files.write(tmp_path / ".comet" / "id", "content")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@as_root
@pytest.mark.parametrize("mode", [stat.S_IFCHR, stat.S_IFBLK])
def test_a_device_is_not_even_opened(folder: Path, mode: int) -> None:
    try:
        os.mknod(folder / "id", mode | 0o600, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("no devices can be made here")
    with pytest.raises(UnsafeFile, match="is a device"):
        files.read(folder / "id")


def test_a_sweep_sets_aside_once(folder: Path) -> None:
    (folder / "old").mkdir()
    (folder / "log").write_text("kept")
    os.link(folder / "log", folder.parent / "second-name")
    for _ in range(5):
        with Directory.opened(folder) as directory:
            directory.sweep()
    assert sorted(path.name for path in folder.iterdir()) == ["log.unusable", "old.unusable"]
    (folder / "old").mkdir()
    for _ in range(3):
        with Directory.opened(folder) as directory:
            directory.sweep()
    assert len(list(folder.glob("old.unusable*"))) == 2


@as_root
def test_a_file_of_a_stranger_is_not_read_and_makes_way(folder: Path) -> None:
    (folder / "id").write_text("planted")
    os.chown(folder / "id", STRANGER, STRANGER)
    with pytest.raises(UnsafeFile, match=f"belongs to uid {STRANGER}"):
        files.read(folder / "id")
    os.close(files.append(folder / "id"))
    assert files.read(folder / "id") == b""
    assert (folder / "id.unusable").read_text() == "planted"


@as_root
def test_a_directory_of_a_stranger_is_refused(folder: Path) -> None:
    (folder / "run").mkdir()
    os.chown(folder / "run", STRANGER, STRANGER)
    with pytest.raises(UnsafeFile, match=f"belongs to uid {STRANGER}"):
        files.write(folder / "run" / "id", "content")
    with Directory.of(folder) as state, state.child("run", owner=Owner(STRANGER, STRANGER)) as run:
        assert run.names() == []


@as_root
def test_a_file_for_another_user_is_used_only_if_it_is_theirs(folder: Path) -> None:
    owner = Owner(STRANGER, STRANGER)
    with Directory.of(folder) as state, state.child("stats", make=True, owner=owner) as stats:
        assert (stats.status.st_uid, stats.status.st_gid, stat.S_IMODE(stats.status.st_mode)) == (
            STRANGER,
            STRANGER,
            0o700,
        )
        stats.write("theirs", "content", owner=owner)
        stats.write("ours", "content")
        assert stats.read("theirs") == b"content"
        with pytest.raises(UnsafeFile, match="belongs to root"):
            stats.read("ours")


@pytest.mark.parametrize(
    ("mode", "refused"), [(0o777, True), (0o770, True), (0o702, True), (0o1777, False), (0o755, False), (0o700, False)]
)
def test_a_directory_that_others_may_write_to_is_refused(folder: Path, mode: int, refused: bool) -> None:
    (folder / "run").mkdir()
    (folder / "run").chmod(mode)
    with Directory.of(folder) as state:
        if refused:
            with pytest.raises(UnsafeFile, match="chmod go-w"):
                state.child("run")
        else:
            state.child("run").close()
        with state.child("run", make=True) as run:
            assert stat.S_IMODE(run.status.st_mode) == mode & ~0o022


def test_a_huge_file_is_not_read(folder: Path) -> None:
    (folder / "state.json").touch()
    os.truncate(folder / "state.json", 1 << 40)
    with pytest.raises(UnsafeFile, match="1099511627776 bytes"):
        files.read(folder / "state.json")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "../victim", "a\0b"])
def test_a_name_is_of_one_entry(folder: Path, victim: Path, name: str) -> None:
    with Directory.of(folder) as state:
        for attempt in (
            state.read,
            state.append,
            state.remove,
            state.lstat,
            state.child,
            lambda name: state.write(name, "x"),
        ):
            with pytest.raises(UnsafeFile, match="not the name of one file"):
                attempt(name)
    assert victim.read_text() == "secret"


def test_an_open_directory_is_unaffected_by_a_swapped_path(folder: Path, victim: Path) -> None:
    with Directory.of(folder) as state:
        folder.rename(folder.with_name("moved"))
        folder.symlink_to(victim.parent)
        state.write("id", "content")
        state.remove("victim")
    assert (folder.with_name("moved") / "id").read_text() == "content"
    assert victim.read_text() == "secret"


@pytest.mark.slow
@as_root
def test_a_swap_at_any_moment_never_reaches_the_victim(folder: Path, victim: Path) -> None:
    """Whoever may write the directory changes an entry as fast as possible between a file, a link and a hard link,
    whose number is one again as soon as it is gone.
    """
    os.chown(folder, STRANGER, STRANGER)
    ending = threading.Event()
    path = folder / "worker-stats.db"

    def attack() -> None:
        number = 0
        while not ending.is_set():
            number += 1
            draft = folder / f"draft-{number % 3}"
            draft.unlink(missing_ok=True)
            if number % 3 == 0:
                draft.write_text("harmless")
                os.chown(draft, STRANGER, STRANGER)
            elif number % 3 == 1:
                draft.symlink_to(victim)
            else:
                os.link(victim, draft)
            os.replace(draft, path)

    attacker = threading.Thread(target=attack)
    attacker.start()
    seen: list[bytes | None] = []
    try:
        with (
            Directory.opened(folder.parent) as parent,
            parent.child(".comet", owner=Owner(STRANGER, STRANGER)) as state,
        ):
            deadline = time.monotonic() + 100
            while len(seen) < 3000 or (seen.count(b"harmless") < 100 and time.monotonic() < deadline):
                try:
                    seen.append(state.read(path.name))
                except (UnsafeFile, FileNotFoundError):
                    seen.append(None)
    finally:
        ending.set()
        attacker.join()
    assert set(seen) == {None, b"harmless"}
    assert victim.read_text() == "secret"


def test_a_full_disk_leaves_the_old_content_and_no_draft(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write(folder / "id", "old")

    def full(*arguments: object, **names: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fchmod", full)
    with pytest.raises(OSError, match="No space") as caught:
        files.write(folder / "id", "new")
    assert caught.value.filename == str(folder / "id")
    assert files.read(folder / "id") == b"old"
    assert [path.name for path in folder.iterdir()] == ["id"]


def test_an_error_names_one_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        files.read(tmp_path / "missing")
    assert str(caught.value) == f"[Errno 2] No such file or directory: '{tmp_path}/missing'"
