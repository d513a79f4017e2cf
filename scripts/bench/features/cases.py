"""What is done to the proxies for each feature, and what is counted. Each function is one traffic with its orders."""

import asyncio
import shutil
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from scripts.bench.features.fronts import Front, Settings
from scripts.bench.features.traffic import Client, Load, Reply, Worker, load, wait_until

ADDRESS, TRUSTED, BEHIND = "127.0.0.1", "127.0.0.2", "192.0.2.7"
EJECT_TIME = 1.0
"""Seconds of the first ejection, where its length matters."""

FORGED = {"x-forwarded-for": "198.51.100.6", "x-real-ip": "198.51.100.6", "forwarded": "for=198.51.100.6"}
VERSION_1 = f"PROXY TCP4 {BEHIND} 127.0.0.1 4000 80\r\n".encode()
VERSION_2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes((192, 0, 2, 7, 127, 0, 0, 1)) + b"\x0f\xa0\0\x50"


@dataclass(frozen=True)
class Outcome:
    """What was seen at one proxy, by names; failed requests; and how many did after an order what it forbids."""

    seen: Mapping[str, Any]
    errors: int = 0
    after: int | None = None


@dataclass
class Stage:
    """One proxy, the workers behind it, and how much is asked."""

    front: Front
    workers: Sequence[Worker]
    other: Settings
    requests: int
    ramp: float
    folder: Path
    tls: ssl.SSLContext

    async def ask(self, count: int, *fields: str) -> list[Reply]:
        """Send requests one after the other, on one connection."""
        client = Client(self.front.port)
        replies = [await client.ask(*fields) for _ in range(count)]
        client.close()
        return replies

    async def send(self, count: int, *fields: str) -> "list[asyncio.Task[Reply]]":
        """Send requests, the next one when a worker has the last; go on without an answer that is held back."""
        tasks = []
        for _ in range(count):
            before = [len(each.heads) for each in self.workers]
            task = asyncio.create_task(Client(self.front.port).ask(*fields, keep=False))
            await wait_until(lambda before=before: [len(each.heads) for each in self.workers] != before, "a request")
            receiver = next(each for each, n in zip(self.workers, before, strict=True) if len(each.heads) > n)
            if receiver.gate.is_set():
                await task
            tasks.append(task)
        return tasks

    async def release(self, tasks: "Sequence[asyncio.Task[Reply]]") -> int:
        """Let all workers answer; return how many of the requests failed."""
        for each in self.workers:
            each.gate.set()
        return errors(await asyncio.gather(*tasks))

    def hold(self, *workers: Worker) -> None:
        for each in workers or self.workers:
            each.gate.clear()

    @property
    def held(self) -> list[int]:
        return [each.in_flight for each in self.workers]


def errors(replies: Sequence[Reply]) -> int:
    return sum(each.failed for each in replies)


def spread(replies: Sequence[Reply]) -> list[int]:
    """Return how many answers each of the workers gave."""
    found = Counter(each.worker for each in replies)
    return [found[f"worker-{n}"] for n in range(3)]


def shares(replies: Sequence[Reply]) -> list[float]:
    """Return the same in percent."""
    counts = spread(replies)
    return [round(100 * each / max(1, sum(counts)), 1) for each in counts]


def by(replies: Sequence[Reply], worker: str) -> int:
    return sum(each.worker == worker for each in replies)


async def in_turn(stage: Stage) -> Outcome:
    replies = await stage.ask(stage.requests)
    return Outcome({"requests per worker": spread(replies)}, errors(replies))


async def least_connections(stage: Stage) -> Outcome:
    stage.hold()
    tasks = await stage.send(6)
    first = stage.held
    stage.workers[1].gate.set()
    await wait_until(lambda: not stage.workers[1].in_flight and sum(each.done() for each in tasks) == 2, "two answers")
    stage.hold()
    tasks += await stage.send(2)
    return Outcome({"held per worker": first, "two later": stage.held}, await stage.release(tasks))


async def two_choices(stage: Stage) -> Outcome:
    stage.hold(stage.workers[0])
    tasks = await stage.send(stage.requests)
    found = len(stage.workers[0].heads)
    return Outcome({"requests that a stuck worker gets": found}, await stage.release(tasks))


async def bounded_hash(stage: Stage) -> Outcome:
    stage.hold()
    tasks = await stage.send(12, "X-User: one")
    most = max(stage.held)
    return Outcome({"most at one worker": most}, await stage.release(tasks))


async def keyed(stage: Stage, kind: str, number: int) -> Reply:
    """Send one request with a key of this kind."""
    source = f"127.1.{number // 200}.{number % 200 + 1}" if kind == "address" else ADDRESS
    fields = {"header": [f"X-User: user-{number}"], "cookie": [f"Cookie: a=b; sid=user-{number}"]}.get(kind, [])
    client = Client(stage.front.port, source=source)
    reply = await client.ask(*fields, target=f"/user-{number}?{time.monotonic()}" if kind == "path" else "/")
    client.close()
    return reply


async def consistent_hash(stage: Stage, kind: str) -> Outcome:
    async def all_keys() -> list[Reply]:
        return [await keyed(stage, kind, number) for number in range(stage.requests)]

    before = await all_keys()
    await stage.front.order("drain", "worker-2")
    without = await all_keys()
    await stage.front.order("undrain", "worker-2")
    again = await all_keys()
    moved = Counter(one.worker for one, two in zip(before, without, strict=True) if one.worker != two.worker)
    seen = {
        "keys per worker": spread(before),
        "moved of worker-2": f"{moved.pop('worker-2')} of {by(before, 'worker-2')}",
        "moved of the others": moved.total(),
        "moved after its return": sum(one.worker != two.worker for one, two in zip(before, again, strict=True)),
    }
    return Outcome(seen, errors([*before, *without, *again]), by(without, "worker-2"))


async def sticky_cookie(stage: Stage) -> Outcome:
    first = [(await stage.ask(1))[0] for _ in range(30)]
    cookies = [f"Cookie: {each.fields.get('set-cookie', '').partition(';')[0]}" for each in first]
    second = [(await stage.ask(1, cookie))[0] for cookie in cookies]
    await stage.front.order("drain", "worker-1")
    third = [(await stage.ask(1, cookie))[0] for cookie in cookies]
    stayed = [(one, two) for one, two in zip(first, third, strict=True) if one.worker != "worker-1"]
    seen = {
        "clients per worker": spread(first),
        "left their worker": sum(one.worker != two.worker for one, two in zip(first, second, strict=True)),
        "left another than the drained one": sum(one.worker != two.worker for one, two in stayed),
        "new cookies": sum("set-cookie" in each.fields for each in third),
    }
    return Outcome(seen, errors([*first, *second, *third]), by(third, "worker-1"))


def is_out(running: Load, worker: str) -> bool:
    """Say whether a worker gets no requests of a load now."""
    return not by(running.replies[-30:], worker)


Step = Callable[[], Awaitable[Any]]


async def out_and_back(stage: Stage, out: Step, back: Step, is_noticed: bool) -> Outcome:
    """Take worker-0 out of a load and bring it back; `is_noticed`: the proxy finds out in time, by its checks."""
    async with load(stage.front.port) as running:
        await running.more(stage.requests)
        await out()
        if is_noticed:
            await wait_until(lambda: is_out(running, "worker-0"), "it is out")
        ordered = await running.more(stage.requests)
        after = by(running.since(ordered), "worker-0")
        await back()
        await wait_until(lambda: running.replies[-1].worker == "worker-0", "it is back")
        returned = await running.more(stage.requests)
    return Outcome({"share of each in % when it is back": shares(running.since(returned))}, running.errors, after)


async def drain(stage: Stage) -> Outcome:
    front = stage.front
    return await out_and_back(
        stage, lambda: front.order("drain", "worker-0"), lambda: front.order("undrain", "worker-0"), False
    )


async def expected_statuses(stage: Stage) -> Outcome:
    async def answer(status: int) -> None:
        stage.workers[0].check = status

    return await out_and_back(stage, lambda: answer(301), lambda: answer(204), True)


async def slow_start(stage: Stage) -> Outcome:
    async with load(stage.front.port, size=4) as running:
        stage.workers[2].check = 503
        await running.more(30)
        await wait_until(lambda: is_out(running, "worker-2"), "it is out")
        stage.workers[2].check = 200
        out = time.monotonic()
        await wait_until(lambda: by(running.since(out), "worker-2"), "it is back")
        begun = time.monotonic()
        await asyncio.sleep(stage.ramp)
        end = await running.more(stage.requests)
    middle = begun + stage.ramp / 2
    halves = [
        [each for each in running.replies if start < each.begun <= stop]
        for start, stop in ((begun, middle), (middle, begun + stage.ramp), (end, time.monotonic()))
    ]
    seen = {"its share in % in both halves and later": [shares(each)[2] for each in halves]}
    return Outcome(seen, running.errors)


async def ejection(stage: Stage) -> Outcome:
    stage.workers[0].says(500)
    replies = await stage.ask(stage.requests)
    failed = errors(replies)
    return Outcome({"errors until it is out": failed, "requests per worker": spread(replies)}, failed, failed - 3)


async def gateway_errors(stage: Stage) -> Outcome:
    stage.workers[0].says(500)
    before = errors(await stage.ask(stage.requests))
    stage.workers[0].says(503)
    failed = errors(await stage.ask(stage.requests))
    return Outcome({"answers of 500": before, "of 503 until it is out": failed}, before + failed, failed - 3)


async def error_share(stage: Stage) -> Outcome:
    stage.workers[0].says(500, 200)
    async with load(stage.front.port) as running:
        await running.more(30)
        await wait_until(lambda: is_out(running, "worker-0"), "it is out")
        ordered = await running.more(stage.requests)
    found = running.since(ordered)
    return Outcome({"share of each in % afterwards": shares(found)}, running.errors, by(found, "worker-0"))


async def growing_time(stage: Stage) -> Outcome:
    stage.workers[0].says(500)
    times = stage.workers[0].times

    def pauses() -> list[float]:
        return [found for one, two in pairwise(times) if (found := round(two - one, 2)) > EJECT_TIME / 2]

    async with load(stage.front.port, size=2) as running:
        await wait_until(lambda: len(pauses()) >= 3, "three ejections")
    return Outcome({"seconds of the first three": pauses()[:3]}, running.errors)


async def failing(stage: Stage, count: int) -> Outcome:
    for each in stage.workers[:count]:
        each.says(500)
    async with load(stage.front.port) as running:
        await running.more(stage.requests)
        await asyncio.sleep(EJECT_TIME)  # Envoy ejects some time after the errors.
        ordered = await running.more(stage.requests)
    return Outcome({"share of each in % afterwards": sorted(shares(running.since(ordered)))}, running.errors)


async def refused(stage: Stage) -> Outcome:
    await stage.workers[0].refuse()
    client = Client(stage.front.port)
    replies = [await client.ask(method=("GET", "POST")[n % 2]) for n in range(stage.requests)]
    client.close()
    return Outcome({"answered by the others": sum(spread(replies)[1:])}, errors(replies))


async def closed(stage: Stage) -> Outcome:
    stage.workers[0].says(0)
    replies = await stage.ask(stage.requests)
    client = Client(stage.front.port)
    posts = [await client.ask(f"X-Request: {n}", method="POST") for n in range(stage.requests)]
    client.close()
    heads = [head for each in stage.workers for head in each.heads if head.startswith("POST")]
    sent = Counter(next(line for line in head.split("\r\n") if line.lower().startswith("x-request:")) for head in heads)
    seen = {"failed GETs": errors(replies), "POSTs sent twice": sum(n > 1 for n in sent.values())}
    return Outcome(seen | {"failed POSTs": errors(posts)}, errors(replies))


def told(worker: Worker) -> dict[str, str]:
    """Return what the worker was told last of the client, in one field each."""
    found: dict[str, str] = {}
    for line in worker.heads[-1].split("\r\n")[1:-2]:
        name, _, value = line.partition(":")
        if name.lower() in FORGED:
            found[name.lower()] = ", ".join([*filter(None, [found.get(name.lower())]), value.strip()])
    return found


async def described(stage: Stage, source: str, first: bytes = b"", *fields: str) -> str:
    """Return the fields that tell a worker about its client, or the status where the request does not get there."""
    for each in stage.workers:
        each.heads.clear()
    client = Client(stage.front.port, source=source, first=first)
    reply = await client.ask(*fields)
    client.close()
    if reply.failed:
        return str(reply.status)
    found = told(next(each for each in stage.workers if each.heads))
    return "; ".join(f"{name}: {value}" for name, value in sorted(found.items()))


async def trusted_proxies(stage: Stage) -> Outcome:
    fields = [f"{name}: {value}" for name, value in FORGED.items()]
    seen = {"from a stranger": await described(stage, ADDRESS, b"", *fields)}
    return Outcome(seen | {"from a trusted proxy": await described(stage, TRUSTED, b"", *fields)})


async def proxy_protocol(stage: Stage) -> Outcome:
    seen = {
        "version 1": await described(stage, TRUSTED, VERSION_1),
        "version 2": await described(stage, TRUSTED, VERSION_2),
        "from a stranger": await described(stage, ADDRESS, VERSION_1),
    }
    return Outcome(seen)


async def renewal(stage: Stage) -> Outcome:
    used = stage.folder / "used.pem"
    old = ssl.PEM_cert_to_DER_cert((stage.folder / "one.pem").read_text().partition("-----BEGIN PRIVATE")[0])
    async with load(stage.front.port, stage.tls) as running:
        await running.more(stage.requests)
        shutil.copy(stage.folder / "two.pem", used)
        await stage.front.renew(used)
        shown = []
        for _ in range(20):
            client = Client(stage.front.port, stage.tls)
            shown.append(await client.certificate())
            client.close()
        await running.more(stage.requests)
    seen = {"connections replaced": running.reopened, "certificates seen": len({*shown, old}) - 1}
    return Outcome(seen, running.errors, shown.count(old))


async def reload(stage: Stage) -> Outcome:
    async with load(stage.front.port) as running:
        await running.more(stage.requests)
        await stage.front.reload(stage.other)
        ordered = await running.more(stage.requests)
    seen = {"share of each in % afterwards": shares(running.since(ordered)), "connections replaced": running.reopened}
    return Outcome(seen, running.errors)
