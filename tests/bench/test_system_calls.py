"""System calls of a process, counted by strace for `bench.sh lb --calls`."""

import subprocess
import sys

import pytest

from scripts.bench import system_calls

SCRIPT = """
import os, sys
print("ready", flush=True)
for line in sys.stdin:
    for _ in range(500):
        os.getppid()
    print("done", flush=True)
"""


@pytest.mark.program("strace")
def test_calls_of_a_block_are_counted_and_no_others() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def run() -> None:
            process.stdin.write("\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            assert process.stdout.readline().strip() == "done"  # type: ignore[union-attr]

        process.stdout.readline()
        run()
        with system_calls.counted(process.pid) as calls:
            run()
        run()
        process.stdin.close()
    assert calls["getppid"] == 500
    assert system_calls.shown(calls, 250).startswith("getppid 2.00")
