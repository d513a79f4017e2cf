"""A short run of the fuzzer, and properties by hypothesis. `python -m tests.lb.fuzz 600` is the long run."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lb.chunked import ChunkedReader, frame, last
from lb.request import RequestReader
from tests.lb import fuzz
from tests.lb.harness import WorkerConnection, cluster, response


@pytest.mark.slow
def test_fuzz_for_a_moment() -> None:
    counts = fuzz.run(5.0, 20261123)
    assert counts["accepted"] > counts["heads"] / 20  # The mutations leave enough that is understood.
    assert counts["alike"] > counts["heads"] / 100
    assert counts["decoded"] > counts["chunked"] / 20
    assert counts["proxied"] > 0


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.randoms(use_true_random=False))
def test_what_is_framed_decodes_to_itself(payloads: list[bytes], rng: random.Random) -> None:
    data = b"".join(b"".join(frame([each])) for each in payloads) + last([b"X-Sum: 1"])
    reader, seen = ChunkedReader(), b""
    for piece in fuzz.pieces(rng, data):
        seen += b"".join(reader.feed(piece))
    assert reader.done
    assert seen == b"".join(payloads)


TOKEN = st.text("!#$%&'*+-.^_`|~0123456789abcXYZ", min_size=1, max_size=12)
VALUE = st.text([chr(code) for code in range(0x21, 0x7F)], max_size=20)


@given(st.lists(st.tuples(TOKEN, VALUE), max_size=10))
def test_ordinary_fields_pass_in_order_and_unchanged(fields: list[tuple[str, str]]) -> None:
    lines = [f"x-{name}: {value}".encode() for name, value in fields]
    head = RequestReader(8192, 100, b"lb").read(b"\r\n".join([b"GET / HTTP/1.1", b"Host: a", *lines]) + b"\r\n\r\n")
    seen = [line for line in head.prefix.split(b"\r\n") if line.startswith(b"x-")]
    assert seen == [line for line in lines if not line.lower().startswith(b"x-forwarded-")]


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_random_bytes_are_judged_without_a_crash(data: bytes) -> None:
    fuzz.check_head(data + b"\r\n\r\n")
    fuzz.check_chunked(random.Random(0), data)


@pytest.mark.slow
def test_honest_pipelines_survive_every_cut() -> None:
    def echo(connection: WorkerConnection, request: bytes) -> None:
        head, _, body = request.partition(b"\r\n\r\n")
        connection.send(response(head.split(b" ")[1] + b" " + body))

    rng = random.Random(7)
    with cluster(echo, echo) as (lb, _):
        for _ in range(60):
            wanted, data = [], b""
            for n in range(rng.randrange(1, 6)):
                body = bytes(rng.randrange(256) for _ in range(rng.choice((0, 1, 10, 3000))))
                data += b"PUT /%d HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (n, len(body)) + body
                wanted.append(b"/%d " % n + body)
            with lb.connect() as client:
                for piece in fuzz.pieces(rng, data):
                    client.send(piece)
                assert [client.answer("PUT").body for _ in wanted] == wanted
