"""Injects faults into the network of a container: `python -m worker_app.network LEASES`, in its network namespace.

LEASES is a JSON list of objects, each with settings of `fault_rules.NETWORK`, with `until`, a moment of CLOCK_BOOTTIME
(the clock that host and containers share), and with `boot-id`, the boot from which that counts. Later ones override
earlier ones. Once the faults are effective it prints `ready`, else why they cannot be, and waits to be removed. It
ends with the last lease, and when it is asked to (SIGTERM). Whatever ends this process ends the faults
(`worker_app.faults.packet_rules`).
"""

from __future__ import annotations

import errno
import json
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

from fault_rules import NETWORK
from worker_app.common.boot import boot_id, boot_time
from worker_app.faults.packet_delay import DelayQueues, Unavailable, netem
from worker_app.faults.packet_rules import PacketRules, is_delayed

POLL_INTERVAL = 1.0
"""The longest sleep in seconds: a sleep does not see that the machine was suspended."""

REMOVAL_TIMEOUT = 30.0
"""Seconds for which it waits to be removed after a failure."""

LACKING = (errno.EOPNOTSUPP, errno.ENOENT, errno.EINVAL, errno.EPROTONOSUPPORT)
"""What a kernel answers that does not know what it is asked for."""


def main(argv: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, _end)
    try:
        (text,) = argv
        leases = read(json.loads(text), boot_id())
    except ValueError as error:
        print(f"usage: python -m worker_app.network LEASES ({error})", file=sys.stderr)
        return 2
    try:
        hold(leases)
    except (OSError, Unavailable) as error:
        print(reason(error), flush=True)
        time.sleep(REMOVAL_TIMEOUT)
        return 1
    return 0


def hold(leases: Sequence[Mapping[str, Any]]) -> None:
    """Let the leases hold until the last one ends; raise OSError where the kernel does not accept one."""
    devices = [name for _, name in socket.if_nameindex() if name != "lo"]
    if not devices:
        raise OSError(errno.ENODEV, "the container has no network device")
    queues, held = DelayQueues(devices), None
    try:
        while (end := next_end(leases, boot_time())) is not None:
            settings = effective(leases, boot_time())
            if is_delayed(settings):
                queues.put(netem(settings.get("network-delay", 0.0), settings.get("network-jitter", 0.0)))
            elif held is None:
                queues.sweep()
            former, held = held, PacketRules(settings, devices)
            if former is None:
                print("ready", flush=True)
            else:
                former.close()
            while (left := end - boot_time()) > 0:
                time.sleep(min(left, POLL_INTERVAL))
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # The end is not to be cut short.
        if held is not None:
            held.close()
        queues.close()


def read(document: Any, boot: str) -> list[dict[str, Any]]:
    """Return the leases of this boot; ValueError for what is none."""
    known = {fault.name: fault for fault in NETWORK}
    found = []
    for lease in document:
        until = lease["until"]
        if not isinstance(until, int | float) or isinstance(until, bool):
            raise ValueError(f"until: {until!r} is no moment")
        settings = {name: known[name].check(value) for name, value in lease.items() if name in known}
        if lease["boot-id"] == boot:
            found.append({**settings, "until": until})
    return found


def effective(leases: Sequence[Mapping[str, Any]], moment: float) -> dict[str, Any]:
    """Return the settings that hold at a moment."""
    settings: dict[str, Any] = {}
    for lease in leases:
        if lease["until"] > moment:
            settings |= {name: value for name, value in lease.items() if name != "until"}
    return settings


def next_end(leases: Sequence[Mapping[str, Any]], moment: float) -> float | None:
    """Return when the next lease ends, None where none holds any more."""
    return min((lease["until"] for lease in leases if lease["until"] > moment), default=None)


def reason(error: OSError | Unavailable) -> str:
    """Return why the faults cannot be injected, for people."""
    if isinstance(error, Unavailable):
        return str(error)
    if error.errno in LACKING:
        return f"this kernel cannot drop packets of a single device (Linux 5.16 with nf_tables can): {error.strerror}"
    if error.errno in (errno.EPERM, errno.EACCES):
        return f"the engine does not let a container change its network: {error.strerror}"
    return error.strerror or str(error)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
