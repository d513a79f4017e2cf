import asyncio
import contextlib
import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from comet.common.errors import UserError
from comet.state.control_server import ControlServer
from comet.state.control_socket import PING, SOCKET, NotAnswering, call
from comet.state.directory import Cluster


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
        server = ControlServer(cluster, {"echo": _echo, "refuse": _refuse}, {})
        await server.open()
        assert await asyncio.to_thread(call, cluster, "echo", 120.0, worker=4) == {"command": "echo", "worker": 4}
        with pytest.raises(UserError, match="lb-7: no such replica") as caught:
            await asyncio.to_thread(call, cluster, "refuse", 120.0)
        assert caught.value.exit_code == 2
        with pytest.raises(UserError, match="not a command of this version"):
            await asyncio.to_thread(call, cluster, "dance", 120.0)
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
        server = ControlServer(cluster, {"echo": _echo}, {})
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
    with listener, pytest.raises(NotAnswering, match=r"does not answer within 0\.1 s"):
        call(cluster, "ps", timeout=0.1)


@pytest.mark.slow
def test_one_that_has_no_room_for_another_is_there_and_silent(cluster: Cluster) -> None:
    with contextlib.ExitStack() as held:
        listener = held.enter_context(cluster.listen(SOCKET))
        listener.listen(3)
        with contextlib.suppress(BlockingIOError):
            while True:
                held.enter_context(cluster.connect(SOCKET))
        began = time.monotonic()
        with pytest.raises(NotAnswering, match=r"does not answer within 0\.3 s"):
            call(cluster, "ps", timeout=0.3)
        assert time.monotonic() - began > 0.25, "it waits for its turn"


@pytest.mark.slow
def test_who_waits_for_room_is_served_when_there_is_some(cluster: Cluster) -> None:
    async def story() -> None:
        server = ControlServer(cluster, {"echo": _echo}, {})
        with contextlib.ExitStack() as held:
            listener = held.enter_context(cluster.listen(SOCKET))
            listener.listen(3)
            with contextlib.suppress(BlockingIOError):
                while True:
                    held.enter_context(cluster.connect(SOCKET))
            asked = [asyncio.to_thread(call, cluster, "echo", 120.0, worker=number) for number in range(8)]
            waiting = asyncio.gather(*asked)
            await asyncio.sleep(0.2)
            server._server = await asyncio.start_unix_server(server._serve, sock=listener.dup())
            assert [answer["worker"] for answer in await waiting] == list(range(8))
        server.close()

    asyncio.run(story())


def test_idle_peers_make_room_and_waiting_ones_stay(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comet.state.control_server.MAX_PEERS", 5)
    begun, over = asyncio.Event(), asyncio.Event()

    async def slow(request: dict[str, Any]) -> Any:
        begun.set()
        await over.wait()
        return "done"

    async def story() -> None:
        server = ControlServer(cluster, {"echo": _echo, "slow": slow}, {})
        await server.open()
        waiting = asyncio.create_task(asyncio.to_thread(call, cluster, "slow", 120.0))
        await begun.wait()
        with contextlib.ExitStack() as held:
            for _ in range(50):
                held.enter_context(cluster.connect(SOCKET))
            assert await asyncio.to_thread(call, cluster, "echo", 120.0) == {"command": "echo"}
            assert len(server._peers) <= 6
            over.set()
            assert await waiting == "done"
        server.close()

    asyncio.run(story())


def test_an_end_amid_a_command_is_no_error(cluster: Cluster) -> None:
    reported: list[dict[str, Any]] = []
    begun = asyncio.Event()

    async def endless(request: dict[str, Any]) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def story() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        server = ControlServer(cluster, {"endless": endless}, {})
        await server.open()
        peer.connect(str(cluster.path("run", SOCKET)))
        peer.sendall(b'{"command": "endless"}\n')
        await begun.wait()
        server.close()

    with socket.socket(socket.AF_UNIX) as peer:
        asyncio.run(story())
        assert peer.recv(100) == b""
    assert reported == []


def test_a_ping_is_answered_whatever_commands_there_are(cluster: Cluster) -> None:
    async def story() -> None:
        server = ControlServer(cluster, {}, {})
        await server.open()
        assert await asyncio.to_thread(call, cluster, PING) == {}
        server.close()

    asyncio.run(story())
