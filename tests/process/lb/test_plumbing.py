"""Settings, messages, counters, replies and the wheel: the small parts."""

import asyncio
from time import monotonic

from lb.proxy.deadlines import TimerWheel
from tests.unit.lb.test_plumbing import Entry


def test_the_timer_wheel_expires_once_within_a_tick() -> None:
    async def scenario() -> None:
        wheel = TimerWheel(asyncio.get_running_loop(), 0.3)
        now = monotonic()
        soon, moved, removed, hastened = Entry(now + 0.05), Entry(now + 0.05), Entry(now + 0.05), Entry(now + 5)
        for entry in (soon, moved, removed, hastened):
            wheel.add(entry, now)
        moved.deadline = now + 0.4
        wheel.remove(removed)
        hastened.deadline = now + 0.1
        wheel.schedule_earlier(hastened, now)
        while not moved.expired:
            await asyncio.sleep(0.01)
            assert monotonic() < now + 5
        assert monotonic() >= now + 0.4
        assert (soon.expired, hastened.expired, removed.expired) == (1, 1, 0)
        wheel.close()

    asyncio.run(scenario())
