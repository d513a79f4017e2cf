"""What is read from the load generator, and that a stall is in it."""

import pytest

from scripts.bench.proc import BenchError
from scripts.bench.wrk import parse

REPORTED = """Running 6s test @ http://127.0.0.1:1/
  Socket errors: connect 0, read 3, write 0, timeout 0
@@{"requests":300,"seconds":1.5,"bytes":9000,"refused":1,"read":3,"write":0,"status":5,"timeout":2,"p50_us":10,"p99_us":20,"p999_us":30}
"""


def test_every_kind_of_error_is_counted() -> None:
    burst = parse(REPORTED)
    assert (burst.requests, burst.rate, burst.errors) == (300, 200.0, 11)


def test_silence_is_an_error_and_not_a_result() -> None:
    with pytest.raises(BenchError, match="unable to connect"):
        parse("unable to connect to 127.0.0.1:1 Connection refused")
