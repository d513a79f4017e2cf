"""What a check finds in the answer of a worker, in whatever pieces it comes."""

import asyncio
from collections.abc import Iterable

import pytest

from lb.process.health_checks import CheckResult, Probe

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n"
COUNTS = b"X-Comet-Counts-Left: 7f00=3, a-1=0\r\n"
LEFT = {"7f00": 3, "a-1": 0}
BODY = b'\r\n{"status":"ok"}'


def found(pieces: Iterable[bytes]) -> CheckResult:
    async def check() -> CheckResult:
        result: asyncio.Future[CheckResult] = asyncio.get_running_loop().create_future()
        probe = Probe(b"", [(200, 299)], result)
        for piece in pieces:
            probe.data_received(piece)
        probe.connection_lost(None)
        return await result

    return asyncio.run(check())


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        (HEAD + COUNTS + BODY, LEFT),
        (HEAD + b"X-Other: " + b"x" * 3000 + b"\r\n" + COUNTS.lower() + BODY, LEFT),
        (HEAD + COUNTS, LEFT),  # The rest is still on its way.
        (HEAD + COUNTS[:-4], {}),  # So is the rest of the number.
        (HEAD + b"X-Comet-Counts-Left: nonsense\r\n" + BODY, {}),
        (HEAD + b"X-Comet-Counts-Left: \xff=1\r\n" + BODY, {}),
        (HEAD + b"X-Other: X-Comet-Counts-Left: a=1\r\n" + BODY, {}),
        (HEAD + BODY + b"\r\n" + COUNTS, {}),
        (HEAD + BODY, {}),
    ],
)
def test_what_is_left_of_counts_is_read_from_the_head(answer: bytes, left: dict[str, int]) -> None:
    assert found([answer]) == CheckResult("", counts_left=left)


def test_a_status_is_enough_and_what_comes_later_changes_nothing() -> None:
    assert found([HEAD, COUNTS + BODY]) == CheckResult("")
    assert found([HEAD[:4], HEAD[4:] + COUNTS + BODY]) == CheckResult("", counts_left=LEFT)
    assert found([b"HTTP/1.1 503 No\r\n" + COUNTS + BODY]) == CheckResult("status 503", counts_left=LEFT)


def test_no_answer_has_no_counts() -> None:
    assert found([COUNTS]).reason.startswith("no HTTP answer")
    assert found([]) == CheckResult("closed without an answer")


EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (EARLY + HEAD + BODY, ""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + EARLY * 30 + HEAD + BODY, ""),
        (EARLY + b"HTTP/1.1 503 No\r\n" + BODY, "status 503"),
        (EARLY.replace(b"</a>", b"<%b>" % (b"a" * 3000)) + HEAD + BODY, ""),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + HEAD, "status 101"),
        (EARLY, "closed without an answer"),
        (EARLY + b"hello", "no HTTP answer"),
        (EARLY[:-2] + b"x" * 9000, "no HTTP answer"),
    ],
)
def test_the_final_response_counts_whatever_comes_before_it(answer: bytes, reason: str) -> None:
    """RFC 9110 section 15.2: a client takes any number of interim responses."""
    assert found([answer]).reason.partition(":")[0] == reason
    assert found(answer[at : at + 1] for at in range(len(answer))).reason.partition(":")[0] == reason
