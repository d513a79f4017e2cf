import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from comet.common.errors import UserError
from comet.host import files
from comet.state.directory import Cluster
from comet.state.lock import Lock


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    made = Cluster(tmp_path)
    made.create()
    return made


def test_state_is_private_to_its_user(cluster: Cluster) -> None:
    assert cluster.state.stat().st_mode & 0o777 == 0o700


def test_a_moved_folder_keeps_its_id_a_copy_gets_a_new_one(tmp_path: Path) -> None:
    first = Cluster(tmp_path / "first")
    first.folder.mkdir()
    first.create()
    identity = first.id
    moved = Cluster(tmp_path / "moved")
    first.folder.rename(moved.folder)
    assert moved.id == identity
    copied = Cluster(tmp_path / "copied")
    shutil.copytree(moved.folder, copied.folder)
    assert copied.id is None
    copied.create()
    assert copied.id not in (None, identity)


@pytest.mark.parametrize("file", ["id", "id.spare"])
def test_one_broken_file_does_not_cost_the_id(cluster: Cluster, file: str) -> None:
    identity = cluster.id
    cluster.path(file).write_bytes(b"\xff\xfe")
    assert cluster.id == identity
    assert cluster.repair_id() == (file,)
    cluster.path(file).unlink()
    assert cluster.id == identity
    assert cluster.repair_id() == ()
    assert cluster.path("id").read_text() == cluster.path("id.spare").read_text()


def test_a_cluster_object_leaves_no_descriptor_open(tmp_path: Path) -> None:
    """Programs that use the Python API make many in one process."""
    Cluster(tmp_path).create()
    with Cluster(tmp_path).listen("supervisor.sock"):
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            Cluster(tmp_path).connect("supervisor.sock").close()
        assert len(os.listdir("/proc/self/fd")) <= before


def test_sockets_work_however_deep_the_folder_lies(tmp_path: Path) -> None:
    deep = tmp_path / ("a" * 100) / ("b" * 100)
    deep.mkdir(parents=True)
    assert len(str(deep)) > 200
    cluster = Cluster(deep)
    cluster.create()
    with cluster.listen("lb-0.1.sock"), cluster.connect("lb-0.1.sock") as peer:
        assert peer.fileno() > 0
    with cluster.listen("lb-0.1.sock"):  # What a dead process left is replaced.
        pass


@pytest.mark.slow
def test_one_supervisor_at_a_time_and_its_pid_is_told(cluster: Cluster) -> None:
    script = (
        "import sys; from pathlib import Path; from comet.state.directory import *; from comet.state.lock import *\n"
    )
    script += "lock = Lock(Cluster(Path(sys.argv[1])))\n"
    script += "assert lock.acquire(); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(cluster.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert not Lock(cluster).acquire()
        assert Lock(cluster).holder() == other.pid
        other.kill()
    # The kernel has taken the lock back from the dead.
    assert Lock(cluster).holder() is None
    lock = Lock(cluster)
    assert lock.acquire()
    assert lock.former == other.pid
    lock.release()
    assert lock.acquire()
    assert lock.former is None  # It was given back.
    lock.release()


def test_an_unwritable_folder_is_told_in_one_line(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Cluster(blocked).create()


def test_a_failed_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    files.write(path, "old")

    def full(*arguments: object, **names: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        files.write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
