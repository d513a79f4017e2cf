"""Runs one worker (`python -m worker_app`): creates its parts, then serves until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence

from worker_app import __doc__ as summary
from worker_app import address
from worker_app.common import shield
from worker_app.common.boot import boot_id, boot_time
from worker_app.common.errors import WorkerError
from worker_app.common.identity import CONTAINER, PROCESS, of_this_process
from worker_app.common.process_setup import not_ignored, prepare_process
from worker_app.faults import resource_use
from worker_app.faults.file_watch import POLL_INTERVAL, FaultFile
from worker_app.faults.plan import FaultPlan, FaultSettings
from worker_app.faults.sampling import FaultSampler
from worker_app.http.app import BlockingEntry, Services, create_app
from worker_app.http.event_loop import EventLoop
from worker_app.http.server import WorkerServer
from worker_app.stats.batch import Record
from worker_app.stats.commit_queue import CommitQueue, Notify

log = logging.getLogger("worker_app")

MEMORY_CHECK_INTERVAL = 0.25
"""Seconds between two checks of the worker's own memory."""

NO_THREAD = "can't start new thread"
"""What Python says of a thread that the system refuses."""

MEMORY_FAULT_INTERVAL = 0.1
"""Seconds between two allocations of the memory fault."""


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m worker_app", description=(summary or "").splitlines()[0])
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        type=_address,
        default=("127.0.0.1", 8080),
        help="address to listen on; port 0: any free port",
    )
    parser.add_argument("--name", default="worker-0", help="the name in log lines")
    parser.add_argument(
        "--identity",
        choices=(CONTAINER, PROCESS),
        default=PROCESS,
        help="greet and count as the host name or as the PID",
    )
    parser.add_argument(
        "--threads", metavar="N|auto", type=_threads, default=None, help="requests served at a time; auto: any number"
    )
    parser.add_argument("--faults", metavar="FILE", help="JSON file with the fault settings; watched for changes")
    parser.add_argument(
        "--no-faults", action="store_true", help="inject no delay and no failure: the load balancer does"
    )
    parser.add_argument("--seed", type=int, help="the n-th request gets the n-th sample of this seed")
    parser.add_argument(
        "--request-ledger",
        action="store_true",
        help="store the X-Request-Id of each counted request, in the transaction that counts it",
    )
    parser.add_argument(
        "--grace", metavar="SECONDS", type=float, default=10.0, help="how long a stop waits for requests in flight"
    )
    parser.add_argument(
        "--linger",
        metavar="SECONDS",
        type=float,
        default=0.0,
        help="how long a stop continues to accept connections, where clients do not learn of it in advance",
    )
    parser.add_argument(
        "--memory",
        metavar="BYTES",
        type=int,
        default=256 << 20,
        help="memory limit of a worker process, where the kernel does not enforce one",
    )
    return parser.parse_args(argv)


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]") or "127.0.0.1", int(port)


def _threads(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number from 1 nor auto")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    prepare_process()
    options = arguments(argv)
    logging.Formatter.converter = time.gmtime  # A container knows no other time zone.
    form, clock = f"%(asctime)s.%(msecs)03dZ {options.name}: %(message)s", "%Y-%m-%dT%H:%M:%S"
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=form, datefmt=clock)
    logging.getLogger("waitress").setLevel(logging.ERROR)
    try:
        return serve(options)
    except WorkerError as error:
        logging.getLogger("worker").error("%s", error)
        return 1
    except RuntimeError as error:
        if str(error) != NO_THREAD:
            raise
        logging.getLogger("worker").error("no more threads may be started here: raise the limit (ulimit -u)")
        return 1


def serve(options: argparse.Namespace) -> int:
    """Run until stopped; raise WorkerError if the port or the database is not usable."""
    shield.protect(contained=options.identity == CONTAINER)
    identity = of_this_process(options.identity)
    loop = EventLoop()
    stop = Stop(loop, options.linger, options.grace)
    listener = _bind(*options.listen)
    database = address.database_at(address.configured_url())
    store = database.store(identity.row_name)
    store.open()
    plan = FaultPlan(FaultSettings(avg_delay=0.0, failure=0.0)) if options.no_faults else FaultPlan()
    faults = FaultSampler(plan, started=boot_time(), boot_id=boot_id(), seed=options.seed)
    commit_queues: list[CommitQueue] = []

    def make_commit_queue(notify: Notify) -> CommitQueue:
        commit_queues.append(CommitQueue(store, notify))
        commit_queues[0].start()
        return commit_queues[0]

    def count(record: Record) -> bool:
        entry = BlockingEntry(record)
        commit_queues[0].submit([entry])
        return entry.wait()

    application = create_app(
        Services(identity.greeting(), database.reader(), lambda: faults.next(boot_time()), count, faults.counts_left)
    )
    server = WorkerServer(
        application, listener, loop, faults, make_commit_queue, options.threads, options.request_ledger
    )
    _follow_faults(loop, options, faults, lambda then: commit_queues[0].note_now(injected="memory", then=then))
    host, port = listener.getsockname()[:2]
    log.info(
        "%s listening on %s:%d, counting as %s", identity.greeting().removeprefix("hello from "), host, port, store.name
    )
    stop.set_server(server)
    loop.run()
    if not commit_queues[0].close(max(1.0, options.grace)):
        log.warning("stopped with uncommitted statistics; their requests got no response")
    log.info("stopped")
    gc.freeze()  # The interpreter's end would search all objects for cycles, which delays a stop and finds nothing.
    return 0


class Stop:
    """Shuts the server down at a signal, also at one that came before there was a server."""

    def __init__(self, loop: EventLoop, linger: float, grace: float) -> None:
        self._loop, self._linger, self._grace = loop, linger, grace
        self._signals = 0
        self._server: WorkerServer | None = None
        for number in not_ignored(signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def set_server(self, server: WorkerServer) -> None:
        self._server = server
        if self._signals:
            self._shut_down()

    def _on_signal(self, number: int, frame: object) -> None:
        """Wake the loop, whatever it waits for; its next iteration handles the signal."""
        self._signals += 1
        self._loop.call_from_thread(self._begin)

    def _begin(self) -> None:
        if self._linger and self._signals == 1:
            self._loop.call_at(time.monotonic() + self._linger, self._shut_down)
        else:
            self._shut_down()

    def _shut_down(self) -> None:
        if self._server is not None:
            self._server.shut_down(self._grace)


def _follow_faults(
    loop: EventLoop,
    options: argparse.Namespace,
    faults: FaultSampler,
    count_memory_fault: Callable[[Callable[[], None]], None],
) -> None:
    """Follow the faults file and inject the memory fault; `count_memory_fault(then)` is called when that begins."""
    memory_fault = resource_use.MemoryFault()
    growing: threading.Event | None = None  # set once the fault is counted
    # In a container and in a control group the kernel enforces the limit.
    check_own_memory = options.identity == PROCESS and "COMET_MEMORY_GROUP" not in os.environ
    limited = not check_own_memory
    file = FaultFile(options.faults) if options.faults else None

    def poll_faults() -> None:
        plan = file.poll() if file is not None else None
        if plan is not None:
            faults.replace(plan)
            log.info("active faults: %s", plan)
        loop.call_at(time.monotonic() + POLL_INTERVAL, poll_faults)

    def grow_memory() -> None:
        nonlocal limited, growing
        rate = faults.current(boot_time()).memory
        if rate <= 0.0:
            growing = None
            memory_fault.release()
        elif growing is None:
            # Counted before the first allocation, because the last one ends this process.
            growing = threading.Event()
            count_memory_fault(growing.set)
        elif growing.is_set():
            if not limited:
                resource_use.limit_address_space(options.memory)
                limited = True
            memory_fault.grow(rate * MEMORY_FAULT_INTERVAL)
        loop.call_at(time.monotonic() + MEMORY_FAULT_INTERVAL, grow_memory)

    def check_memory() -> None:
        if resource_use.resident_bytes() > options.memory:
            log.warning(
                "out of memory: the worker uses more than its limit of %d bytes (worker-memory)", options.memory
            )
            resource_use.kill_out_of_memory()
        loop.call_at(time.monotonic() + MEMORY_CHECK_INTERVAL, check_memory)

    poll_faults()
    grow_memory()
    if check_own_memory:
        check_memory()


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise WorkerError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    return listener


if __name__ == "__main__":
    sys.exit(main())
