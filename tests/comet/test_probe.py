"""The prober, with answers made up by the test."""

import asyncio
import threading
from typing import Any

import pytest

from comet import probe
from comet.observation import Ready
from comet.probe import Prober


def test_an_answer_from_a_former_place_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that moves keeps its instance: what answers where it was says nothing of where it is."""
    asked, go = threading.Event(), threading.Event()
    heard: list[Any] = []

    def answers(url: str, timeout: float) -> Ready | None:
        if url == "http://there":
            return None
        asked.set()
        go.wait(5)
        return Ready()

    async def play() -> None:
        prober = Prober(asyncio.get_running_loop(), lambda *news: heard.append(news), 1.0)
        prober.watch("worker-0", 1, "http://here")
        await asyncio.to_thread(asked.wait, 5)
        prober.watch("worker-0", 1, "http://there")
        go.set()
        await asyncio.sleep(0.2)
        assert heard == []
        prober.watch("worker-0", 1, "http://elsewhere")
        while not heard:
            await asyncio.sleep(0.01)
        prober.close()

    monkeypatch.setattr(probe, "answers", answers)
    asyncio.run(asyncio.wait_for(play(), 10))
    assert heard == [("worker-0", 1, Ready())]
