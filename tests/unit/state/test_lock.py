"""Who supervises: whatever is written in the lock file, and whatever becomes of the file."""

import contextlib
import fcntl
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from comet.cli.launch import already_running
from comet.host import process_identity
from comet.state import lock as lock_module
from comet.state.directory import Cluster
from comet.state.lock import Lock
from comet.state.lock_holders import Holder
from tests.support.waiting import wait_until

HOLD = (
    "import sys; from pathlib import Path; from comet.state.directory import Cluster; from comet.state.lock "
    "import Lock\n"
)
HOLD += "lock = Lock(Cluster(Path(sys.argv[1])))\n"
HOLD += "assert lock.acquire(); {more}; print('held', flush=True); sys.stdin.read()"


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    made = Cluster(tmp_path)
    made.create()
    return made


@contextlib.contextmanager
def holding(cluster: Cluster, more: str = "pass") -> "Iterator[subprocess.Popen[str]]":
    """A process that holds the lock."""
    argv = [sys.executable, "-c", HOLD.format(more=more), str(cluster.folder)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            yield holder
        finally:
            holder.kill()


@contextlib.contextmanager
def bystander(*argv: str) -> "Iterator[subprocess.Popen[bytes]]":
    with subprocess.Popen(argv, start_new_session=True) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


TEXTS = [
    b"",
    b"none of your business\n",
    b"-1\n",
    b"0\n",
    b"1\n",
    b"99999999999999999999999\n",
    b"\xff\x00",
    "٣\n".encode(),
    b"4" * 99999,
]


@pytest.mark.slow
@pytest.mark.parametrize("content", TEXTS)
def test_the_holder_is_who_holds_it_whatever_the_file_says(cluster: Cluster, content: bytes) -> None:
    with holding(cluster) as holder:
        cluster.path("lock").write_bytes(content)
        assert Lock(cluster).holder() == holder.pid
        assert not Lock(cluster).acquire(0)
    cluster.path("lock").write_bytes(content)
    assert Lock(cluster).holder() is None
    lock = Lock(cluster)
    assert lock.acquire()
    assert lock.former is None
    assert cluster.path("lock").read_text() == f"{os.getpid()}\n"
    lock.release()


@pytest.mark.slow
def test_a_bystanders_pid_in_the_file_makes_it_no_holder(cluster: Cluster) -> None:
    with bystander("sleep", "60") as process, holding(cluster) as holder:
        cluster.path("lock").write_text(f"{process.pid}\n")
        assert Lock(cluster).holder() == holder.pid
        handle = Lock(cluster).handle()
        assert handle is not None
        assert (handle.pid, handle.send(signal.SIGKILL)) == (holder.pid, True)
        assert handle.ended(60)
        handle.close()
        holder.wait(60)
        cluster.path("lock").write_text(f"{process.pid}\n")
        assert Lock(cluster).handle() is None
        assert process.poll() is None


def _other_file(path: Path) -> None:
    path.unlink()
    path.write_text("4711\n")


def _other(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def replaced(path: Path) -> None:
        path.unlink()
        make(path)

    return replaced


MISHAPS: dict[str, Callable[[Path], object]] = {
    "removed": Path.unlink,
    "all removed": lambda path: shutil.rmtree(path.parent),
    "folder renamed": lambda path: path.parent.rename(path.parent.with_name("away")),
    "another file": _other_file,
    "a directory": _other(Path.mkdir),
    "a FIFO": _other(os.mkfifo),
    "a link": _other(lambda path: path.symlink_to("/etc/passwd")),
    "a link to nowhere": _other(lambda path: path.symlink_to("nowhere")),
    "a device": _other(lambda path: path.symlink_to("/dev/tty")),
}


@pytest.mark.slow
@pytest.mark.parametrize("mishap", MISHAPS)
def test_no_second_supervisor_whatever_becomes_of_the_file(cluster: Cluster, mishap: str) -> None:
    with holding(cluster) as holder:
        MISHAPS[mishap](cluster.path("lock"))
        assert Lock(cluster).holder() == holder.pid
        assert not Lock(cluster).acquire(0)
        assert Lock(cluster).holder() == holder.pid
    # Once nobody holds it what stands in its place is in nobody's way.
    lock = Lock(cluster)
    assert lock.acquire()
    assert cluster.path("lock").read_text() == f"{os.getpid()}\n"
    assert Lock(cluster).holder() == os.getpid()
    lock.release()


@pytest.mark.slow
@pytest.mark.parametrize("mishap", MISHAPS)
def test_its_holder_makes_the_file_again(cluster: Cluster, mishap: str) -> None:
    lock = Lock(cluster)
    assert lock.acquire()
    MISHAPS[mishap](cluster.path("lock"))
    assert lock.repair()
    assert cluster.path("lock").read_text() == f"{os.getpid()}\n"
    assert lock.is_ours
    assert not Lock(cluster).acquire(0)
    inode = cluster.path("lock").stat().st_ino
    assert lock.repair()
    assert cluster.path("lock").stat().st_ino == inode
    lock.release()
    assert not lock.is_ours


@pytest.mark.slow
def test_what_inherited_the_lock_from_a_dead_supervisor_is_none(cluster: Cluster) -> None:
    """A descendant that got the descriptor keeps the lock after the death of its taker."""
    leave = "import os, subprocess; os.set_inheritable(lock._file, True); os.set_inheritable(lock._folder, True); "
    leave += (
        "left = subprocess.Popen(['sleep', '60'], close_fds=False, stdin=subprocess.DEVNULL, "
        "stdout=subprocess.DEVNULL)\nprint(left.pid)"
    )
    argv = [sys.executable, "-c", HOLD.format(more=leave), str(cluster.folder)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        left = int(holder.stdout.readline())
        birth = process_identity.birth_of(left)
        try:
            assert holder.stdout.readline() == "held\n"
            assert Lock(cluster).holder() == holder.pid
            holder.kill()
            holder.wait()
            assert Lock(cluster).holder() is None
            assert Lock(cluster).handle() is None
            lock = Lock(cluster)
            assert lock.acquire()
            assert not Lock(cluster).acquire(0)
            assert process_identity.process(left) is not None
            lock.release()
        finally:
            process_identity.send(left, birth, signal.SIGKILL)


@contextlib.contextmanager
def stranger_at(path: Path, how: str = "-x") -> "Iterator[subprocess.Popen[bytes]]":
    """Somebody else who has locked it."""
    with bystander("flock", how, str(path), "sleep", "60") as stranger:
        wait_until(lambda: not can_lock(path), 5, "it is locked")
        yield stranger


def can_lock(path: Path) -> bool:
    return subprocess.run(["flock", "-n", "-x", str(path), "true"], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("place", ["lock", "folder"])
@pytest.mark.parametrize("how", ["-x", "-s"])
def test_strangers_locks_on_file_or_folder_prevent_no_start(cluster: Cluster, place: str, how: str) -> None:
    path = cluster.path("lock") if place == "lock" else cluster.folder
    cluster.path("lock").touch()
    with stranger_at(path, how) as stranger:
        assert Lock(cluster).holder() is None
        with holding(cluster) as holder:
            assert Lock(cluster).holder() == holder.pid
            assert not Lock(cluster).acquire(0)
        assert stranger.poll() is None


@pytest.mark.slow
def test_a_strangers_lock_prevents_no_start_with_slow_polls(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stands still for seconds: how often it was tried counts, and not for how long."""
    cluster.path("lock").touch()
    seconds = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: float(next(seconds)), sleep=time.sleep)
    monkeypatch.setattr("comet.state.lock.time", clock)
    with stranger_at(cluster.path("lock")):
        lock = Lock(cluster)
        assert lock.acquire()
        lock.release()


@pytest.mark.slow
@pytest.mark.parametrize("ends", [False, True], ids=["stranger stays", "stranger ends"])
def test_a_strangers_lock_and_a_removed_file_allow_no_second_one(cluster: Cluster, ends: bool) -> None:
    with stranger_at(cluster.folder) as stranger, holding(cluster) as holder:
        cluster.path("lock").unlink()
        if ends:
            os.killpg(stranger.pid, signal.SIGKILL)
            wait_until(lambda: can_lock(cluster.folder), 5, "it is given back")
        assert Lock(cluster).holder() == holder.pid
        assert not Lock(cluster).acquire(0)
        assert Lock(cluster).holder() == holder.pid


@pytest.mark.slow
def test_the_holder_locks_the_folder_after_a_stranger(cluster: Cluster) -> None:
    lock = Lock(cluster)
    with stranger_at(cluster.folder):
        assert lock.acquire()
        assert lock.repair()
        assert lock.is_ours
    wait_until(lambda: lock.repair() and not can_lock(cluster.folder), 5, "the holder locks it")
    lock.release()


FREEZER = Path("/sys/fs/cgroup/freezer")
"""What is frozen here is killed when it is thawed (freezer of cgroup v1)."""


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[Callable[[], None]]:
    """Let a process stand still, also where it is killed, until the given function is called."""
    group = FREEZER / f"comet-test-{pid}"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(f"{pid}\n")
        (group / "freezer.state").write_text("FROZEN")
        wait_until(lambda: (group / "freezer.state").read_text() == "FROZEN\n", 5, "it stands still")
        yield lambda: [(group / "freezer.state").write_text("THAWED"), None][1]
    finally:
        (group / "freezer.state").write_text("THAWED")
        wait_until(lambda: not (group / "cgroup.procs").read_text(), 5, "it has ended")
        group.rmdir()


def no_freezer() -> str:
    return "" if os.access(FREEZER / "cgroup.procs", os.W_OK) else "a writable freezer (cgroup v1)"


@pytest.mark.slow
@pytest.mark.machine.with_args(no_freezer)
def test_a_killed_holder_that_ends_late_is_waited_for(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with holding(cluster) as holder, frozen(holder.pid) as thaw:
        assert not process_identity.is_being_killed(holder.pid)
        holder.kill()
        assert process_identity.is_being_killed(holder.pid)
        with monkeypatch.context() as patched:
            patched.setattr("comet.state.lock.DEATH_TIMEOUT", 0.2)
            assert not Lock(cluster).acquire(0)
            late = Lock(cluster).lasting_holder()
        assert late is not None
        assert (
            f"its supervisor (PID {holder.pid}) was killed, and has not"
            in already_running(cluster.folder, late).message
        )
        thawing = threading.Timer(0.5, thaw)
        thawing.start()
        lock = Lock(cluster)
        assert lock.acquire(0)
        thawing.join()
        lock.release()


def test_another_locked_file_of_this_process_is_no_cluster_lock(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    with (tmp_path / "elsewhere" / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        lock = Lock(cluster)
        assert lock.holder() is None
        assert lock.acquire(0)
        assert lock.holder() is None
        assert Lock(cluster).holder() == os.getpid()
        lock.release()


class Unlucky(Lock):
    """Its looks come just when a rival has given the lock back, and its attempts when the rival has it again."""

    def __init__(self, cluster: Cluster, rival: Lock) -> None:
        super().__init__(cluster)
        self._rival = rival

    def find_holder(self) -> Holder | None:
        self._rival.release()
        found = super().find_holder()
        self._cluster.path("lock").unlink(missing_ok=True)
        assert self._rival.acquire(0)
        return found


@pytest.mark.slow
def test_a_lock_released_and_retaken_is_not_a_strangers(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "RETRY_DURATION", 0.0)  # What ends it then is MIN_POLLS.
    rival = Lock(cluster)
    assert rival.acquire()
    cluster.path("lock").unlink()
    assert not Unlucky(cluster, rival).acquire(0)
    assert rival.is_ours
    rival.release()


class Overtaken(Lock):
    """A rival begins to acquire when this one has locked the folder and not yet the file."""

    def __init__(self, cluster: Cluster, rival: Lock) -> None:
        super().__init__(cluster)
        self._rival = rival
        self.thread: threading.Thread | None = None
        self.outcome: list[bool] = []

    def _take_file(self) -> bool:
        if self.thread is None:
            self.thread = threading.Thread(target=lambda: self.outcome.append(self._rival.acquire(0.5)))
            self.thread.start()
            self.thread.join(0.2)  # It tries again and again.
        return super()._take_file()


@pytest.mark.slow
def test_of_two_who_start_at_once_one_supervises(cluster: Cluster) -> None:
    lock = Overtaken(cluster, Lock(cluster))
    assert lock.acquire(0.1)
    assert lock.thread is not None
    lock.thread.join()
    assert lock.outcome == [False]
    lock.release()


@pytest.mark.slow
def test_one_holder_at_a_time_while_the_file_is_removed(cluster: Cluster, tmp_path: Path) -> None:
    """Each that has the lock makes a mark, which must not be there, and removes it."""
    script = (
        "import os, random, sys, time; from pathlib import Path; from comet.state.directory import Cluster; "
        "from comet.state.lock import Lock\n"
    )
    script += "folder = Path(sys.argv[1]); until = time.monotonic() + float(sys.argv[2]); had = 0\n"
    script += (
        "while time.monotonic() < until or had < 4 and time.monotonic() < until + 300:\n"
        "    lock = Lock(Cluster(folder))\n    if not lock.acquire(0.02): continue\n"
    )
    script += (
        "    os.close(os.open(folder / 'mark', os.O_CREAT | os.O_EXCL)); time.sleep(random.uniform(0, "
        "0.01)); os.unlink(folder / 'mark')\n"
    )
    script += "    had += 1; lock.release()\nprint(had)"
    rivals = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), "2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    while any(rival.poll() is None for rival in rivals):
        with contextlib.suppress(FileNotFoundError):
            cluster.path("lock").unlink()
        time.sleep(0.001)
    ends = [rival.communicate() for rival in rivals]
    assert [(rival.returncode, error) for rival, (_, error) in zip(rivals, ends, strict=True)] == [(0, "")] * 3
    assert sum(int(had) for had, _ in ends) > 10


@pytest.mark.slow
def test_a_process_is_signaled_by_pid_and_birth_or_not_at_all() -> None:
    with bystander("sleep", "60") as process:
        birth = process_identity.birth_of(process.pid)
        assert not process_identity.send(process.pid, birth - 1, signal.SIGKILL)
        for pid in (None, -1, 0, 1, -process.pid, 1 << 40):
            assert not process_identity.send(pid, birth, signal.SIGKILL)
        assert not process_identity.send(process.pid, None, signal.SIGKILL)  # Nothing says who it is.
        assert process.poll() is None
        assert process_identity.send(process.pid, birth, signal.SIGKILL)
        process.wait(60)
        assert not process_identity.send(process.pid, birth, signal.SIGKILL)


@pytest.mark.slow
def test_session_members_are_known_after_the_leaders_death() -> None:
    with bystander("sh", "-c", "sleep 60 & sleep 61 & wait") as leader:
        birth = process_identity.birth_of(leader.pid)
        left = wait_until(lambda: len(found := process_identity.members(leader.pid, birth)) == 2 and found, 5)
        assert process_identity.members(leader.pid, birth + 1) == []
        leader.kill()
        leader.wait(60)
        assert {each.pid for each in process_identity.members(leader.pid, birth)} == {each.pid for each in left}
        process_identity.end_members(leader.pid, birth, 5)
        assert process_identity.members(leader.pid, birth) == []
