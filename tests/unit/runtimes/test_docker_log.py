"""A followed log of a container whose engine loses the follower, with a scripted engine."""

import json
from pathlib import Path
from typing import Any

import pytest

from comet.common.errors import UserError
from comet.engine import log_stream
from comet.runtimes.docker import log
from comet.state.directory import Cluster
from tests.support.fake_engine import answer, listening


def ok(content: Any) -> bytes:
    return answer("200 OK", json.dumps(content).encode())


def printed(*lines: str) -> bytes:
    """The engine's answer with these lines, each a second after the one before."""
    body = b""
    for number, line in enumerate(lines):
        message = f"2026-01-01T00:00:{number:02}.000000000Z {line}\n".encode()
        body += b"\1\0\0\0" + len(message).to_bytes(4, "big") + message
    return answer("200 OK", body)


@pytest.mark.parametrize("ends_with", [("one", "two"), ("one", "two", "three")], ids=["silent", "silent_to_the_end"])
def test_lines_that_a_lost_follower_missed_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends_with: tuple[str, ...]
) -> None:
    """The engine says nothing to the first follower, and to the second one nothing of the last line."""
    monkeypatch.setattr(log_stream, "FOLLOW_TIMEOUT", 0.05)
    cluster = Cluster(tmp_path)
    cluster.create()
    container = {"Id": "abc", "HostConfig": {"LogConfig": {"Type": "local"}}}
    about = [ok("OK"), ok({}), ok({}), ok([container]), ok(container)]
    script = [*about, printed("one"), None, printed("one", "two"), printed(*ends_with)]
    with listening(*script) as path:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        read = b"".join(log.pieces(cluster, "worker-0", 10, True))
    assert read.decode().split() == list(ends_with)


def test_the_log_of_an_engine_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_stream, "PING_TIMEOUT", 0.05)
    cluster = Cluster(tmp_path)
    cluster.create()
    with listening(None) as path:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        with pytest.raises(UserError, match=r"worker-0: its container's log .* does not answer within 0\.05 s"):
            list(log.pieces(cluster, "worker-0", 10, False))
