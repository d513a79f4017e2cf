"""Which peers are trusted proxies, and whose address is the client's behind them."""

import pytest

from lb.http.trust import Readers
from lb.interface.settings import Settings

PROXY = b"127.0.0.2"
TRUSTED = "127.0.0.2, 10.0.0.0/8, 2001:db8::/32"


def readers(trusted: str) -> Readers:
    return Readers(Settings(trusted_proxies=trusted), b"lb.example")


@pytest.mark.parametrize(
    ("trusted", "peer", "meant"),
    [
        ("2001:db8::/32", b"2001:db8:ffff::1", True),
        ("2001:db8::/32", b"2001:db9::1", False),
        ("::/0", b"2001:db8::1", True),
        ("::/0", b"192.0.2.1", False),
        ("0.0.0.0/0", b"2001:db8::1", False),
        ("::ffff:10.0.0.0/104", b"10.1.2.3", True),
        ("::ffff:10.0.0.0/104", b"11.1.2.3", False),
        ("::ffff:10.1.2.3", b"10.1.2.3", True),
        ("::ffff:10.1.2.3", b"10.1.2.4", False),
        ("10.1.2.3/8", b"10.9.9.9", True),
        ("fe80::1%eth0", b"fe80::1", True),
        ("", b"127.0.0.1", False),
        ("127.0.0.1", b"unknown", False),
    ],
)
def test_networks_of_both_families(trusted: str, peer: bytes, meant: bool) -> None:
    assert readers(trusted).trusts(peer) is meant


@pytest.mark.parametrize(
    ("sent", "client"),
    [
        (b"", PROXY),
        (b"192.0.2.1, ", b"192.0.2.1"),
        (b"6.6.6.6, 192.0.2.1, 10.0.0.1, ", b"192.0.2.1"),
        (b"10.0.0.2, 10.0.0.1, ", b"10.0.0.2"),
        (b"192.0.2.1,, \t,10.0.0.1, ", b"192.0.2.1"),
        # With a port, as some proxies write it.
        (b"192.0.2.1:4711, 10.0.0.1:80, ", b"192.0.2.1"),
        (b"[2001:db9::1]:4711, [2001:db8::1], ", b"2001:db9::1"),
        (b'"[2001:DB9:0::1]:4711", ', b"2001:db9::1"),
        (b"::ffff:192.0.2.1, ", b"192.0.2.1"),
        (b"fe80::1%eth0, ", b"fe80::1"),
        # What is no address: the last one known is the best there is.
        (b"unknown, ", PROXY),
        (b"192.0.2.1, _hidden, 10.0.0.1, ", b"10.0.0.1"),
        (b'192.0.2.1, x" "y\tz, ', PROXY),
        (b"\xff\xfe, 10.0.0.1, ", b"10.0.0.1"),
        (b"192.0.2.1:x, ", PROXY),
        (b"192.0.2.1]:80, ", PROXY),
        (b'fe80::1%a" "b, ', PROXY),
        (b"1" * 5000 + b", ", PROXY),
    ],
)
def test_the_client_behind_trusted_proxies(sent: bytes, client: bytes) -> None:
    prefix = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: " + sent
    assert readers(TRUSTED).client_of(PROXY, prefix) == client
