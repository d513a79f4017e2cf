"""A worker that is asked to stop finishes what runs, within its grace."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from tests.support.waiting import PATIENCE, wait_until
from tests.support.workers import HELLO, Clients, Worker, counted, read_answer


def test_sigterm_finishes_what_runs(tmp_path: Path) -> None:
    clients = Clients()

    async def scenario(worker: Worker) -> None:
        load = asyncio.create_task(clients.many([worker.port], 50, 1))
        await clients.all_asked(worker, 50)
        worker.process.terminate()
        await load

    with Worker(tmp_path, faults={"avg-delay": 1000, "failure": 0, "delay-distribution": "constant"}) as worker:
        asyncio.run(scenario(worker))
        assert worker.ended() == 0
    assert dict(clients.seen) == {200: 50}
    assert clients.cut == 0
    assert counted(tmp_path / "stats.db") == (50, 0)


@pytest.mark.parametrize("again", [False, True])
def test_a_stop_does_not_wait_longer_than_its_grace(tmp_path: Path, again: bool) -> None:
    """A second signal stops at once. What was cut off is not counted."""
    clients = Clients()

    async def scenario(worker: Worker) -> float:
        load = asyncio.create_task(clients.many([worker.port], 5, 1))
        await clients.all_asked(worker, 5)
        began = time.monotonic()
        worker.process.terminate()
        if again:
            # Two signals that come before the first is handled are one.
            await asyncio.to_thread(wait_until, lambda: "stopping: " in worker.log.read_text())
            worker.process.terminate()
        await load
        return time.monotonic() - began

    with Worker(
        tmp_path, faults={"avg-delay": 60000, "failure": 0}, args=("--grace", "50" if again else "0.5")
    ) as worker:
        assert asyncio.run(scenario(worker)) < 5.0 * PATIENCE
        assert worker.ended() == 0
    assert (clients.seen.total(), clients.cut) == (0, 5)
    assert counted(tmp_path / "stats.db") == (0, 0)


def test_idle_keep_alive_clients_do_not_hold_up_a_stop(tmp_path: Path) -> None:
    with Worker(tmp_path) as worker:

        async def scenario() -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
            writer.write(HELLO)
            assert (await read_answer(reader))[0] == 200
            worker.process.terminate()
            rest = await asyncio.wait_for(reader.read(), 5 * PATIENCE)
            writer.close()
            return rest

        assert asyncio.run(scenario()) == b""
        assert worker.ended() == 0


def test_sigint_stops_too(tmp_path: Path) -> None:
    with Worker(tmp_path) as worker:
        worker.process.send_signal(signal.SIGINT)
        assert worker.ended() == 0


def test_who_waits_to_be_accepted_is_answered_too(tmp_path: Path) -> None:
    clients = Clients()

    async def scenario(worker: Worker) -> None:
        worker.process.send_signal(signal.SIGSTOP)
        load = asyncio.create_task(clients.many([worker.port], 150, 1))
        while clients.sent < 150:
            await asyncio.sleep(0.01)
        worker.process.terminate()
        worker.process.send_signal(signal.SIGCONT)
        await load

    with Worker(tmp_path) as worker:
        asyncio.run(scenario(worker))
        assert worker.ended() == 0
    assert (dict(clients.seen), clients.cut) == ({200: 150}, 0)
