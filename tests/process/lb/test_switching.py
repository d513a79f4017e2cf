"""Settings and upstreams that change at random under traffic: every request gets one complete, intended response."""

import os
import random
import threading
import time
from dataclasses import replace
from typing import Any

from lb.interface import messages
from lb.interface.settings import BALANCES, DOWN, DRAINING, UP
from tests.support.lb import Balancer, Client, WorkerConnection, lb_and_workers, response

SECONDS = float(os.environ.get("COMET_TEST_SWITCHING", "3"))
SEED = int(os.environ.get("COMET_TEST_SEED", "1"))
WORKERS = 4
FIELDS = (
    b"X-Forwarded-For: 6.6.6.6\r\n",
    b"X_Forwarded_Proto: https\r\n",
    b"Forwarded: for=6.6.6.6\r\n",
    b"Cookie: comet-worker=worker-1; id=7\r\n",
    b"Cookie: comet-worker=gone\r\n",
    b"X-User: %d\r\n",
    b"Connection: close, X-User\r\n",
)


def settings(draw: random.Random) -> dict[str, Any]:
    """Return a change of one thing or of several."""
    choices: dict[str, list[Any]] = {
        "balance": list(BALANCES),
        "balance_key": ["address", "path", "header:X-User", "cookie:id"],
        "hash_balance_factor": [None, 101, 150],
        "weights": ["", "worker-0=3", "worker-1=256,worker-2=2"],
        "slow_start": [0, 0.2, 5],
        "eject_after_5xx": [0, 1, 3],
        "eject_after_gateway_errors": [0, 1],
        "eject_error_percent": [0, 10],
        "eject_min_requests": [1, 5],
        "eject_interval": [0.05, 1],
        "eject_time": [0.05, 0.5],
        "eject_max_percent": [0, 50, 100],
        "eject_panic_percent": [0, 50, 100],
        "trusted_proxies": [None, "", "127.0.0.1", "127.0.0.0/8,::1"],
        "retries": [0, 2],
        "upstream_keep_alive": [True, False],
        "health_status": ["200-399", "200"],
    }
    names = draw.sample(sorted(choices), draw.randint(1, 4))
    return {name: draw.choice(choices[name]) for name in names}


def switch(lb: Balancer, draw: random.Random, done: threading.Event) -> None:
    specs = [each.spec for each in lb.proxy.pool.order]
    while not done.wait(0.005):
        if draw.random() < 0.5:
            lb.call(lb.server._configure, settings(draw))
        else:
            states = draw.choices((UP, DOWN, DRAINING), (6, 1, 1), k=WORKERS)
            table = [replace(spec, state=state) for spec, state in zip(specs, states, strict=True)]
            draw.shuffle(table)
            message = messages.upstreams(table[: draw.randint(1, WORKERS)], draw.choice((None, 1, 3)))
            lb.call(lb.server._handle, None, message)


def behave(connection: WorkerConnection, request: bytes) -> None:
    kind = int(request.split(b" ")[1][1:].partition(b"?")[0])
    if kind % 7 == 0:
        connection.send(response(b"%d" % kind, "500 Internal Server Error"))
    elif kind % 31 == 0:
        connection.reset()
    elif kind % 5 == 0:
        connection.send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%d\r\n0\r\n\r\n" % (len(b"%d" % kind), kind)
        )
    else:
        connection.send(response(b"%d" % kind))


def ask(lb: Balancer, draw: random.Random, ends: float, wrong: list[str]) -> None:
    client: Client | None = None
    while time.monotonic() < ends:
        client = client or lb.connect()
        kind = draw.randrange(1, 1000)
        fields = b"".join(draw.sample(FIELDS, draw.randint(0, 3))).replace(b"%d", b"%d" % kind)
        answer = client.ask(b"GET /%d HTTP/1.1\r\nHost: a\r\n%b\r\n" % (kind, fields))
        if answer.status in (200, 500) and answer.body != b"%d" % kind:
            wrong.append(f"{kind}: {answer.body!r}")
        elif answer.status not in (200, 500, 502, 503, 504):
            wrong.append(f"{kind}: {answer.status}")
        if b"close" in fields or answer["Connection"] == "close":
            client.sock.close()
            client = None
    if client is not None:
        client.sock.close()


def test_everything_switched_at_random_under_traffic() -> None:
    wrong: list[str] = []
    done = threading.Event()
    with lb_and_workers(*[behave] * WORKERS, queue_timeout=0.5, request_timeout=20.0) as (lb, _):
        ends = time.monotonic() + SECONDS
        threads = [threading.Thread(target=ask, args=(lb, random.Random(SEED + n), ends, wrong)) for n in range(4)]
        switcher = threading.Thread(target=switch, args=(lb, random.Random(SEED), done))
        for thread in (*threads, switcher):
            thread.start()
        for thread in threads:
            thread.join()
        done.set()
        switcher.join()
        assert lb.count("requests") > 50
    assert wrong == []
    assert [str(each.get("exception")) for each in lb.errors] == []
