"""Heads alike: what a template accepts, the reader accepts too, with the same result; and what it must leave alone."""

import re
from unittest.mock import patch

import pytest

from lb.http.fields import Refusal
from lb.http.head_templates import HeadTemplates
from lb.http.request import SAMPLE_INTERVAL, RequestReader
from lb.http.request_head import RequestHead

HOST = b"Host: a.example"
MODEL = [b"GET /one?x=1 HTTP/1.1", HOST, b"User-Agent: me", b"Cookie: a=b"]
FACTS = ("method", "minor", "length", "keep_alive", "upgrades", "expects", "is_head", "idempotent")
FACTS += ("fast_path", "fast_request")


def head(*lines: bytes) -> bytes:
    return b"".join(line + b"\r\n" for line in (*lines, b""))


def taught(model: bytes) -> RequestReader:
    """A reader that knows heads like `model`."""
    reader = RequestReader(8192, 100, b"lb")
    reader.read(model)
    return reader


def read(raw: bytes) -> RequestHead | int:
    """What a reader without any memory says: a head, or the status of its refusal."""
    try:
        return RequestReader(8192, 100, b"lb").read(raw)
    except Refusal as refusal:
        return refusal.status


def agrees(reader: RequestReader, raw: bytes) -> bool:
    """Say whether a template knew `raw`, having checked that it understood what a reader does."""
    found = reader.match_template(raw)
    if found is None:
        return False
    model, prefix = found
    full = read(raw)
    assert isinstance(full, RequestHead), f"a template accepts what is refused with {full}: {raw!r}"
    assert prefix == full.prefix
    assert [getattr(model, fact) for fact in FACTS] == [getattr(full, fact) for fact in FACTS]
    return True


@pytest.mark.parametrize(
    "model",
    [
        MODEL,
        [b"GET / HTTP/1.1", HOST],
        [b"HEAD / HTTP/1.1", HOST, b"X: y"],
        [b"DELETE / HTTP/1.1", HOST, b"Connection: close"],
        [b"GET / HTTP/1.1", b"host: a.example", b"connection: keep-alive", b"accept: */*", b"sec-fetch-mode: cors"],
        [b"GET / HTTP/1.1", b"X: y", b"Accept: */*", HOST, b"Cookie: a"],
        [b"GET / HTTP/1.1", HOST, b"X: y", b"Via: 1.1 p", b"X-Forwarded-For: 1.2.3.4", b"Z: y"],
        [b"POST / HTTP/1.1", HOST, b"X: y", b"Content-Length: 5", b"Z: y"],
        [b"POST / HTTP/1.1", HOST, b"Transfer-Encoding: chunked", b"Z: y"],
        [b"POST / HTTP/1.1", HOST, b"Content-Length: 5", b"Expect: 100-continue"],
        [b"GET / HTTP/1.1", HOST, b"Connection: upgrade", b"Upgrade: websocket", b"X: y"],
        [b"GET / HTTP/1.1", HOST, b"TE: trailers", b"X: y", b"X: z"],
    ],
)
def test_a_matching_head_is_parsed_like_its_model(model: list[bytes]) -> None:
    reader = taught(head(*model))
    line, *fields = model
    method, _, version = line.split(b" ")
    assert agrees(reader, head(*model))
    assert agrees(reader, head(b" ".join((method, b"/else/where?a=b&c=%20", version)), *fields))
    assert agrees(
        reader,
        head(line, *(field[:-1] + b"w" if field[:1] in b"XZ" and b"For" not in field else field for field in fields)),
    )


@pytest.mark.parametrize(
    "model",
    [
        [b"GET / HTTP/1.0", HOST],
        [b"GET http://b.example/ HTTP/1.1", HOST],
        [b"OPTIONS * HTTP/1.1", HOST],
        [b"GET / HTTP/1.1", HOST, b"X:y"],
        [b"GET / HTTP/1.1", HOST, b"X: "],
        [b"GET / HTTP/1.1", HOST, b"Connection: X", b"X: y"],  # RFC 9110 section 7.6.1: X is not sent on
    ],
)
def test_a_head_that_is_rewritten_makes_no_template(model: list[bytes]) -> None:
    assert taught(head(*model)).match_template(head(*model)) is None


@pytest.mark.parametrize(
    ("was", "now"),
    [
        (b"a=b", b"a\rb"),
        (b"a=b", b"a\nb"),
        (b"a=b", b"a\x00b"),
        (b"a=b", b"a\x7fb"),
        (b"a=b", b"\r\n folded"),
        (b"a=b", b"a=b\r\nTransfer-Encoding: chunked"),
        (b"a=b", b"a=b\r\n\r\nGET /two HTTP/1.1"),
        (b"a=b", b"a=b "),
        (b"a=b", b" a=b"),
        (b"a=b", b"\ta=b"),
        (b"a=b", b"a=b\t"),
        (b"a=b", b"\r"),
        (b"a=b", b"\r\n"),
        (b"a=b", b""),
        (b"Cookie: ", b"Cookie : "),
        (b"Cookie: ", b"Cookie:"),
        (b"Cookie", b"Content-Length"),
        (b"Cookie", b"cookie"),
        (b"/one", b"/o ne"),
        (b"/one", b"/o#ne"),
        (b"/one", b"/\xc3\xa9"),
        (b"/one", b"http://b/one"),
        (b"/one", b"*"),
        (b"GET", b"HEAD"),
        (b"1.1", b"1.0"),
        (b"a.example", b"b.example"),
        (b"a.example", b"a.example\r\nHost: b"),
        (b"\r\n\r\n", b"\r\n"),
        (b"\r\n\r\n", b"\r\n\r\n\r\n"),
    ],
)
def test_a_head_that_does_not_match_is_parsed_in_full(was: bytes, now: bytes) -> None:
    raw = head(*MODEL)
    assert raw.count(was) >= 1
    assert taught(raw).match_template(raw.replace(was, now, 1)) is None


def test_templates_accept_high_bytes_in_values() -> None:
    raw = head(*MODEL)
    assert agrees(taught(raw), raw.replace(b"a=b", b"\xc3\xa9"))


def test_repeated_heads_are_cached() -> None:
    reader = taught(head(*MODEL))
    raw = head(b"GET /again HTTP/1.1", *MODEL[1:])
    for _ in range(2 * SAMPLE_INTERVAL):
        assert reader.recent.recall(raw) is None
        reader.head_and_prefix(raw)
    remembered = reader.recent.recall(raw)
    assert remembered is not None
    assert remembered.prefix == RequestReader(8192, 100, b"lb").read(raw).prefix
    assert remembered.size == len(raw)


def test_limits_apply_to_matching_heads() -> None:
    reader = taught(head(*MODEL))
    with pytest.raises(Refusal) as refused:
        reader.head_and_prefix(head(b"GET /" + b"x" * 9000 + b" HTTP/1.1", *MODEL[1:]))
    assert refused.value.status == 414
    reader.set_limits(8192, 2, 32768)
    with pytest.raises(Refusal) as refused:
        reader.head_and_prefix(head(*MODEL))
    assert refused.value.status == 431


def test_the_number_of_templates_is_bounded() -> None:
    """Compiling costs much more than reading: whoever sends names that never return must not make it happen often."""
    reader = RequestReader(8192, 100, b"lb")
    with patch("lb.http.head_templates.re.compile", wraps=re.compile) as compiled:
        for n in range(10 * HeadTemplates.LEARN_INTERVAL):
            reader.read(head(b"GET / HTTP/1.1", HOST, b"X-%d: y" % n))
    assert compiled.call_count == 10
    assert (
        sum(
            reader.match_template(head(b"GET / HTTP/1.1", HOST, b"X-%d: z" % n)) is not None
            for n in range(10 * HeadTemplates.LEARN_INTERVAL)
        )
        == HeadTemplates.CAPACITY
    )


@pytest.mark.slow
def test_the_latest_of_the_templates_in_use_are_kept() -> None:
    reader = taught(head(*MODEL))
    for n in range(10 * HeadTemplates.LEARN_INTERVAL):
        reader.read(head(b"GET / HTTP/1.1", HOST, b"X-%d: y" % n))
        assert agrees(reader, head(b"GET /%d HTTP/1.1" % n, *MODEL[1:]))


@pytest.mark.parametrize(("max_head", "known"), [(100, False), (1000, True)])
def test_a_matching_head_has_the_same_size_limit(max_head: int, known: bool) -> None:
    reader = RequestReader(8192, 100, b"lb", max_head=max_head)
    short, long = (b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"x" * size + b"\r\n\r\n" for size in (10, 100))
    reader.read(short)
    assert reader.match_template(short) is not None
    assert (reader.match_template(long) is not None) == known
