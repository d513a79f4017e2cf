"""A short run of the fuzzer, and properties by hypothesis. `python -m tests.support.lb_fuzz 600` is the long run."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lb.http.chunked import ChunkedReader, frame, last
from lb.http.fields import Refusal
from lb.http.request import RequestReader
from tests.support import lb_fuzz as fuzz
from tests.unit.lb.http.test_head_templates import MODEL, agrees, head, taught

pytestmark = pytest.mark.slow  # Random input, and much of it.


@settings(deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.randoms(use_true_random=False))
def test_chunked_encoding_round_trips(payloads: list[bytes], rng: random.Random) -> None:
    data = b"".join(b"".join(frame([each])) for each in payloads) + last([b"X-Sum: 1"])
    reader, seen = ChunkedReader(), b""
    for piece in fuzz.pieces(rng, data):
        seen += b"".join(reader.feed(piece))
    assert reader.done
    assert seen == b"".join(payloads)


TOKEN = st.text("!#$%&'*+-.^_`|~0123456789abcXYZ", min_size=1, max_size=12)
VALUE = st.text([chr(code) for code in range(0x21, 0x7F)], max_size=20)


@settings(deadline=None)
@given(st.lists(st.tuples(TOKEN, VALUE), max_size=10))
def test_ordinary_fields_pass_in_order_and_unchanged(fields: list[tuple[str, str]]) -> None:
    lines = [f"x-{name}: {value}".encode() for name, value in fields]
    head = RequestReader(8192, 100, b"lb").read(b"\r\n".join([b"GET / HTTP/1.1", b"Host: a", *lines]) + b"\r\n\r\n")
    seen = [line for line in head.prefix.split(b"\r\n") if line.startswith(b"x-")]
    assert seen == [line for line in lines if not line.lower().startswith(b"x-forwarded-")]


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_random_bytes_never_crash_the_parser(data: bytes) -> None:
    assert fuzz.check_head(data + b"\r\n\r\n") or status_of_refusal(data + b"\r\n\r\n") in range(400, 600)
    assert fuzz.check_chunked(random.Random(0), data) or data != last([])


def status_of_refusal(data: bytes) -> int:
    with pytest.raises(Refusal) as caught:
        RequestReader(8192, 100, b"lb").read(data[: data.index(b"\r\n\r\n") + 4])
    return caught.value.status


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 80),
    st.integers(0, 12),
    st.binary(max_size=6) | st.sampled_from([b"\r\n", b": ", b"\t", b"\r\nVia: x"]),
)
def test_head_templates_and_the_parser_agree_on_changed_bytes(at: int, size: int, new: bytes) -> None:
    raw = head(*MODEL)
    changed = raw[:at] + new + raw[at + size :]
    assert agrees(taught(raw), changed) or taught(raw).match_template(changed) is None
