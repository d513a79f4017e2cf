"""Load balancers share listening sockets with one another, so none of them may change what the others see of one."""

import os
import socket
from pathlib import Path
from typing import Any

import uvloop

from lb.interface.counters import Counters
from lb.interface.settings import Settings
from lb.process.admission import Admission
from lb.process.tls import Certificate
from lb.proxy.dispatcher import Dispatcher


class WatchedLoop(uvloop.Loop):
    """Notes at each `create_server` whether the socket blocks."""

    def __init__(self) -> None:
        self.blocks: list[bool] = []

    async def create_server(self, *arguments: Any, **options: Any) -> Any:
        self.blocks.append(os.get_blocking(options["sock"].fileno()))
        return await super().create_server(*arguments, **options)


def test_a_shared_socket_never_blocks_when_others_accept(tmp_path: Path) -> None:
    """A load balancer that accepts in that moment would wait for the next connection, and all its clients with it."""
    settings, loop = Settings(), WatchedLoop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        os.set_blocking(listener.fileno(), False)
        proxy = Dispatcher(loop, settings, Counters(str(tmp_path / "counters")), b"127.0.0.1:80")
        admission = Admission(loop, proxy, listener, Certificate(settings))
        loop.run_until_complete(admission.open())
        admission.close()
    loop.close()
    assert set(loop.blocks) == {False}
