import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from comet.cluster import Cluster
from comet.control import SOCKET, ControlServer, Silent, call
from comet.errors import UserError


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    made = Cluster(tmp_path)
    made.create()
    return made


async def _echo(request: dict[str, Any]) -> Any:
    return request


async def _refuse(request: dict[str, Any]) -> Any:
    raise UserError("lb-7: no such replica", 2)


def test_a_command_is_answered_or_refused(cluster: Cluster) -> None:
    async def story() -> None:
        server = ControlServer(cluster, {"echo": _echo, "refuse": _refuse})
        await server.open()
        assert await asyncio.to_thread(call, cluster, "echo", 5.0, worker=4) == {"command": "echo", "worker": 4}
        with pytest.raises(UserError, match="lb-7: no such replica") as caught:
            await asyncio.to_thread(call, cluster, "refuse", 5.0)
        assert caught.value.exit_code == 2
        with pytest.raises(UserError, match="not a command of this version"):
            await asyncio.to_thread(call, cluster, "dance", 5.0)
        server.close()

    asyncio.run(story())
    assert not cluster.path("run", SOCKET).exists()


def test_nonsense_costs_only_its_sender(cluster: Cluster) -> None:
    def talk_nonsense() -> dict[str, Any]:
        with cluster.connect(SOCKET) as peer:
            peer.sendall(b"\xff{nonsense\n")
            answer: dict[str, Any] = json.loads(peer.recv(4096))
        return answer

    async def story() -> None:
        server = ControlServer(cluster, {"echo": _echo})
        await server.open()
        with cluster.connect(SOCKET):  # One that never says anything.
            assert (await asyncio.to_thread(talk_nonsense))["exit_code"] == 2
            assert await asyncio.to_thread(call, cluster, "echo") == {"command": "echo"}
        server.close()

    asyncio.run(story())


def test_no_supervisor_is_told_apart_from_a_refusal(cluster: Cluster) -> None:
    with pytest.raises(ConnectionError):
        call(cluster, "ps")
    listener = cluster.listen(SOCKET)  # It lives and does not answer.
    with listener, pytest.raises(Silent, match=r"does not answer within 0\.1 s"):
        call(cluster, "ps", timeout=0.1)
