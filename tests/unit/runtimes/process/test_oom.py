"""The kernel's log of what its out-of-memory killer did, as comet.host.oom_kills reads it."""

import os
import time
from pathlib import Path

import pytest

from comet.host import oom_kills
from comet.host.oom_kills import OomWatch

KILLED = (
    "3,7,{stamp},-;Memory cgroup out of memory: Killed process {pid} (lb-0) total-vm:1kB, anon-rss:1kB, "
    "UID:0 oom_score_adj:0\n"
)


def stamp(after: float = 0.0) -> str:
    """The log's time, so many seconds from now, of one length always."""
    return f"{round((time.monotonic() + after) * 1e6):016}"


class Log:
    """A pipe in the log's place: like it, it is read record by record and without waiting. `born` is when a process of
    now was made.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "kmsg"
        self.birth_of = time.clock_gettime(time.CLOCK_BOOTTIME)
        os.mkfifo(self.path)
        self.kills = OomWatch(self.path)
        self._writer = os.open(self.path, os.O_WRONLY)

    def say(self, pid: int, after: float = 0.5, text: str = KILLED) -> None:
        os.write(self._writer, text.format(stamp=stamp(after), pid=pid).encode())

    def close(self) -> None:
        self.kills.close()
        os.close(self._writer)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Log:
    # A pipe has no position.
    monkeypatch.setattr(oom_kills.os, "lseek", lambda fd, offset, whence: 0)
    monkeypatch.setattr(oom_kills, "RECORD", len(KILLED.format(stamp=stamp(), pid=1234)))
    return Log(tmp_path)


def test_a_process_that_is_in_the_log_was_ended_by_the_killer(log: Log) -> None:
    log.say(1234)
    assert not log.kills.ended(1235, log.birth_of)
    assert log.kills.ended(1234, log.birth_of)
    assert not log.kills.ended(1234, log.birth_of)  # One death each.
    log.close()


def test_an_earlier_process_of_the_same_pid_is_another_one(log: Log) -> None:
    log.say(1234, after=-60)
    assert not log.kills.ended(1234, log.birth_of)
    log.close()


@pytest.mark.parametrize(
    "text", ["6,1,2,-;Killed process {pid} (x) said somebody {stamp}\n", "garbage {stamp} {pid}\n"]
)
def test_other_words_are_not_the_killers(log: Log, text: str) -> None:
    log.say(1234, text=text)
    assert not log.kills.ended(1234, log.birth_of)
    log.close()


def test_a_containers_reached_memory_limit_is_reported_once(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "6,9,{stamp},-;oom-kill:constraint=CONSTRAINT_MEMCG,cpuset=x,"
        "oom_memcg=/pods/libpod-0a1b{pid},task_memcg=/x,pid=7,uid=0\n"
    )
    monkeypatch.setattr(oom_kills, "RECORD", len(text.format(stamp=stamp(), pid=2345)))
    log.say(2345, text=text)
    assert log.kills.last_kill_in("0a1b23456") is None
    assert log.kills.last_kill_in("0a1b2345") == pytest.approx(time.time() + 0.5, abs=5)
    assert log.kills.last_kill_in("0a1b2345") is None
    log.close()


def test_who_may_not_read_the_log_is_told_nothing(tmp_path: Path) -> None:
    kills = OomWatch(tmp_path / "nowhere")
    assert not kills.ended(1234, 0)
    kills.close()
