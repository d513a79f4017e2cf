"""Sends a process round an endless loop in user space, where no signal handler and no event loop of its own can help
it.

A debugger's means (ptrace(2), x86-64): the process is stopped, the instruction that it would run next is overwritten
with a jump to itself, in its own copy of the page, and it is let go. Inside a system call, the call's own instruction
is overwritten too, since the kernel may restart it.
"""

import ctypes
import os
import struct

ATTACH, DETACH, POKETEXT, GETREGS = 16, 17, 4, 12
WALL = 0x40000000
REGISTERS, RIP = 27, 16
JUMP_TO_ITSELF = b"\xeb\xfe"
SYSCALL = b"\x0f\x05"

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request: int, pid: int, address: int = 0, data: object = None) -> None:
    if _libc.ptrace(request, pid, address, data) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def loop_endlessly(pid: int) -> None:
    """Let the main thread of `pid` do nothing but burn a core from now on."""
    _ptrace(ATTACH, pid)
    os.waitpid(pid, WALL)
    try:
        registers = (ctypes.c_ulonglong * REGISTERS)()
        _ptrace(GETREGS, pid, 0, ctypes.addressof(registers))
        here = registers[RIP]
        with open(f"/proc/{pid}/mem", "rb") as memory:
            memory.seek(here - 2)
            text = memory.read(8)
        before = JUMP_TO_ITSELF if text[:2] == SYSCALL else text[:2]
        (word,) = struct.unpack("<q", before + JUMP_TO_ITSELF + text[4:])
        _ptrace(POKETEXT, pid, here - 2, word)
    finally:
        _ptrace(DETACH, pid)
