"""The kernel's log of what its out-of-memory killer did, as comet.drivers.oomkills reads it."""

import os
import time
from pathlib import Path

import pytest

from comet.drivers import oomkills
from comet.drivers.oomkills import OomKills

KILLED = "3,7,{stamp},-;Memory cgroup out of memory: Killed process {pid} (lb-0) total-vm:1kB, anon-rss:1kB, UID:0 oom_score_adj:0\n"


class Log:
    """A pipe in the log's place: like it, it is read record by record and without waiting. `born` is when a process of now was made."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "kmsg"
        self.born = time.clock_gettime(time.CLOCK_BOOTTIME)
        os.mkfifo(self.path)
        self.kills = OomKills(self.path)
        self._writer = os.open(self.path, os.O_WRONLY)

    def say(self, pid: int, after: float = 0.5, text: str = KILLED) -> None:
        os.write(self._writer, text.format(stamp=round((time.monotonic() + after) * 1e6), pid=pid).encode())

    def close(self) -> None:
        self.kills.close()
        os.close(self._writer)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Log:
    # A pipe has no position.
    monkeypatch.setattr(oomkills.os, "lseek", lambda fd, offset, whence: 0)
    monkeypatch.setattr(oomkills, "RECORD", len(KILLED.format(stamp=round(time.monotonic() * 1e6), pid=1234)))
    return Log(tmp_path)


def test_a_process_that_is_in_the_log_was_ended_by_the_killer(log: Log) -> None:
    log.say(1234)
    assert not log.kills.ended(1235, log.born)
    assert log.kills.ended(1234, log.born)
    assert not log.kills.ended(1234, log.born)  # One death each.
    log.close()


def test_an_earlier_process_of_the_same_pid_is_another_one(log: Log) -> None:
    log.say(1234, after=-60)
    assert not log.kills.ended(1234, log.born)
    log.close()


@pytest.mark.parametrize("text", ["6,1,2,-;Killed process {pid} (x) said somebody {stamp}\n", "garbage {stamp} {pid}\n"])
def test_other_words_are_not_the_killers(log: Log, text: str) -> None:
    log.say(1234, text=text)
    assert not log.kills.ended(1234, log.born)
    log.close()


def test_who_may_not_read_the_log_is_told_nothing(tmp_path: Path) -> None:
    kills = OomKills(tmp_path / "nowhere")
    assert not kills.ended(1234, 0)
    kills.close()
