"""What `bench.sh lb` makes of its measurements."""

import pytest

from scripts.bench.cases import Case
from scripts.bench.lb import VERDICT, Series, _verdict
from scripts.bench.wrk import Burst

BURST = Burst(100, 0.1, 1000, 0, 0, 0, 0, 0, 1000, 2000, 3000)


@pytest.mark.parametrize(("kernel", "alone"), [([0.0], None), ([5.0], 0.25)])
def test_a_burst_too_short_for_the_kernels_clock_has_a_verdict(kernel: list[float], alone: float | None) -> None:
    of = {
        "comet": Series([BURST], [10.0], kernel, [1]),
        "nginx": Series([BURST], [20.0], [0.0], [1]),
    }
    found = dict(zip(VERDICT, _verdict(Case("c1", "one connection", "", goal=0.9), of), strict=True))
    assert found["kernel alone"] == alone
    assert (found["best rival"], found["ratio"], found["met"], found["p99 ratio"]) == ("nginx", 0.5, "yes", 1.0)
