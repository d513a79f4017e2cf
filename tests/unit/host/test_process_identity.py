"""How a process is known again: by a time of birth that no setting of the wall clock moves."""

import os
import subprocess
import sys

import psutil
import pytest

from comet.host.process_identity import birth_of, is_alive


def test_a_process_is_known_again_after_the_wall_clock_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    birth = birth_of(os.getpid())
    # The kernel's boot time is the wall clock less the time since boot: it jumps as the wall clock does.
    boot = psutil.boot_time()
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: boot - 3600.0)
    assert birth_of(os.getpid()) == birth
    assert is_alive(os.getpid(), birth)


@pytest.mark.slow
def test_another_process_under_the_same_pid_is_another_one() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        birth = birth_of(child.pid)
        assert is_alive(child.pid, birth)
        assert not is_alive(child.pid, birth - 1)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not is_alive(child.pid, birth)  # A zombie is dead.
    with pytest.raises(ProcessLookupError):
        birth_of(child.pid)
