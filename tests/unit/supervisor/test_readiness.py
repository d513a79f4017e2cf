"""The prober, with answers made up by the test."""

import asyncio
import threading
from typing import Any

import pytest

from comet.reconcile.observations import NotReady, Ready
from comet.supervisor import readiness
from comet.supervisor.readiness import ReadinessProbe


def test_an_answer_from_a_former_place_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that moves keeps its instance: what answers where it was says nothing of where it is."""
    asked, go = threading.Event(), threading.Event()
    heard: list[Any] = []

    def probe(url: str, timeout: float, host: str | None = None, statuses: str = "") -> Ready | NotReady:
        if url == "http://there":
            return NotReady("connection refused")
        asked.set()
        go.wait(120)
        return Ready()

    async def play() -> None:
        prober = ReadinessProbe(asyncio.get_running_loop(), lambda *news: heard.append(news), 1.0)
        prober.watch("worker-0", 1, "http://here")
        await asyncio.to_thread(asked.wait, 120)
        prober.watch("worker-0", 1, "http://there")
        go.set()
        while not heard:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert heard == [("worker-0", 1, NotReady("connection refused"))]
        prober.watch("worker-0", 1, "http://elsewhere")
        while len(heard) < 2:
            await asyncio.sleep(0.01)
        prober.close()

    monkeypatch.setattr(readiness, "probe", probe)
    asyncio.run(asyncio.wait_for(play(), 120))
    assert heard[1:] == [("worker-0", 1, Ready())]
