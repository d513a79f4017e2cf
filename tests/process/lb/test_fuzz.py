"""A short run of the fuzzer, and properties by hypothesis. `python -m tests.support.lb_fuzz 600` is the long run."""

import random

from tests.support import lb_fuzz as fuzz
from tests.support.lb import WorkerConnection, lb_and_workers, response


def test_short_fuzz_run() -> None:
    counts = fuzz.run(5.0, 20261123)
    assert counts["accepted"] > counts["heads"] / 20  # The mutations leave enough that is understood.
    assert counts["alike"] > counts["heads"] / 100
    assert counts["decoded"] > counts["chunked"] / 20
    assert counts["proxied"] > counts["switched"] > 0


def test_valid_pipelines_survive_every_split() -> None:
    def echo(connection: WorkerConnection, request: bytes) -> None:
        head, _, body = request.partition(b"\r\n\r\n")
        connection.send(response(head.split(b" ")[1] + b" " + body))

    rng = random.Random(7)
    with lb_and_workers(echo, echo) as (lb, _):
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
