"""The distribution of each policy, and what moves when one worker goes, without sockets."""

from collections import Counter
from collections.abc import Callable, Iterable

import pytest

from lb.balance.policies import Policy, policy_class
from lb.interface.settings import BALANCES, DOWN, Settings, UpstreamSpec
from lb.proxy.upstream_pool import Upstream, UpstreamPool


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Request:
    """What a policy sees of a request."""

    def __init__(self, *fields: bytes, target: bytes = b"/", address: bytes = b"127.0.0.1") -> None:
        lines = (b"GET " + target + b" HTTP/1.1", b"Host: a", *fields)
        self.prefix = b"\r\n".join(lines) + b"\r\nVia: 1.1 comet\r\nX-Forwarded-For: "
        self.set_cookie = b"old"
        self.fast_path = True
        self.started = 0.0
        self.address = address

    def client_ip(self) -> bytes:
        return self.address


def specs(count: int, **states: str) -> list[UpstreamSpec]:
    return [UpstreamSpec(f"w{n}", "127.0.0.1", 6000 + n, states.get(f"w{n}", "up")) for n in range(count)]


def pool(count: int, clock: Callable[[], float] = Clock(), **settings: object) -> UpstreamPool:  # noqa: B008
    made = UpstreamPool(Settings(**settings), clock=clock)  # type: ignore[arg-type]
    made.apply(specs(count))
    return made


def counts(made: UpstreamPool, requests: Iterable[Request | None], hold: bool = False) -> Counter[str]:
    """Count the choices; with `hold` each request stays in flight."""
    found: Counter[str] = Counter()
    for request in requests:
        chosen = made.pick((), request)
        assert chosen is not None
        chosen.in_flight += hold
        found[chosen.name] += 1
    return found


def homes(made: UpstreamPool, keys: int = 3000) -> dict[int, str]:
    found = {}
    for key in range(keys):
        chosen = made.pick((), Request(target=b"/%d" % key))
        assert chosen is not None
        found[key] = chosen.name
    return found


def take_down(made: UpstreamPool, upstream: Upstream) -> None:
    upstream.health.set(False)
    made.update_ready(upstream)


def test_every_name_has_its_policy() -> None:
    assert all(issubclass(policy_class(balance), Policy) for balance in BALANCES)


@pytest.mark.parametrize("balance", BALANCES)
def test_equal_shares_and_all_of_it_when_one_goes(balance: str) -> None:
    made = pool(3, balance=balance, balance_key="path")
    requests = [Request(target=b"/%d" % n) for n in range(3000)]
    assert all(900 < share < 1100 for share in counts(made, requests).values())
    take_down(made, made.order[1])
    assert set(counts(made, requests)) == {"w0", "w2"}
    take_down(made, made.order[0])
    assert set(counts(made, requests[:10])) == {"w2"}
    take_down(made, made.order[2])
    assert made.pick((), requests[0]) is None


@pytest.mark.slow
@pytest.mark.parametrize("balance", [each for each in BALANCES if each != "peak-ewma"])
def test_weights_are_shares(balance: str) -> None:
    made = pool(2, balance=balance, balance_key="path", weights="w1=3")
    share = counts(made, (Request(target=b"/%d" % n) for n in range(4000)))["w1"]
    assert 2850 < share < 3150
    if balance in ("round-robin", "least-connections", "sticky-cookie"):
        assert share == 3000


@pytest.mark.parametrize("balance", ["least-connections", "power-of-two-choices", "peak-ewma"])
def test_weights_divide_the_requests_in_flight(balance: str) -> None:
    made = pool(2, balance=balance, weights="w1=3")
    for each in made.order:
        made.observer(each, 0.1, 1000.0) if made.observer is not None else None
    counts(made, [None] * 400, hold=True)
    assert [each.in_flight for each in made.order] == [pytest.approx(100, abs=2), pytest.approx(300, abs=2)]


def test_a_weighted_rotation_is_even() -> None:
    made = pool(2, weights="w1=3")
    chosen = [each.name for _ in range(8) if (each := made.pick()) is not None]
    assert chosen == ["w1", "w0", "w1", "w1"] * 2


def test_least_connections_follows_what_ends() -> None:
    made = pool(3, balance="least-connections")
    counts(made, [None] * 9, hold=True)
    made.order[1].in_flight = 0
    assert counts(made, [None] * 3, hold=True) == {"w1": 3}


def test_two_choices_avoid_the_most_loaded_and_no_other() -> None:
    made = pool(4, balance="power-of-two-choices")
    for each, load in zip(made.order, (0, 1, 2, 50), strict=True):
        each.in_flight = load
    found = counts(made, [None] * 6000)
    assert found["w3"] == 0
    assert [found[name] / 6000 for name in ("w0", "w1", "w2")] == [pytest.approx(n / 6, abs=0.05) for n in (3, 2, 1)]


def test_peak_ewma_avoids_the_slow_one_until_its_latency_fades() -> None:
    clock = Clock()
    made = pool(2, clock, balance="peak-ewma")
    slow, fast = made.order
    learn = made.observer
    assert learn is not None
    for each, latency in ((slow, 1.0), (fast, 0.01)):
        learn(each, latency, clock.now)
    assert counts(made, [None] * 100) == {"w1": 100}
    fast.in_flight = 99  # 100 times 10 ms are what the slow one takes for one.
    assert set(counts(made, [None] * 100)) == {"w0", "w1"}
    fast.in_flight = 0
    for _ in range(60):  # The fast one answers once a second, the slow one is not asked.
        clock.now += 1
        learn(fast, 0.01, clock.now)
    assert "w0" in counts(made, [None] * 100)


def test_peak_ewma_follows_a_peak_at_once_and_forgets_it_slowly() -> None:
    clock = Clock()
    made = pool(1, clock, balance="peak-ewma")
    learn, upstream = made.observer, made.order[0]
    assert learn is not None
    learn(upstream, 0.01, clock.now)
    clock.now += 0.1
    learn(upstream, 2.0, clock.now)
    assert upstream.latency == 2.0
    clock.now += 10
    learn(upstream, 0.01, clock.now)
    assert upstream.latency == pytest.approx(0.01 + 1.99 / 2.71828, rel=1e-3)


def test_a_new_worker_gets_one_request_before_its_first_response() -> None:
    clock = Clock()
    made = pool(2, clock, balance="peak-ewma")
    learn = made.observer
    assert learn is not None
    learn(made.order[0], 0.1, clock.now)
    assert counts(made, [None] * 20, hold=True)["w1"] == 1


@pytest.mark.slow
def test_when_one_goes_its_keys_alone_move_and_return() -> None:
    made = pool(5, balance="consistent-hash", balance_key="path")
    before = homes(made)
    take_down(made, made.order[2])
    during = homes(made)
    moved = Counter(during[key] for key in before if before[key] != during[key])
    assert all(before[key] == "w2" for key in before if before[key] != during[key])
    assert len(moved) == 4
    assert max(moved.values()) < 1.5 * min(moved.values())
    made.order[2].health.set(True)
    made.update_ready(made.order[2])
    assert homes(made) == before


@pytest.mark.slow
def test_one_more_worker_takes_its_share_and_moves_no_other_key() -> None:
    made = pool(4, balance="consistent-hash", balance_key="path")
    before = homes(made)
    made.apply(specs(5))
    after = homes(made)
    assert {after[key] for key in before if before[key] != after[key]} == {"w4"}
    assert sum(before[key] != after[key] for key in before) == pytest.approx(600, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("factor", [None, 150])
def test_a_spare_worker_takes_the_keys_of_those_that_are_out(factor: int | None) -> None:
    made = pool(3, balance="consistent-hash", balance_key="path", hash_balance_factor=factor)
    before, spare = homes(made), UpstreamSpec("w3", "127.0.0.1", 6003, spare=True)
    made.apply([*specs(3), spare])
    assert homes(made) == before
    made.apply([*specs(3, w1=DOWN), spare])
    assert homes(made) == {key: "w3" if home == "w1" else home for key, home in before.items()}
    made.apply([*specs(3, w0=DOWN, w1=DOWN, w2=DOWN), spare])
    assert set(homes(made).values()) == {"w3"}
    made.apply(specs(3))
    assert homes(made) == before


@pytest.mark.slow
def test_every_load_balancer_chooses_alike() -> None:
    made = pool(5, balance="consistent-hash", balance_key="path")
    other = pool(5, balance="consistent-hash", balance_key="path")
    other.apply(list(reversed(specs(5))))
    counts(other, [None] * 7)
    assert homes(made) == homes(other)


@pytest.mark.parametrize(
    ("key", "one", "other"),
    [
        ("address", {"address": b"10.0.0.%d"}, {"target": b"/%d"}),
        ("path", {"target": b"/%d?a"}, {"address": b"10.0.0.%d"}),
    ],
)
def test_keys(key: str, one: dict[str, bytes], other: dict[str, bytes]) -> None:
    made = pool(3, balance="consistent-hash", balance_key=key)
    assert len(counts(made, (Request(**{name: value % n for name, value in one.items()}) for n in range(200)))) == 3
    assert len(counts(made, (Request(**{name: value % n for name, value in other.items()}) for n in range(200)))) == 1


def test_the_query_is_no_part_of_the_path() -> None:
    made = pool(3, balance="consistent-hash", balance_key="path")
    assert len(counts(made, (Request(target=b"/a?%d" % n) for n in range(100)))) == 1


@pytest.mark.parametrize(
    ("key", "field"),
    [
        ("header:X-User", b"x-USER: %d"),
        ("cookie:id", b"cookie: a=1; id=%d; b=2"),
        ("cookie:id", b'Cookie: id="%d"'),
    ],
)
def test_keys_in_fields(key: str, field: bytes) -> None:
    made = pool(3, balance="consistent-hash", balance_key=key)
    assert len(counts(made, (Request(field % n) for n in range(200)))) == 3
    assert len(counts(made, (Request(field % 7, target=b"/%d" % n) for n in range(200)))) == 1


@pytest.mark.parametrize("field", [b"X-Users: 7", b"X-User:", b"Cookie: xid=7", b"X-Y: Cookie: id=7", b"Cookie: ID=7"])
@pytest.mark.parametrize("key", ["header:X-User", "cookie:id"])
def test_without_the_key_each_in_turn(key: str, field: bytes) -> None:
    made = pool(3, balance="consistent-hash", balance_key=key)
    assert counts(made, [Request(field) for _ in range(9)]) == {"w0": 3, "w1": 3, "w2": 3}


def test_a_bounded_load_spills_to_the_next_by_score() -> None:
    made = pool(4, balance="consistent-hash", balance_key="path", hash_balance_factor=150)
    request = Request(target=b"/hot")
    alone = made.pick((), request)
    assert alone is not None
    found = counts(made, [request] * 100, hold=True)
    assert found[alone.name] == max(found.values())
    assert max(found.values()) <= 38  # ceil(1.5 * 100 / 4)
    assert sorted(found.values())[-2] >= 35  # The second takes up to its bound before a third.


def test_a_bounded_load_respects_weights() -> None:
    made = pool(2, balance="consistent-hash", balance_key="path", hash_balance_factor=110, weights="w0=3")
    found = counts(made, [Request(target=b"/hot")] * 100, hold=True)
    assert found["w0"] <= 83
    assert found["w1"] <= 28


def test_a_cookie_keeps_its_worker_and_is_renewed_when_that_goes() -> None:
    made = pool(3, balance="sticky-cookie", balance_cookie="id")
    first = Request()
    chosen = made.pick((), first)
    assert chosen is not None
    assert first.set_cookie == b"Set-Cookie: id=%b; Path=/; HttpOnly; SameSite=Lax\r\n" % chosen.name.encode()
    assert not first.fast_path
    cookie = b"Cookie: id=" + chosen.name.encode()
    assert counts(made, (Request(cookie) for _ in range(20))) == {chosen.name: 20}
    again = Request(cookie)
    made.pick((), again)
    assert (again.set_cookie, again.fast_path) == (b"", True)
    take_down(made, chosen)
    moved = made.pick((), again)
    assert moved is not None
    assert moved is not chosen
    assert moved.name.encode() in again.set_cookie
    assert not again.fast_path


def test_only_the_cookies_of_the_worker_that_goes_move() -> None:
    made = pool(3, balance="sticky-cookie")
    take_down(made, made.order[0])
    for name in ("w1", "w2"):
        assert counts(made, (Request(b"Cookie: comet-worker=%b" % name.encode()) for _ in range(20))) == {name: 20}
    assert counts(made, (Request(b"Cookie: comet-worker=w0") for _ in range(20))) == {"w1": 10, "w2": 10}


def test_a_request_waits_for_its_own_worker_unless_tried() -> None:
    made = pool(2, balance="sticky-cookie", max_in_flight=1)
    request = Request(b"Cookie: comet-worker=w0")
    made.order[0].in_flight = 1
    assert made.keeps
    assert made.pick((), request) is None
    assert made.pick((made.order[0],), request) is made.order[1]


def test_slow_start_is_linear() -> None:
    clock = Clock()
    made = pool(2, clock, slow_start=100.0)
    assert counts(made, [None] * 10) == {"w0": 5, "w1": 5}
    made.apply(specs(2, w1=DOWN))
    made.apply(specs(2))
    for passed, share in ((0, 0.05), (25, 0.25), (50, 0.5), (100, 1.0), (500, 1.0)):
        clock.now = 1000.0 + passed
        assert counts(made, [None] * 4000)["w1"] / 4000 == pytest.approx(share / (1 + share), abs=0.002)


def test_a_worker_that_is_healthy_again_or_new_starts_slowly() -> None:
    clock = Clock()
    made = pool(2, clock, slow_start=100.0, balance="least-connections")
    take_down(made, made.order[0])
    clock.now += 100
    made.order[0].health.set(True)
    made.update_ready(made.order[0])
    clock.now += 10
    assert counts(made, [None] * 1100)["w0"] == pytest.approx(100, abs=2)
    clock.now += 100
    made.apply(specs(3))
    clock.now += 10
    assert counts(made, [None] * 2100)["w2"] == pytest.approx(100, abs=2)


def test_changed_weights_are_shares_from_the_next_request_on() -> None:
    made = pool(2, weights="w0=1,w1=256")
    counts(made, [None] * 128)
    made.configure(Settings(weights="w0=3,w1=3", slow_start=1.0))
    assert counts(made, [None] * 10) == {"w0": 5, "w1": 5}


def test_settings_change_the_policy_and_weights_while_running() -> None:
    made = pool(2)
    made.configure(Settings(balance="sticky-cookie", weights="w0=2"))
    assert made.keeps
    assert counts(made, (Request() for _ in range(9))) == {"w0": 6, "w1": 3}
    made.configure(Settings())
    assert not made.keeps
    assert counts(made, [None] * 4) == {"w0": 2, "w1": 2}
