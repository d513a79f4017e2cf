"""Settings, messages, counters, replies and the wheel: the small parts."""

import asyncio
import json
import os
import pickle
from dataclasses import asdict
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from lb.http.error_responses import REASONS, error_response
from lb.http.fields import MAX_NAMES, Recent, Refusal
from lb.http.request import MAX_HOSTS, RequestReader
from lb.http.request_head import CHUNKED
from lb.http.trust import client_address
from lb.interface import counters, messages
from lb.interface.counters import Counters, latency_bucket
from lb.interface.settings import Settings, UpstreamSpec, changed
from lb.proxy.deadlines import TimerWheel
from lb.proxy.request_body import MAX_HELD, RequestBody
from tests.support.latency import latency_bound


def test_settings_survive_pickle_and_json() -> None:
    settings = Settings(name="lb-3", max_in_flight=7)
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert Settings(**json.loads(json.dumps(asdict(settings)))) == settings


def test_a_live_change_ignores_unknown_keys_and_keeps_the_name() -> None:
    assert changed(Settings(), {"retries": 5, "name": "x", "of_tomorrow": 1}) == Settings(retries=5)


def test_control_messages_split_anywhere_are_decoded() -> None:
    spec = UpstreamSpec("w", "h", 1, "draining", "/up")
    sent = [messages.ping(1), messages.drain(2.5), messages.upstreams([spec], 4), messages.listener()]
    data = b"".join(map(messages.encode, sent)) + b"\n"
    for step in (1, 3, len(data)):
        decoder = messages.Decoder()
        assert [each for at in range(0, len(data), step) for each in decoder.feed(data[at : at + step])] == sent
    assert messages.read_upstreams(sent[2]) == ((spec,), 4)


@pytest.mark.parametrize("line", [b"[]\n", b"{}\n", b"nonsense\n", b'{"type":1}\n', b"\xff\n"])
def test_broken_messages_are_value_errors(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's own is a subclass
        messages.Decoder().feed(line)


def test_oversized_and_malformed_messages_are_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        messages.Decoder().feed(b"x" * (messages.MAX_LINE + 1))
    with pytest.raises(ValueError, match="state"):
        messages.read_upstreams({"upstreams": [{"name": "w", "host": "h", "port": 1, "state": "sideways"}]})
    with pytest.raises(ValueError, match="invalid health path"):
        messages.read_upstreams({"upstreams": [{"name": "w", "host": "h", "port": 1, "health_path": "up"}]})


def test_status_report() -> None:
    report = messages.status_report(7, Settings(), [(UpstreamSpec("w", "h", 1), False, "3 errors")], 3, True)
    expected = {"name": "w", "host": "h", "port": 1, "state": "up", "health_path": None, "health_host": None}
    assert report["upstreams"] == [expected | {"healthy": False, "ejected": "3 errors"}]
    assert (report["pid"], report["in_flight"], report["draining"], report["name"]) == (7, 3, True, "lb-0")
    assert report["settings"]["retries"] == 2


def test_counters_outlive_their_writer_and_gauges_do_not(tmp_path: Path) -> None:
    path = tmp_path / "lb-0.counters"
    first = Counters(path)
    first.slots[counters.REQUESTS] += 5
    first.slots[counters.IN_FLIGHT] = 2
    assert counters.read_counters(path).totals()["requests"] == 5
    assert counters.read_counters(path).totals()["in_flight"] == 2
    first.close()
    second = Counters(path)
    second.slots[counters.REQUESTS] += 1
    assert counters.read_counters(path).totals()["requests"] == 6
    assert counters.read_counters(path).totals()["in_flight"] == 0
    assert second.as_dict() == counters.read_counters(path).totals()


@pytest.mark.parametrize("version", ["0.2.0", "0.6.0"])
def test_counter_files_of_the_older_layouts_go_on_counting(tmp_path: Path, version: str) -> None:
    """Until 0.2.0 there is no slot for tunnels, until 0.6.0 a block has no slots for what was injected."""
    path = tmp_path / "lb-0.counters"
    first = Counters(path)
    first.slots[counters.REQUESTS] += 5
    first.slots[counters.LATENCY + 7] += 5
    for name in ("worker-0", "worker-1"):
        first.edge(name)[2] += 5
    first.close()
    data, at, end = path.read_bytes(), 16 + 8 * counters.TUNNELS, 16 + 8 * len(counters.FIELDS)
    block = counters.NAME_BYTES + 8 * counters.EDGE_SLOTS
    blocks = b"".join(data[start : start + block - 16] for start in range(end, len(data), block))
    without = 8 if version == "0.2.0" else 0
    slots = int.from_bytes(data[8:16], "little") - bool(without)
    path.write_bytes(data[:8] + slots.to_bytes(8, "little") + data[16:at] + data[at + without : end] + blocks)
    expected = {"requests": 5, "latency_7": 5, "responses_2xx": 10, "tunnels": 0}
    seen = counters.read_counters(path).totals()
    assert {name: seen[name] for name in expected} == expected
    assert counters.read_counters(path).edges()["worker-1"][2] == 5
    second = Counters(path)
    second.slots[counters.REQUESTS] += 1
    second.edge("worker-1")[2] += 1
    assert counters.read_counters(path).totals()["requests"] == 6
    assert counters.read_counters(path).edges()["worker-1"][2] == 6
    assert path.stat().st_size == len(data)


def test_counts_per_upstream_add_up(tmp_path: Path) -> None:
    path = tmp_path / "lb-0.counters"
    first = Counters(path)
    for name, amount in (("worker-0", 3), ("worker-1", 4), ("", 1)):
        edge = first.edge(name)
        edge[2] += amount
        edge[counters.EDGE_LATENCY + 5] += amount
        edge[counters.EDGE_IN_FLIGHT] = amount
    first.slots[counters.RESPONSES + 2] += 10
    first.close()
    second = Counters(path)
    second.edge("worker-1")[2] += 1
    seen = counters.read_counters(path)
    assert {name: edge[2] for name, edge in seen.edges().items()} == {"": 1, "worker-0": 3, "worker-1": 5}
    assert {edge[counters.EDGE_IN_FLIGHT] for edge in seen.edges().values()} == {0}
    assert (seen.totals()["responses_2xx"], seen.totals()["latency_5"]) == (19, 8)
    assert second.as_dict() == seen.totals()
    second.close()


def test_upstreams_beyond_the_room_share_a_block() -> None:
    counted = Counters()
    for number in range(counters.EDGES + 10):
        counted.edge(f"worker-{number}")[2] += 1
    assert counted.as_dict()["responses_2xx"] == counters.EDGES + 10
    counted.close()


def test_counters_space_is_reserved(tmp_path: Path) -> None:
    """DESIGN section 8: a sparse mapping gets SIGBUS on a full disk."""
    path = tmp_path / "c"
    Counters(path)
    assert os.stat(path).st_blocks * 512 >= os.stat(path).st_size > 0


def test_a_foreign_counter_file_is_replaced_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="not a counters file"):
        counters.read_counters(path).totals()
    Counters(path)
    assert counters.read_counters(path).totals()["requests"] == 0


def test_latency_buckets() -> None:
    assert latency_bucket(0) == latency_bucket(1) == 0
    assert latency_bucket(10**15) == counters.LATENCY_BUCKETS - 1
    assert latency_bound(counters.LATENCY_BUCKETS - 1) == inf
    for micros in (10, 1230, 500_000, 30_000_000):
        bucket = latency_bucket(micros)
        assert latency_bound(bucket - 1) <= micros / 1e6 < latency_bound(bucket)
        assert latency_bound(bucket) / latency_bound(bucket - 1) < 1.2


def test_the_latency_table_equals_the_logarithm() -> None:
    assert len(counters.LATENCY_TABLE) == 65536
    assert list(counters.LATENCY_TABLE) == [latency_bucket(micros) for micros in range(65536)]


@pytest.mark.parametrize("status", list(REASONS))
def test_own_errors_are_json(status: int) -> None:
    """docs/http.md, errors of the load balancer."""
    reply = error_response(status, 'a "quoted" reason', "lb-0", b"now", close=True)
    head, _, body = reply.partition(b"\r\n\r\n")
    assert json.loads(body) == {"error": 'a "quoted" reason'}
    assert b"Content-Length: %d\r\n" % len(body) in head
    assert (b"Retry-After: " in head) is (status == 503)
    assert head.endswith(b"Connection: close")
    assert error_response(status, "x", "lb-0", b"now", close=False, head_only=True).endswith(
        b"Connection: keep-alive\r\n\r\n"
    )


def body(length: int, limit: int | None = None) -> RequestBody:
    return RequestBody(length, limit, RequestReader(8192, 100, b"x"), [])


def test_a_body_of_known_length_ends_there() -> None:
    made = body(5)
    assert made.feed(b"abc") == [b"abc"]
    assert not made.done
    assert made.feed(b"deGET /") == [b"de"]
    assert made.done
    assert made.rest == b"GET /"
    assert made.held == [b"abc", b"de"]


def test_a_chunked_body_is_reframed() -> None:
    made = body(CHUNKED)
    assert (
        b"".join(made.feed(b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 1\r\nHost: x\r\n\r\nGET"))
        == b"5\r\nabcde\r\n0\r\nX-Sum: 1\r\n\r\n"
    )
    assert made.done
    assert made.rest == b"GET"


def test_bodies_beyond_the_limit_are_413() -> None:
    with pytest.raises(Refusal) as refusal:
        body(11, limit=10)
    assert refusal.value.status == 413
    with pytest.raises(Refusal) as refusal:
        body(CHUNKED, limit=10).feed(b"b\r\nhello world\r\n")
    assert refusal.value.status == 413


def test_the_held_body_is_bounded_and_can_be_dropped() -> None:
    made = body(1 << 20)
    made.feed(b"x" * (MAX_HELD + 1))
    assert made.overfull
    made.forget()
    assert not made.overfull
    made.feed(b"y")
    assert made.held is None


class Entry:
    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.slot = -1
        self.expired = 0

    def expire(self, now: float) -> None:
        assert self.deadline <= now
        self.expired += 1
        self.deadline = inf


def test_an_empty_timer_wheel_sets_no_timer() -> None:
    timers: list[Any] = []

    class Loop:
        def call_later(self, delay: float, turn: Any) -> asyncio.Handle:
            timers.append(turn)
            return asyncio.Handle(turn, (), self)  # type: ignore[arg-type]

        def get_debug(self) -> bool:
            return False

    wheel = TimerWheel(Loop(), 0.1)  # type: ignore[arg-type]
    entry = Entry(monotonic() + 0.1)
    wheel.add(entry, monotonic())
    wheel.remove(entry)
    (turn,) = timers
    turn()
    assert len(timers) == 1


@pytest.mark.parametrize(
    "partial",
    [
        {"request_timeout": "30"},
        {"request_timeout": None},
        {"request_timeout": 0},
        {"request_timeout": -1},
        {"request_timeout": float("nan")},
        {"request_timeout": float("inf")},
        {"request_timeout": True},
        {"retries": 1.5},
        {"retries": -1},
        {"max_fields": 0},
        {"max_body": "1"},
        {"health_path": "no slash"},
        {"health_path": "/a b"},
        {"health_path": "/\r\nX: y"},
        {"health_path": 5},
        {"health_host": "a b"},
        {"health_host": "a\r\nX: y"},
        {"health_host": ""},
        {"balance": "random"},
        {"balance": []},
        {"health_fall": []},
        [],
        None,
    ],
)
def test_a_bad_setting_changes_nothing(partial: Any) -> None:
    if isinstance(partial, dict):
        partial = {"retries": 5, **partial}
    with pytest.raises(ValueError, match="setting"):
        changed(Settings(), partial)


def test_valid_settings_are_applied() -> None:
    partial = {
        "request_timeout": 5,
        "retries": 0,
        "max_body": None,
        "max_in_flight": 3,
        "health_path": "/h?x",
        "health_host": "shop.example:80",
        "balance": "least-connections",
    }
    settings = changed(Settings(), partial)
    assert asdict(settings) == {**asdict(Settings()), **partial}
    assert isinstance(settings.request_timeout, float)


@pytest.mark.parametrize(
    ("peer", "text"),
    [
        (("192.0.2.1", 5), b"192.0.2.1"),
        (("2001:db8::1", 5, 0, 0), b"2001:db8::1"),
        (("::ffff:192.0.2.1", 5, 0, 0), b"192.0.2.1"),
        (("fe80::1%eth0", 5, 0, 2), b"fe80::1"),
        (("a:b", 5), b"unknown"),
        (("", 5), b"unknown"),
        ((), b"unknown"),
        (None, b"unknown"),
    ],
)
def test_clients_as_x_forwarded_for_names_them(peer: Any, text: bytes) -> None:
    assert client_address(peer) == text


def test_what_was_found_last_is_found_until_forgotten() -> None:
    recent: Recent[int] = Recent(4)
    recent.remember(b"a", 1)
    recent.remember(b"b", 2)
    assert [recent.find(key) for key in (b"a", b"a", b"b", b"a", b"c", b"", b"a")] == [1, 1, 2, 1, None, None, 1]
    recent.forget()
    assert recent.find(b"a") is None


def test_the_recent_cache_is_bounded() -> None:
    recent: Recent[int] = Recent(4)
    for n in range(100):
        for _ in range(2):
            if recent.was_seen(b"%d" % n):
                recent.remember(b"%d" % n, n)
        assert recent.recall(b"0") == 0
    assert len(recent) <= 8


def test_names_and_hosts_learned_are_bounded() -> None:
    reader = RequestReader(8192, 100, b"lb")
    for n in range(3000):
        head = reader.read(b"GET / HTTP/1.1\r\nHost: h%d\r\nX-%d: 1\r\n\r\n" % (n, n))
        assert b"Host: h%d\r\nX-%d: 1\r\n" % (n, n) in head.prefix
    assert len(reader._hosts) <= MAX_HOSTS
    assert len(reader.fields._names) <= MAX_NAMES


def test_counters_continue_in_a_recreated_file(tmp_path: Path) -> None:
    path = tmp_path / "lb-0.counters"
    counted = Counters(path)
    edge = counted.edge("worker-0")
    counted.slots[counters.REQUESTS] += 5
    edge[2] += 5
    counted.move(path)  # It is there: nothing to do.
    before = path.stat().st_ino
    path.unlink()
    counted.slots[counters.REQUESTS] += 1
    counted.move(path)
    assert path.stat().st_ino != before
    # Who holds the slots goes on with them.
    edge[2] += 2
    counted.slots[counters.REQUESTS] += 1
    counted.edge("worker-1")[2] += 1
    assert (
        counters.read_counters(path).totals()["requests"],
        counters.read_counters(path).totals()["responses_2xx"],
    ) == (7, 8)
    assert counted.as_dict() == counters.read_counters(path).totals()
    with pytest.raises(OSError, match="nowhere"):
        counted.move(tmp_path / "nowhere" / "file")
    assert counters.read_counters(path).totals()["requests"] == 7
    counted.close()
    assert Counters(path).as_dict()["requests"] == 7
