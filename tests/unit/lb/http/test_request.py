"""Request heads, rule by rule: what is refused with which status, and what an upstream is told instead of what came."""

import pytest

from lb.http.fields import Refusal
from lb.http.request import RequestReader
from lb.http.request_head import CHUNKED, RequestHead


def reader(**limits: int) -> RequestReader:
    return RequestReader(limits.get("max_line", 8192), limits.get("max_fields", 100), b"127.0.0.1:5050")


def read(*lines: bytes) -> RequestHead:
    return reader().read(b"\r\n".join(lines) + b"\r\n\r\n")


GET = b"GET / HTTP/1.1"
POST = b"POST / HTTP/1.1"
HOST = b"Host: a.example"

REFUSED = [
    # RFC 9112 section 6.3 and 6.1: framing conflicts.
    ("6.3 item 3: both codings", 400, [POST, HOST, b"Transfer-Encoding: chunked", b"Content-Length: 3"]),
    ("6.3 item 5: several lengths", 400, [POST, HOST, b"Content-Length: 3", b"Content-Length: 3"]),
    ("6.3 item 5: differing lengths", 400, [POST, HOST, b"Content-Length: 3", b"Content-Length: 4"]),
    ("6.3 item 5: list", 400, [POST, HOST, b"Content-Length: 3, 3"]),
    ("RFC 9110 8.6: plus sign", 400, [POST, HOST, b"Content-Length: +3"]),
    ("RFC 9110 8.6: minus sign", 400, [POST, HOST, b"Content-Length: -3"]),
    ("RFC 9110 8.6: hexadecimal", 400, [POST, HOST, b"Content-Length: 0x3"]),
    ("RFC 9110 8.6: underscore", 400, [POST, HOST, b"Content-Length: 1_0"]),
    ("RFC 9110 8.6: empty", 400, [POST, HOST, b"Content-Length:"]),
    ("RFC 9110 8.6: overflow of 64 bits", 400, [POST, HOST, b"Content-Length: 9223372036854775808"]),
    ("RFC 9110 8.6: absurdly long", 400, [POST, HOST, b"Content-Length: " + b"9" * 40]),
    ("RFC 9110 8.6: non-ASCII digits", 400, [POST, HOST, "Content-Length: \u0663".encode()]),
    ("6.1: unknown coding", 501, [POST, HOST, b"Transfer-Encoding: gzip"]),
    ("6.1: unknown before chunked", 501, [POST, HOST, b"Transfer-Encoding: gzip, chunked"]),
    ("6.1: xchunked", 501, [POST, HOST, b"Transfer-Encoding: xchunked"]),
    ("6.1: identity", 501, [POST, HOST, b"Transfer-Encoding: identity"]),
    ("7: parameters of a coding", 501, [POST, HOST, b"Transfer-Encoding: chunked;q=1"]),
    ("6.3 item 4: chunked not last", 400, [POST, HOST, b"Transfer-Encoding: chunked, gzip"]),
    ("6.1: chunked twice", 400, [POST, HOST, b"Transfer-Encoding: chunked, chunked"]),
    (
        "6.1: chunked twice in two fields",
        400,
        [POST, HOST, b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
    ),
    ("6.1: empty coding", 400, [POST, HOST, b"Transfer-Encoding:"]),
    ("6.1: empty list members, which some take for another coding", 400, [POST, HOST, b"Transfer-Encoding: chunked,"]),
    ("6.1: vertical tab", 400, [POST, HOST, b"Transfer-Encoding: \x0bchunked"]),
    ("6.1: Transfer-Encoding in HTTP/1.0", 400, [b"POST / HTTP/1.0", HOST, b"Transfer-Encoding: chunked"]),
    # RFC 9112 section 2.2 and 5: lines.
    ("2.2: bare CR in a value", 400, [GET, HOST, b"A: b\rc"]),
    ("2.2: bare LF in a value", 400, [GET, HOST, b"A: b\nContent-Length: 5"]),
    ("2.2: bare CR in the request line", 400, [b"GET /\r HTTP/1.1", HOST]),
    ("RFC 9110 5.5: NUL", 400, [GET, HOST, b"A: b\x00c"]),
    ("RFC 9110 5.5: DEL", 400, [GET, HOST, b"A: b\x7f"]),
    ("5.2: obs-fold", 400, [GET, HOST, b"A: b", b" c"]),
    ("5.2: obs-fold with a tab", 400, [GET, HOST, b"A: b", b"\tc"]),
    ("2.2: space before the first field", 400, [GET, b" Host: a"]),
    ("5.1: space before the colon", 400, [GET, HOST, b"Content-Length : 3"]),
    ("5.1: tab before the colon", 400, [GET, HOST, b"A\t: 3"]),
    ("RFC 9110 5.1: empty name", 400, [GET, HOST, b": 3"]),
    ("RFC 9110 5.6.2: bad name", 400, [GET, HOST, b"A(b): 3"]),
    ("RFC 9110 5.6.2: non-ASCII name", 400, [GET, HOST, b"\xc3\xa9: 3"]),
    ("5: no colon", 400, [GET, HOST, b"Transfer-Encoding chunked"]),
    # RFC 9112 section 3: the request line.
    ("3: two spaces", 400, [b"GET  / HTTP/1.1", HOST]),
    ("3: tab for space", 400, [b"GET\t/ HTTP/1.1", HOST]),
    ("3: trailing space", 400, [b"GET / HTTP/1.1 ", HOST]),
    ("3: leading space", 400, [b" GET / HTTP/1.1", HOST]),
    ("3: HTTP/0.9", 400, [b"GET /"]),
    ("3.1: bad method", 400, [b"G@T / HTTP/1.1", HOST]),
    ("2.3: lower-case version", 400, [b"GET / http/1.1", HOST]),
    ("2.3: three digits", 400, [b"GET / HTTP/1.10", HOST]),
    ("2.3: no minor", 400, [b"GET / HTTP/1", HOST]),
    ("RFC 9110 15.6.6: HTTP/2.0", 505, [b"GET / HTTP/2.0", HOST]),
    ("RFC 9113 3.4: preface of HTTP/2", 505, [b"PRI * HTTP/2.0"]),
    ("RFC 9110 9.3.6: CONNECT", 501, [b"CONNECT a.example:443 HTTP/1.1", HOST]),
    ("3.2.4: * with GET", 400, [b"GET * HTTP/1.1", HOST]),
    ("3.2: relative target", 400, [b"GET index.html HTTP/1.1", HOST]),
    ("3.2: fragment", 400, [b"GET /a#b HTTP/1.1", HOST]),
    ("3.2: non-ASCII target", 400, ["GET /\u00e9 HTTP/1.1".encode(), HOST]),
    ("RFC 9110 4.2.4: userinfo", 400, [b"GET http://user@a.example/ HTTP/1.1", HOST]),
    ("RFC 9110 4.2.1: no host", 400, [b"GET http:///path HTTP/1.1", HOST]),
    ("RFC 9110 4.2.1: no host but a port", 400, [b"GET http://:80/path HTTP/1.1", HOST]),
    ("3.2.2: other scheme", 400, [b"GET ftp://a.example/ HTTP/1.1", HOST]),
    # RFC 9112 section 3.2: Host.
    ("3.2: no Host", 400, [GET]),
    ("3.2: no Host with absolute-form", 400, [b"GET http://a.example/ HTTP/1.1"]),
    ("3.2: two Hosts", 400, [GET, HOST, HOST]),
    ("3.2: two Hosts in HTTP/1.0", 400, [b"GET / HTTP/1.0", HOST, HOST]),
    ("3.2: userinfo in Host", 400, [GET, b"Host: user@a.example"]),
    ("3.2: space in Host", 400, [GET, b"Host: a b"]),
    ("3.2: path in Host", 400, [GET, b"Host: a/b"]),
    ("3.2: list in Host", 400, [GET, b"Host: a:80:80"]),
    ("3.2: bad port", 400, [GET, b"Host: a:http"]),
    ("3.2: bad percent", 400, [GET, b"Host: a%zz"]),
    ("3.2: port beyond 16 bits", 400, [GET, b"Host: a:65536"]),
    ("RFC 9110 4.2.1: a port but no host", 400, [GET, b"Host: :80"]),
    ("RFC 3986 3.2.2: no IPv6 address", 400, [GET, b"Host: [:::::]"]),
    ("RFC 3986 3.2.2: IPv4 in brackets", 400, [GET, b"Host: [127.0.0.1]"]),
    ("3.2.2: port beyond 16 bits in absolute-form", 400, [b"GET http://a:65536/ HTTP/1.1", HOST]),
    ("3.2: open bracket", 400, [GET, b"Host: [::1"]),
    # Others.
    ("RFC 9110 10.1.1: unknown expectation", 417, [POST, HOST, b"Expect: a-pony"]),
    ("RFC 9110 7.6.1: Connection is no list of tokens", 400, [GET, HOST, b"Connection: a b"]),
]


@pytest.mark.parametrize(("rule", "status", "lines"), REFUSED, ids=[each[0] for each in REFUSED])
def test_malformed_requests_are_refused(rule: str, status: int, lines: list[bytes]) -> None:
    with pytest.raises(Refusal) as refusal:
        read(*lines)
    assert refusal.value.status == status


def test_control_characters_but_tab_are_refused_in_values() -> None:
    """RFC 9110 section 5.5."""
    for code in [*range(0x20), 0x7F]:
        if code == 0x09:
            assert b"A: x\ty\r\n" in read(GET, HOST, b"A: x\ty").prefix
        else:
            with pytest.raises(Refusal):
                read(GET, HOST, b"A: x%cy" % code)


def test_field_names_are_tokens() -> None:
    """RFC 9110 section 5.6.2."""
    allowed = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    for code in range(256):
        line = b"x%cx: 1" % code
        if bytes([code]) in allowed:
            assert line in read(GET, HOST, line).prefix
        elif code != ord(":"):
            with pytest.raises(Refusal):
                read(GET, HOST, line)


def test_limits_answer_414_and_431() -> None:
    """RFC 9112 section 3 and RFC 6585 section 5."""
    with pytest.raises(Refusal) as refusal:
        read(b"GET /" + b"a" * 8192 + b" HTTP/1.1", HOST)
    assert refusal.value.status == 414
    with pytest.raises(Refusal) as refusal:
        read(GET, HOST, *[b"A: 1"] * 100)
    assert refusal.value.status == 431
    assert read(GET, HOST, *[b"A: 1"] * 99)
    longest = b"GET /" + b"a" * (8192 - len(GET)) + b" HTTP/1.1"
    assert read(longest, HOST)
    for cut in (b"", b"\r", b"\r\n"):
        reader().check_incomplete(longest + cut, 32768)
        with pytest.raises(Refusal) as refusal:
            reader().check_incomplete(b"a" + longest + cut, 32768)
        assert refusal.value.status == 414


def test_the_forwarded_head_is_the_parsed_one() -> None:
    head = read(b"GET /a?b=c HTTP/1.1", b"hOsT:a.example:8080  ", b"Accept:  text/html\t", b"X-Empty:")
    assert head.prefix == (
        b"GET /a?b=c HTTP/1.1\r\nHost: a.example:8080\r\nAccept: text/html\r\nX-Empty: \r\n"
        b"X-Forwarded-Proto: http\r\nX-Forwarded-Host: a.example:8080\r\nVia: 1.1 comet\r\nX-Forwarded-For: "
    )


def test_forwarding_fields_are_appended_or_set() -> None:
    """docs/http.md, header fields; Via by RFC 9110 section 7.6.3."""
    head = read(
        GET,
        HOST,
        b"X-Forwarded-For: 1.1.1.1",
        b"X-Forwarded-For: 2.2.2.2",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: evil",
        b"Via: 1.0 x",
    )
    assert head.prefix.endswith(b"X-Forwarded-For: 1.1.1.1, 2.2.2.2, ")
    assert b"X-Forwarded-Proto: http\r\nX-Forwarded-Host: a.example\r\nVia: 1.0 x, 1.1 comet\r\n" in head.prefix
    assert b"evil" not in head.prefix
    assert b"https" not in head.prefix


def test_hop_by_hop_fields_are_not_forwarded() -> None:
    """RFC 9110 section 7.6.1."""
    head = read(
        GET, HOST, b"Connection: close, X-Secret", b"X-Secret: 1", b"Keep-Alive: 5", b"TE: trailers",
        b"Proxy-Connection: keep-alive",
        b"Proxy-Authorization: Basic x", b"Upgrade: websocket", b"Cookie: a=b",
    )  # fmt: skip
    for name in (b"Connection", b"X-Secret", b"Keep-Alive", b"TE:", b"Proxy", b"Upgrade"):
        assert name not in head.prefix
    assert b"Cookie: a=b\r\n" in head.prefix


@pytest.mark.parametrize("name", [b"Host", b"Content-Length", b"Via", b"X-Forwarded-For"])
def test_connection_cannot_strip_what_the_upstream_must_know(name: bytes) -> None:
    head = read(POST, HOST, b"Connection: " + name, b"Content-Length: 3", b"X-Forwarded-For: 1.1.1.1", b"Via: 1.1 x")
    assert b"Host: a.example\r\n" in head.prefix
    assert b"Content-Length: 3\r\n" in head.prefix
    assert b"Via: 1.1 x, 1.1 comet\r\n" in head.prefix
    assert head.prefix.endswith(b"X-Forwarded-For: 1.1.1.1, ")


@pytest.mark.parametrize(
    ("target", "method", "line", "host"),
    [
        (b"http://b.example/x?y", b"GET", b"GET /x?y HTTP/1.1", b"b.example"),
        (b"HTTP://b.example:81", b"GET", b"GET / HTTP/1.1", b"b.example:81"),
        (b"http://b.example?y", b"GET", b"GET /?y HTTP/1.1", b"b.example"),
        (b"http://[::1]:80/", b"GET", b"GET / HTTP/1.1", b"[::1]:80"),
        (b"http://b.example", b"OPTIONS", b"OPTIONS * HTTP/1.1", b"b.example"),
        (b"*", b"OPTIONS", b"OPTIONS * HTTP/1.1", b"a.example"),
    ],
)
def test_absolute_form_replaces_host(target: bytes, method: bytes, line: bytes, host: bytes) -> None:
    """RFC 9112 sections 3.2.2 and 3.2.4."""
    head = read(method + b" " + target + b" HTTP/1.1", HOST)
    assert head.prefix.startswith(line + b"\r\nHost: " + host + b"\r\n")
    assert b"X-Forwarded-Host: " + host + b"\r\n" in head.prefix


@pytest.mark.parametrize("host", [b"", b"a", b"a.b-c:1", b"[2001:db8::1]:8080", b"127.0.0.1", b"a:", b"%41.example"])
def test_valid_hosts(host: bytes) -> None:
    """RFC 9110 section 7.2."""
    assert b"\r\nHost: " + host + b"\r\n" in read(GET, b"Host: " + host).prefix


def test_http_1_0_without_host_gets_the_default_host() -> None:
    """RFC 9112 section 3.2: required of HTTP/1.1 only, and what we send is HTTP/1.1."""
    head = read(b"GET / HTTP/1.0")
    assert head.prefix.startswith(b"GET / HTTP/1.1\r\nHost: 127.0.0.1:5050\r\n")
    assert not head.keep_alive


@pytest.mark.parametrize(
    ("version", "connection", "keep_alive"),
    [
        (b"1.1", None, True),
        (b"1.1", b"close", False),
        (b"1.1", b"Close", False),
        (b"1.1", b"keep-alive, close", False),
        (b"1.0", None, False),
        (b"1.0", b"Keep-Alive", True),
        (b"1.0", b"keep-alive, close", False),
        (b"1.3", None, True),
    ],
)
def test_request_keep_alive(version: bytes, connection: bytes | None, keep_alive: bool) -> None:
    """RFC 9112 section 9.3, and RFC 9110 section 2.5 for higher minor versions."""
    lines = [b"GET / HTTP/" + version, HOST] + ([b"Connection: " + connection] if connection else [])
    assert read(*lines).keep_alive is keep_alive


def test_request_body_framing() -> None:
    """RFC 9112 section 6.3."""
    assert read(GET, HOST).length == 0
    assert read(POST, HOST, b"Content-Length: 007").length == 7
    assert b"Content-Length: 7\r\n" in read(POST, HOST, b"Content-Length: 007").prefix
    assert read(POST, HOST, b"Transfer-Encoding: Chunked").length == CHUNKED


def test_upgrades() -> None:
    """RFC 9110 section 7.8; h2c would carry requests past every check."""
    head = read(GET, HOST, b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: x")
    assert head.upgrades
    assert b"Connection: Upgrade\r\nUpgrade: websocket\r\n" in head.prefix  # Some peers compare the case.
    for lines in (
        [GET, HOST, b"Upgrade: websocket"],
        [GET, HOST, b"Connection: upgrade"],
        [GET, HOST, b"Connection: upgrade", b"Upgrade:"],
        [GET, HOST, b"Connection: upgrade", b"Upgrade: ,"],
        [GET, HOST, b"Connection: upgrade", b"Upgrade: , h2c"],
        [b"GET / HTTP/1.0", HOST, b"Connection: upgrade", b"Upgrade: websocket"],
        [GET, HOST, b"Connection: upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"],
    ):
        head = read(*lines)
        assert not head.upgrades
        assert b"Upgrade" not in head.prefix
        assert b"HTTP2" not in head.prefix


def test_expectations() -> None:
    """RFC 9110 section 10.1.1."""
    assert read(POST, HOST, b"Content-Length: 3", b"Expect: 100-Continue").expects
    assert b"Expect: 100-continue\r\n" in read(POST, HOST, b"Content-Length: 3", b"Expect: 100-continue").prefix
    assert not read(b"POST / HTTP/1.0", HOST, b"Content-Length: 3", b"Expect: 100-continue").expects


def test_which_methods_are_idempotent() -> None:
    """RFC 9110 section 9.2.2."""
    for method in (b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"):
        assert read(method + b" / HTTP/1.1", HOST).idempotent
    for method in (b"POST", b"PATCH", b"get", b"LOCK"):
        assert not read(method + b" / HTTP/1.1", HOST).idempotent


def test_the_head_cache_is_bounded_and_exact() -> None:
    requests = RequestReader(8192, 100, b"x", capacity=10)
    heads = [b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(100)]
    for raw in heads:
        requests.read(raw)
    assert len(requests.recent) <= 20
    assert requests.read(heads[99]) is requests.read(heads[99])  # its second and third time
    assert requests.read(heads[99].replace(b"Host", b"host")) is not requests.read(heads[99])
    long = b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"x" * 5000 + b"\r\n\r\n"
    assert requests.read(long) is not requests.read(long)


def test_repr_is_a_status_line() -> None:
    assert repr(read(GET, HOST)) == "<RequestHead GET HTTP/1.1 0 bytes keep-alive>"
    assert (
        repr(read(b"PUT / HTTP/1.1", HOST, b"Transfer-Encoding: chunked", b"Connection: close"))
        == "<RequestHead PUT HTTP/1.1 chunked close>"
    )


@pytest.mark.parametrize("method", [b"OPTIONS", b"TRACE"])
def test_max_forwards_is_decremented_and_answered_at_zero(method: bytes) -> None:
    """RFC 9110 section 7.6.2."""
    line = method + b" / HTTP/1.1"
    assert b"\r\nMax-Forwards: 2\r\n" in read(line, HOST, b"Max-Forwards: 3", b"Connection: max-forwards").prefix
    for value, status in ((b"0", 501), (b"", 400), (b"-1", 400), (b"1, 2", 400)):
        with pytest.raises(Refusal) as refusal:
            read(line, HOST, b"Max-Forwards: " + value)
        assert refusal.value.status == status
    with pytest.raises(Refusal):
        read(line, HOST, b"Max-Forwards: 3", b"Max-Forwards: 2")
    assert b"\r\nMax-Forwards: 999999999\r\n" in read(line, HOST, b"Max-Forwards: " + b"9" * 40).prefix
    assert b"\r\nMax-Forwards: 0\r\n" in read(GET, HOST, b"Max-Forwards: 0").prefix


SPOOFED = [
    b"Forwarded", b"X-Real-IP", b"X-Forwarded-Port", b"X-Forwarded-Prefix", b"X-Forwarded-Proto", b"X-Forwarded-Host",
    b"X-Forwarded-Ssl",
    b"X-Forwarded-Protocol", b"X-Forwarded-Scheme", b"X-Forwarded-Server", b"X-Forwarded-By", b"X-Forwarded-User",
    b"X-Forwarded-Uri",
    b"X-Forwarded-Client-Cert", b"X-Forwarded", b"X-Original-Forwarded-For", b"X-Scheme", b"Front-End-Https",
    b"Script-Name", b"Path-Info",
]  # fmt: skip


def mixtures(name: bytes) -> list[bytes]:
    """`name` in every mixture of hyphens and underscores and a few others, and in several cases."""
    parts = name.split(b"-")
    found = [parts[0]]
    for part in parts[1:]:
        found = [begun + separator + part for begun in found for separator in (b"-", b"_")]
    found += [name.replace(b"-", other) for other in (b".", b"~", b"'")]
    return [each for one in found for each in (one, one.lower(), one.upper(), one.swapcase())]


@pytest.mark.parametrize("name", SPOOFED)
def test_spoofed_forwarding_fields_are_dropped(name: bytes) -> None:
    """Whatever of it a service believes: also names that WSGI and CGI cannot tell from one another."""
    shared = reader()
    for each in mixtures(name):
        for line in (each + b": spoofed", each + b":spoofed", each + b": \t spoofed "):
            head = shared.read(b"\r\n".join([GET, HOST, b"A: b", line, b"C: d"]) + b"\r\n\r\n")
            assert b"spoofed" not in head.prefix, line
            assert b"A: b\r\nC: d\r\n" in head.prefix


@pytest.mark.parametrize("name", [b"X_Forwarded_For", b"X-Forwarded_For", b"x_forwarded-for", b"X.Forwarded.For"])
def test_underscore_aliases_of_forwarded_for_are_dropped(name: bytes) -> None:
    head = read(GET, HOST, name + b": 6.6.6.6", b"X-Forwarded-For: 1.1.1.1")
    assert b"6.6.6.6" not in head.prefix
    assert head.prefix.endswith(b"X-Forwarded-For: 1.1.1.1, ")


@pytest.mark.parametrize(
    "name", [b"Content_Length", b"Transfer_Encoding", b"Max_Forwards", b"X_Request_Id", b"proxy_authorization"]
)
def test_underscore_aliases_of_known_fields_are_dropped(name: bytes) -> None:
    assert b"disguised" not in read(POST, HOST, b"Content-Length: 3", name + b": disguised").prefix


def test_ordinary_names_with_underscores_pass() -> None:
    for line in (b"api_key: 1", b"User_Agent: x", b"X_Forward: y", b"X-Forwardedness: z", b"Content_Type: a"):
        assert line + b"\r\n" in read(GET, HOST, line).prefix


@pytest.mark.parametrize("line", [b"X-Forwarded-For:", b"X-Forwarded-For: \t", b"Via:"])
def test_an_empty_forwarding_field_is_ignored(line: bytes) -> None:
    head = read(GET, HOST, line, line)
    assert b"\r\nVia: 1.1 comet\r\n" in head.prefix
    assert head.prefix.endswith(b"\r\nX-Forwarded-For: ")


@pytest.mark.parametrize(
    "line",
    [b"Expect:", b"Connection:", b"Connection: , ,", b"Upgrade:", b"TE:", b"Via:", b"Host-Of-None:", b"Trailer:"],
)
def test_fields_that_are_valid_though_empty_are_accepted(line: bytes) -> None:
    """Lists may be empty (RFC 9110 section 5.6.1)."""
    head = read(GET, HOST, line)
    assert head.keep_alive
    assert not head.expects
    assert not head.upgrades


@pytest.mark.parametrize("written", [b"Upgrade", b"upgrade", b"UPGRADE", b"keep-alive, Upgrade", b"Upgrade,keep-alive"])
def test_the_upgrade_option_keeps_its_case(written: bytes) -> None:
    word = next(each.strip() for each in written.split(b",") if each.strip().lower() == b"upgrade")
    head = read(GET, HOST, b"Connection: " + written, b"Upgrade: WebSocket")
    assert b"\r\nConnection: " + word + b"\r\nUpgrade: WebSocket\r\n" in head.prefix
