"""Identifies errors that are a shortage on this side and therefore say nothing about a worker (pure).

Such a shortage is one of descriptors, buffers, memory or ports.
"""

import errno
import socket
from typing import Final

_NUMBERS: Final = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EAGAIN)
)
_RESOLVER: Final = frozenset((socket.EAI_MEMORY, socket.EAI_SYSTEM))


def is_local_shortage(error: BaseException) -> bool:
    """Return whether this process or machine lacked a resource to send the request at all."""
    if isinstance(error, BaseExceptionGroup):
        return any(is_local_shortage(each) for each in error.exceptions)
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, socket.gaierror):
        return error.errno in _RESOLVER
    return isinstance(error, OSError) and error.errno in _NUMBERS
