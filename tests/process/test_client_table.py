"""What clients make of each fault of the front: the table of docs/testing-your-client.md is what they do here.

`COMET_WRITE_TABLE=1` writes the table to the page instead.
"""

import asyncio
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import playwright
import pytest
import requests

from lb.interface.settings import Settings, UpstreamSpec
from tests.support.cluster import ROOT, free_ports
from tests.support.lb import Balancer, Worker, WorkerConnection, response
from tests.support.waiting import wait_until

PAGE = ROOT / "docs" / "testing-your-client.md"
NODE = Path(playwright.__file__).parent / "driver" / "node"
BODY = b"0123456789" * 10
SILENT = {"hang", "slow-head"}
"""The faults that only the client's own time limit ends."""

SHORT, LONG = 0.4, 30.0
"""Seconds that a client waits: where it waits in vain, and where what comes may be late on a busy machine."""

FAULTS: dict[str, dict[str, Any]] = {
    "reset": {"reset": 100},
    "reset-after": {"reset-after": 100},
    "reset-body": {"reset-body": 100},
    "truncate": {"truncate": 100},
    "wrong-length": {"wrong-length": 100},
    "bad-framing": {"bad-framing": 100},
    "garbage": {"garbage": 100},
    "hang": {"hang": 100},
    "slow-head": {"slow-head": 60000},
    "close-kept": {"close-kept": 100},
    "redirect": {"redirect": 100},
    "failure": {"failure": 100, "status": 503},
    "refuse": {"refuse": True},
}
"""The faults by name; a client asks twice, so that `close-kept` is met by the second request."""

SCRIPT = """
const results = [];
for (let i = 0; i < 2; i++) {
  try {
    const answer = await fetch(process.argv[1], { signal: AbortSignal.timeout(+process.argv[2]) });
    const body = await answer.arrayBuffer();
    results.push(`${answer.status}, ${body.byteLength} bytes`);
  } catch (error) {
    results.push(error.cause?.code ?? error.cause?.message ?? error.name);
  }
}
console.log(JSON.stringify(results));
process.exit(0);
"""


def twice(get: Callable[[], tuple[int, bytes]]) -> list[str]:
    found = []
    for _ in range(2):
        try:
            status, body = get()
            found.append(f"{status}, {len(body)} bytes")
        except Exception as error:
            found.append(type(error).__name__)
    return found


def by_socket(url: str, timeout: float) -> list[str]:
    """What arrives on one connection, to its end."""
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    try:
        with socket.create_connection((host, int(port)), timeout) as sock:
            end, found = "is kept", b""
            for _ in range(2):
                sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                deadline = time.monotonic() + timeout
                while (left := deadline - time.monotonic()) > 0:
                    sock.settimeout(left)
                    piece = sock.recv(65536)
                    if not piece:
                        return [_arrived(found, "then FIN")]
                    found += piece
                    # Chunks end with a chunk of their own: a second request before the end would change it to a RST.
                    is_whole = found.endswith(BODY) and b"chunked" not in found
                    if is_whole or b"location:" in found.lower() or b"injected" in found:
                        break
            return [_arrived(found, end)]
    except ConnectionRefusedError:
        return ["refused (RST for SYN)"]
    except ConnectionResetError:
        return [_arrived(found, "then RST")]
    except TimeoutError:
        return [_arrived(found, "then silence")]


def _arrived(data: bytes, end: str) -> str:
    answers = data.split(b"HTTP/1.1 ")
    if len(answers) == 1:
        return f"{'no HTTP' if data else 'nothing'}, {end}"
    head, blank, body = answers[1].partition(b"\r\n\r\n")
    return f"{head[:3].decode()}, {len(body)} bytes, {end}" if blank else f"part of a head, {end}"


def by_requests(url: str, timeout: float) -> list[str]:
    with requests.Session() as session:

        def get() -> tuple[int, bytes]:
            answer = session.get(url, timeout=timeout)
            return answer.status_code, answer.content

        return twice(get)


def by_httpx(url: str, timeout: float) -> list[str]:
    with httpx.Client(timeout=timeout, follow_redirects=True, trust_env=False) as client:

        def get() -> tuple[int, bytes]:
            answer = client.get(url)
            return answer.status_code, answer.content

        return twice(get)


def by_aiohttp(url: str, timeout: float) -> list[str]:
    async def main() -> list[str]:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout)) as session:
            found = []
            for _ in range(2):
                try:
                    async with session.get(url) as answer:
                        found.append(f"{answer.status}, {len(await answer.read())} bytes")
                except Exception as error:
                    found.append(type(error).__name__)
            return found

    return asyncio.run(main())


def by_fetch(url: str, timeout: float) -> list[str]:
    command = [str(NODE), "--input-type=module", "-e", SCRIPT, url, str(int(timeout * 1000))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=480, check=True)
    found: list[str] = json.loads(done.stdout)
    return found


CLIENTS = {
    "raw socket": by_socket,
    "requests": by_requests,
    "httpx": by_httpx,
    "aiohttp": by_aiohttp,
    "Node's fetch": by_fetch,
}


@pytest.fixture(scope="module")
def balancer() -> Iterator[Balancer]:
    def answer(connection: WorkerConnection, request: bytes) -> None:
        connection.send(response(BODY))

    worker = Worker("worker-0", answer)
    at = ("127.0.0.1", free_ports(1))
    made = Balancer((UpstreamSpec("worker-0", "127.0.0.1", worker.port),), Settings(health_interval=60.0), at=at)
    yield made
    made.close()
    worker.close()


def cell(found: list[str]) -> str:
    return found[0] if len(set(found)) == 1 else ", then ".join(found)


def row(balancer: Balancer, fault: str, folder: Path) -> str:
    until = time.clock_gettime(time.CLOCK_BOOTTIME) + 3600
    plan = {"overrides": [{"id": f"table-{fault}", "until": until, **FAULTS[fault]}]}
    balancer.call(balancer.server._front.order, plan, str(folder))
    front = balancer.server._front
    wait_until(lambda: front._refuses if fault == "refuse" else front._active)
    timeout = SHORT if fault in SILENT else LONG
    cells = [cell(get(f"http://127.0.0.1:{balancer.port}/", timeout)) for get in CLIENTS.values()]
    balancer.call(front.order, {}, str(folder))
    wait_until(lambda: not front._active and not front._refuses)
    return f"| `{fault}` | {' | '.join(cells)} |"


def table(balancer: Balancer, folder: Path) -> str:
    head = f"| fault | {' | '.join(CLIENTS)} |\n|{' --- |' * (len(CLIENTS) + 1)}"
    return "\n".join([head, *(row(balancer, fault, folder) for fault in FAULTS)])


def test_the_table_of_the_page_is_what_clients_do(balancer: Balancer, tmp_path: Path) -> None:
    text = PAGE.read_text()
    made = re.sub(
        r"(<!-- clients -->\n).*?(<!-- clients: end -->)",
        lambda found: f"{found[1]}{table(balancer, tmp_path)}\n{found[2]}",
        text,
        flags=re.DOTALL,
    )
    if os.environ.get("COMET_WRITE_TABLE"):
        PAGE.write_text(made)
    assert made.splitlines() == PAGE.read_text().splitlines()
