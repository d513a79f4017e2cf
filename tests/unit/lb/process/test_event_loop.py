"""The event loop of a load balancer: it still protects the descriptors of its transports."""

import asyncio
import gc
import socket

import pytest

from lb.process.event_loop import Transports, new_event_loop


async def connected(loop: asyncio.AbstractEventLoop) -> tuple[asyncio.BaseTransport, int, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    ours.setblocking(False)
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
    return transport, transport.get_extra_info("socket").fileno(), theirs


def test_the_loop_knows_its_transports_without_keeping_them() -> None:
    loop = new_event_loop()
    (transports,) = [each for each in gc.get_referents(loop) if isinstance(each, Transports)]

    async def serve() -> None:
        for _ in range(3):
            transport, fd, theirs = await connected(loop)
            assert transports.get(fd) is transport
            with pytest.raises(RuntimeError, match="is used by transport"):
                loop.add_reader(fd, print)
            transport.abort()
            del transport
            theirs.close()
            while fd in transports:  # Forever, if the dictionary kept it.
                await asyncio.sleep(0)
            with socket.socket() as free:
                loop.add_reader(free, print)
                loop.remove_reader(free)

    loop.run_until_complete(serve())
    loop.close()
