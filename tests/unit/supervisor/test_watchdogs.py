"""What a look once a second does for the disk."""

import asyncio
from pathlib import Path
from unittest import mock

import pytest

from comet.runtimes.process import exec_launcher
from comet.state.directory import Cluster
from comet.supervisor.watchdogs import POLLS_PER_TRIM, Watchdogs


@pytest.mark.parametrize("name", ["worker-0", "supervisor", "admin", "tracing"])
def test_no_log_of_a_long_run_fills_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    cluster = Cluster(tmp_path)
    cluster.create()
    monkeypatch.setattr(exec_launcher, "KEEP_LOG_BYTES", 800)
    log = cluster.path("logs", f"{name}.log")
    log.write_text("the collector refuses the connection\n" * 100)

    async def main() -> None:
        watchdogs = Watchdogs(
            asyncio.get_running_loop(), cluster, mock.Mock(), lambda: ["worker-0"], lambda event: None
        )
        for _ in range(POLLS_PER_TRIM):
            watchdogs.poll()
        while log.stat().st_size:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(main(), 10))
    assert log.with_name(f"{name}.log.1").stat().st_size == 800
