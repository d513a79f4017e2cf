"""A fuzzer for the LB with h11 as referee: `python -m tests.support.lb_fuzz SECONDS [SEED]`.

Targets in turn. Heads: what we accept, h11 accepts too and frames alike; what a template accepts is read as without it.
Chunked bodies: what we accept decodes to the same payload and the same end at every split. The whole proxy: mutated
pipelines over real sockets, while policy, ejection, drained workers and trusted proxies change at random; every byte a
worker gets must parse as requests for h11, no defect is logged, nothing stays in flight, the next honest request is
served.
"""

import contextlib
import random
import socket
import sys
import threading
import time
from collections.abc import Collection
from typing import Any

import h11

from lb.http.chunked import ChunkedReader
from lb.http.fields import REQUEST_KINDS, FieldReader, Refusal
from lb.http.request import RequestReader
from lb.http.request_head import CHUNKED
from lb.interface import messages
from lb.interface.settings import BALANCES, DRAINING, UP, Settings, UpstreamSpec
from tests.support.lb import Balancer, listening_socket
from tests.support.waiting import wait_until

METHODS = [b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"DELETE", b"CONNECT", b"PRI", b"get", b"M-SEARCH", b""]
TARGETS = [
    b"/",
    b"/a?b",
    b"*",
    b"http://h/x",
    b"http://u@h/",
    b"//x",
    b"/a#b",
    b"x",
    b"http://h:80?q",
    b"",
    b"/%00",
    b"/\xc3\xa9",
]
VERSIONS = [b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1", b"HTTP/1.10", b""]
FIELDS = [
    b"Content-Length: 5",
    b"Content-Length: 0",
    b"Content-Length: 5, 5",
    b"Content-Length: +5",
    b"content-length:5",
    b"Content-Length : 5",
    b"Content-Length: 99999999999999999999",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: Chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding:\tchunked",
    b"Transfer-Encoding\t: chunked",
    b"Transfer-Encoding: \x0bchunked",
    b'Transfer-Encoding: "chunked"',
    b"X: a\r b",
    b"X: a\nTransfer-Encoding: chunked",
    b" folded",
    b"Connection: close",
    b"Connection: keep-alive",
    b"Connection: upgrade",
    b"Upgrade: websocket",
    b"Upgrade: h2c",
    b"Connection: Content-Length, Host",
    b"Expect: 100-continue",
    b"Host: b",
    b"Host: a b",
    b"Accept: */*",
    b"Cookie: a=b; c=d",
    b"Via: 1.1 x",
    b"X-Forwarded-For: 1.2.3.4",
    b"X_Forwarded_For: 6.6.6.6",
    b"Forwarded: for=1.2.3.4;proto=https",
    b"X-Real-IP: 1.2.3.4",
    b"Cookie: comet-worker=worker-1",
    b"TE: trailers",
    b"Trailer: X-Sum",
    b"X-Empty:",
    b": x",
    b"X-Nul: \x00",
    b"X-High: \xff\xfe",
    b"Keep-Alive: 5",
]
BODIES = [
    b"",
    b"hello",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"5;x=y\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
    b"0\r\n\r\n",
    b"5\nhello\r\n0\r\n\r\n",
    b"fffffffffffffffff\r\n",
]
ODD = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"\x0b",
    b"\x7f",
    b"\x80",
    b"0",
    b"f",
    b"\r\n\r\n",
    b"chunked",
    b"Content-Length: 3\r\n",
]
FIELD_READER = FieldReader(REQUEST_KINDS)
HONEST = b"GET /honest HTTP/1.1\r\nHost: a\r\n\r\n"


def message(rng: random.Random) -> bytes:
    """Return one request, honest more often than not."""
    line = b" ".join(
        (rng.choice(METHODS[:6] if rng.random() < 0.8 else METHODS), rng.choice(TARGETS), rng.choice(VERSIONS))
    )
    fields = [b"Host: a"] if rng.random() < 0.95 else []
    fields += rng.sample(FIELDS, rng.randrange(4))
    return b"\r\n".join([line, *fields]) + b"\r\n\r\n" + rng.choice(BODIES)


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Return `data` with a few local changes."""
    for _ in range(rng.choice((0, 0, 1, 1, 2, 4))):
        at, size = rng.randrange(len(data) + 1), rng.choice((0, 0, 1, 2, 8))
        data = (
            data[:at]
            + rng.choice((rng.choice(ODD), data[at : at + 8], bytes([rng.randrange(256)])))
            + data[at + size :]
        )
    return data


def pieces(rng: random.Random, data: bytes) -> list[bytes]:
    """Return `data` cut at random."""
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((0, 1, 2, 5))))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


def referee(head: bytes) -> h11.Request | None:
    """Return how h11 reads a head, None when it refuses it."""
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    server.receive_data(head)
    try:
        event = server.next_event()
    except h11.RemoteProtocolError:
        return None
    return event if isinstance(event, h11.Request) else None


def check_head(data: bytes) -> bool:
    """Compare us with h11 on the head at the start of `data`; return whether we accept it. AssertionError:
    disagreement.
    """
    end = data.find(b"\r\n\r\n") + 4
    if end < 4:
        return False
    raw = data[:end]
    try:
        ours = RequestReader(8192, 100, b"lb").read(raw)
    except Refusal:
        return False
    theirs = referee(raw)
    assert theirs is not None, f"we accept what h11 refuses: {raw!r}"
    fields = dict(theirs.headers)
    framing = CHUNKED if b"transfer-encoding" in fields else int(fields.get(b"content-length", 0))
    assert ours.length == framing, f"framing differs: {raw!r}"
    assert ours.method == theirs.method
    sent = referee(ours.prefix + b"127.0.0.1\r\n\r\n")
    assert sent is not None, f"what we send is refused: {ours.prefix!r}"
    sent_fields = dict(sent.headers)
    assert (CHUNKED if b"transfer-encoding" in sent_fields else int(sent_fields.get(b"content-length", 0))) == framing
    return True


def check_alike(model: bytes, data: bytes) -> bool:
    """See that who knows `model` reads the head at the start of `data` as who knows nothing; return whether it was
    found alike.
    """
    knowing, knows_nothing = RequestReader(8192, 100, b"lb"), RequestReader(8192, 100, b"lb")
    raw = data[: data.find(b"\r\n\r\n") + 4]
    try:
        knowing.read(model[: model.find(b"\r\n\r\n") + 4])
    except Refusal:
        return False
    found = knowing.match_template(raw)
    if found is None:
        return False
    head, prefix = found
    theirs = knows_nothing.read(raw)  # A refusal would be a disagreement too.
    assert prefix == theirs.prefix, f"read as alike to {model!r}: {raw!r}"
    assert repr(head) == repr(theirs)
    assert (head.fast_path, head.fast_request, head.upgrades, head.expects) == (
        theirs.fast_path,
        theirs.fast_request,
        theirs.upgrades,
        theirs.expects,
    )
    return True


def check_chunked(rng: random.Random, data: bytes) -> bool:
    """Compare us with h11 on a chunked body; return whether we accept it. AssertionError: disagreement."""
    outcomes = []
    for cut in (pieces(rng, data), pieces(rng, data), [data]):
        reader, payload, refused = ChunkedReader(), b"", False
        for each in cut:
            if reader.done:
                reader.rest += each
                continue
            try:
                payload += b"".join(reader.feed(each))
                FIELD_READER.trailers(reader.trailers if reader.done else [], [])
            except Refusal:
                refused = True
                break
        outcomes.append("refused" if refused else (payload, reader.done, reader.rest))
    assert outcomes[0] == outcomes[1] == outcomes[2], f"split points matter: {data!r}"
    if outcomes[0] == "refused" or not outcomes[0][1]:
        return False
    server = h11.Connection(h11.SERVER)
    server.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    server.next_event()
    payload = b""
    try:
        while not isinstance(event := server.next_event(), h11.EndOfMessage):
            assert isinstance(event, h11.Data), f"h11 does not see the end: {data!r}"
            payload += event.data
    except h11.RemoteProtocolError as error:
        raise AssertionError(f"we accept what h11 refuses: {data!r}") from error
    assert (payload, server.trailing_data[0]) == (outcomes[0][0], outcomes[0][2]), f"payload differs: {data!r}"
    return True


class Referee:
    """A worker that reads with h11 and notes what h11 refuses."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        self.failing = 0.0  # share of the requests that are answered with 503
        self._listener = listening_socket()
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        server = h11.Connection(h11.SERVER)
        with contextlib.suppress(OSError), sock:
            while True:
                try:
                    event = server.next_event()
                except h11.RemoteProtocolError as error:
                    if "incomplete" not in str(error) and "closed" not in str(error).lower():
                        self.refused.append(f"{error}: {server.trailing_data!r}")
                    return
                if event is h11.NEED_DATA:
                    server.receive_data(sock.recv(65536))
                elif isinstance(event, h11.ConnectionClosed):
                    return
                elif isinstance(event, h11.EndOfMessage):
                    status = 503 if random.random() < self.failing else 200
                    sock.sendall(
                        server.send(h11.Response(status_code=status, headers=[("Content-Length", "2")])) or b""
                    )
                    if server._request_method != b"HEAD":
                        sock.sendall(server.send(h11.Data(data=b"ok")) or b"")
                    server.send(h11.EndOfMessage())
                    if server.our_state is h11.MUST_CLOSE or server.states[h11.CLIENT] is not h11.DONE:
                        return
                    server.start_next_cycle()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


CALM = {
    "balance": "round-robin", "eject_after_5xx": 0, "eject_error_percent": 0, "eject_max_percent": 50, "retries": 2,
    "trusted_proxies": None, "upstream_keep_alive": True, "weights": "",
}  # fmt: skip
CHOICES: dict[str, tuple[Any, ...]] = {
    "balance": tuple(BALANCES),
    "balance_key": ("address", "path", "header:X-Empty", "cookie:a"),
    "eject_after_5xx": (0, 1, 3),
    "eject_error_percent": (0, 20),
    "eject_max_percent": (0, 50, 100),
    "retries": (0, 2),
    "trusted_proxies": (None, "127.0.0.1", "10.0.0.0/8, ::1"),
    "upstream_keep_alive": (True, True, False),
    "weights": ("", "worker-1=9"),
}
"""What changes at random while requests are proxied: settings, and their values."""


class ProxyTarget:
    """An LB between the fuzzer and its referees."""

    def __init__(self) -> None:
        self.workers = [Referee() for _ in range(3)]
        # What is sent in pieces is sent without a pause. The timeouts of a whole exchange would meet an honest request
        # on a busy machine alone.
        settings = Settings(
            health_interval=600,
            linger_timeout=0.1,
            half_close_grace=0.1,
            eject_time=0.05,
            eject_interval=0.1,
            eject_min_requests=5,
        )
        self._supervisor, control = socket.socketpair()
        self.lb = Balancer(self._specs(), settings, control)
        threading.Thread(target=self._read_reports, daemon=True).start()

    def _specs(self, drained: Collection[int] = ()) -> tuple[UpstreamSpec, ...]:
        return tuple(
            UpstreamSpec(f"worker-{n}", "127.0.0.1", worker.port, DRAINING if n in drained else UP)
            for n, worker in enumerate(self.workers)
        )

    def _read_reports(self) -> None:
        with contextlib.suppress(OSError):
            while self._supervisor.recv(65536):
                pass

    def switch(self, rng: random.Random) -> None:
        """Change settings and drained workers, as a supervisor orders it."""
        chosen = {name: rng.choice(values) for name, values in CHOICES.items()}
        self._order(chosen, rng.sample(range(3), rng.randrange(3)), rng.choice((0.0, 0.0, 0.5)))

    def _order(self, settings: dict[str, Any], drained: Collection[int], failing: float) -> None:
        for worker in self.workers:
            worker.failing = failing
        for message in (messages.settings(settings), messages.upstreams(self._specs(drained))):
            self._supervisor.sendall(messages.encode(message))

    def check(self, rng: random.Random, data: bytes) -> None:
        """Send `data` in pieces, hang up in one of several ways, see that nothing stays."""
        with socket.create_connection(("127.0.0.1", self.lb.port), 10) as sock, contextlib.suppress(ConnectionError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for each in pieces(rng, data):
                sock.sendall(each)
            if rng.random() < 0.5:
                with contextlib.suppress(OSError):  # The LB may have reset it.
                    sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass
        assert self.lb.errors == [], f"{self.lb.errors} after {data!r}"
        refused = [each for worker in self.workers for each in worker.refused]
        assert refused == [], f"{refused} after {data!r}"

    def settle(self) -> None:
        """See that the LB still serves and that nothing stays. It accepts in order: after this request none of before
        is unseen.
        """
        self._order(CALM, (), 0.0)
        wait_until(self._is_calm, what="the order is carried out")
        assert self.lb.ask(HONEST).status == 200
        wait_until(
            lambda: not (self.lb.count("in_flight") or self.lb.count("connections") or self._in_flight()), what="quiet"
        )

    def _is_calm(self) -> bool:
        settings, order = self.lb.proxy.settings, self.lb.proxy.pool.order
        return {name: getattr(settings, name) for name in CALM} == CALM and all(each.state == UP for each in order)

    def _in_flight(self) -> int:
        return sum(each.in_flight for each in self.lb.proxy.pool.order)

    def close(self) -> None:
        self.lb.close()
        self._supervisor.close()
        for worker in self.workers:
            worker.close()


def run(seconds: float, seed: int) -> dict[str, int]:
    """Fuzz for so long; return how many inputs each target got and accepted."""
    rng, counts, target = (
        random.Random(seed),
        dict.fromkeys(("heads", "accepted", "alike", "chunked", "decoded", "proxied", "switched"), 0),
        ProxyTarget(),
    )
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            for _ in range(200):
                sent = message(rng)
                counts["accepted"] += check_head(mutate(rng, sent))
                counts["alike"] += check_alike(sent, mutate(rng, sent.replace(b"/", b"/x", 1)))
                counts["decoded"] += check_chunked(rng, mutate(rng, rng.choice(BODIES) + rng.choice(BODIES)))
                counts["heads"] += 1
                counts["chunked"] += 1
            for _ in range(20):
                if rng.random() < 0.5:
                    target.switch(rng)
                    counts["switched"] += 1
                target.check(rng, b"".join(mutate(rng, message(rng)) for _ in range(rng.randrange(1, 4))))
                counts["proxied"] += 1
            target.settle()
    finally:
        target.close()
    return counts


if __name__ == "__main__":
    chosen = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 32)
    print("seed", chosen, flush=True)
    print(run(float(sys.argv[1]), chosen))
