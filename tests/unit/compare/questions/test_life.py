"""When a worker answers again, and what recoveries count from, without a cluster."""

import asyncio

import pytest

from comet.common.clock import iso
from comet.compare.questions import life
from comet.compare.questions.life import detection, first_answer, since_order


def test_a_probe_kept_waiting_does_not_delay_the_first_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As a published port does while its container starts: who came too early is accepted and never hears anything.
    monkeypatch.setattr(life, "PROBE_LIMIT", 600.0)
    kept: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(kept) < 3:
            kept.append(writer)
            return
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        writer.close()

    async def scene() -> float | None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        found = await life.first_answer(server.sockets[0].getsockname()[1], 60)
        server.close()
        for writer in kept:
            writer.close()
        return found

    assert asyncio.run(scene()) is not None
    assert len(kept) == 3


def test_no_answer_in_time_is_none() -> None:
    assert asyncio.run(first_answer(1, 0.05)) is None


def test_a_recovery_counts_from_the_order() -> None:
    ready = {"at": iso(1_700_000_001.0), "timeline_ms": {"died": 0.0, "noticed": 4.0, "ready": 600.0}}
    steps = since_order(ready, 1_700_000_000.25)
    assert steps == {"died": pytest.approx(150.0), "noticed": pytest.approx(154.0), "ready": pytest.approx(750.0)}
    assert detection(steps) == pytest.approx(4.0)
    assert detection({"noticed": 1.0, "ready": 2.0}) is None
    assert since_order({"at": iso(1.0)}, 0.0) == {}
