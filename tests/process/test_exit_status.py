"""How a process has ended is known at once, also where its parent is too busy to say so."""

import asyncio
import os
import signal
import subprocess
import sys
from unittest.mock import Mock

from comet.reconcile.observations import Exit, Exited, Observation
from comet.runtimes.process.driver import Launched, ProcessDriver
from tests.support.fakes import spec
from tests.support.waiting import PATIENCE

PARENT = """
import os, time
child = os.fork()
if child:
    print(child, flush=True)
time.sleep(1000)
"""
"""It never asks how its child has ended."""


async def end_of_child(pid: int, status_fd: int) -> Exit:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Exit] = loop.create_future()

    def sink(name: str, instance: int | None, observation: Observation) -> None:
        if isinstance(observation, Exited):
            ended.set_result(observation.exit)

    driver = ProcessDriver(loop, sink, Mock())
    try:
        driver.watch(spec("lb-0"), 1, Launched(pid, lambda: None, status_fd))
        os.kill(pid, signal.SIGKILL)
        return await asyncio.wait_for(ended, 10 * PATIENCE)
    finally:
        driver.close()


def test_a_busy_parent_hides_no_exit_status() -> None:
    silent, never_written = os.pipe()
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            found = asyncio.run(end_of_child(int(parent.stdout.readline()), silent))
        finally:
            parent.kill()
    os.close(silent)
    os.close(never_written)
    assert (found.code, found.signal) == (-signal.SIGKILL, "SIGKILL")
