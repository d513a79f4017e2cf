"""What limited a cell of the table is read from its figures."""

import pytest

from scripts.bench.inflight import Shot, limited_by
from scripts.bench.wrk import Burst


def shot(requests: int, busy: float = 0.5, workers_cpu: float = 1.0, clients: int = 500) -> Shot:
    burst = Burst(requests, 10.0, 0, 0, 0, 0, 0, 0, 500_000, 510_000, 520_000)
    return Shot(clients, 2, [burst], requests / 10.0, 10.0, {"workers": workers_cpu, "LBs": 1.0, "generators": 0.5}, busy, 60.0)


def test_limits_of_delay_and_of_processor_time() -> None:
    by_delay, by_cpu = shot(10_000, workers_cpu=2.5).limits(cores=2)
    assert by_delay == pytest.approx(1000.0)  # 500 clients, two requests a second each
    assert by_cpu == pytest.approx(5000.0)  # 4 s for 10,000 requests: 400 us each, on two cores


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (shot(9_600), "the delay"),
        (shot(5_000, busy=0.99, workers_cpu=10.0), "the machine's CPU"),
        (shot(5_000, busy=0.99, workers_cpu=19.0), "a core per process: workers"),
        (shot(5_000, busy=0.3), "waiting"),
    ],
)
def test_what_limited(of: Shot, said: str) -> None:
    assert limited_by(of, cores=2).startswith(said)
