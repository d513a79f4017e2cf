"""`python -m worker_app`: one worker. Wires the parts, then serves until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence

from worker_app import __doc__ as summary
from worker_app import address, burn
from worker_app.app import BlockingEntry, Services, create_app
from worker_app.draws import Faults
from worker_app.errors import WorkerError
from worker_app.eventloop import EventLoop
from worker_app.faults import FaultPlan, FaultSettings
from worker_app.identity import CONTAINER, PROCESS, of_this_process
from worker_app.ledger import Ledger, Notify
from worker_app.server import WorkerServer
from worker_app.tally import Record
from worker_app.watch import INTERVAL, FaultFile

log = logging.getLogger("worker_app")

HOG_STEP = 0.1  # seconds between two bites of the memory fault


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m worker_app", description=(summary or "").splitlines()[0])
    parser.add_argument("--listen", metavar="HOST:PORT", type=_address, default=("127.0.0.1", 8080), help="port 0: any free one")
    parser.add_argument("--name", default="worker-0", help="the name in log lines")
    parser.add_argument(
        "--identity", choices=(CONTAINER, PROCESS), default=PROCESS, help="greet with and count under the host name or the PID"
    )
    parser.add_argument("--threads", metavar="N|auto", type=_threads, default=None, help="requests worked on at a time; auto: any number")
    parser.add_argument("--faults", metavar="FILE", help="JSON file of the fault settings, watched")
    parser.add_argument("--no-faults", action="store_true", help="no delay and no failure: somebody else brings them about")
    parser.add_argument("--seed", type=int, help="the n-th request gets the n-th draw of this seed")
    parser.add_argument("--request-ledger", action="store_true", help="keep the X-Request-Id of each counted request, with its count")
    parser.add_argument("--grace", metavar="SECONDS", type=float, default=10.0, help="how long a stop waits for requests in flight")
    parser.add_argument(
        "--linger",
        metavar="SECONDS",
        type=float,
        default=0.0,
        help="how long a stop goes on accepting, where it is not announced to clients",
    )
    parser.add_argument("--memory", metavar="BYTES", type=int, default=256 << 20, help="limit of the memory fault in a process")
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
    options = arguments(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=f"{options.name}: %(message)s")
    logging.getLogger("waitress").setLevel(logging.ERROR)
    try:
        return serve(options)
    except WorkerError as error:
        print(f"{options.name}: {error}", file=sys.stderr)
        return 1


def serve(options: argparse.Namespace) -> int:
    """Run until stopped. WorkerError: the port or the database cannot be had."""
    identity = of_this_process(options.identity)
    loop = EventLoop()
    # Signals wake the loop, whatever it waits for; they are dealt with in its next turn.
    stops: list[int] = []
    server: WorkerServer | None = None

    def on_signal(number: int, frame: object) -> None:
        stops.append(number)
        loop.call_from_thread(stop)

    def stop() -> None:
        if server is None:
            return
        if options.linger and len(stops) == 1:
            loop.call_at(time.monotonic() + options.linger, shut_down)
        else:
            shut_down()

    def shut_down() -> None:
        if server is not None:
            server.shut_down(options.grace)

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    listener = _bind(*options.listen)
    database = address.at(address.given())
    store = database.store(identity.row_name)
    store.open()
    plan = FaultPlan(FaultSettings(avg_delay=0.0, failure=0.0)) if options.no_faults else FaultPlan()
    faults = Faults(plan, started=_boottime(), boot_id=_boot_id(), seed=options.seed)
    ledgers: list[Ledger] = []

    def ledger_of(notify: Notify) -> Ledger:
        ledgers.append(Ledger(store, notify))
        ledgers[0].start()
        return ledgers[0]

    def count(record: Record) -> bool:
        entry = BlockingEntry(record)
        ledgers[0].submit([entry])
        return entry.wait()

    application = create_app(Services(identity.greeting(), database.reader(), lambda: faults.next(_boottime()), count))
    server = WorkerServer(application, listener, loop, faults, ledger_of, options.threads, options.request_ledger)
    _follow_faults(loop, options, faults, lambda: ledgers[0].note_now(injected="memory"))
    host, port = listener.getsockname()[:2]
    log.info("%s listening on %s:%d, counting as %s", identity.greeting().removeprefix("hello from "), host, port, store.name)
    if stops:
        server.shut_down(options.grace)
    loop.run()
    if not ledgers[0].close(max(1.0, options.grace)):
        log.warning("stopped with uncommitted statistics; their requests were not answered")
    log.info("stopped")
    return 0


def _follow_faults(loop: EventLoop, options: argparse.Namespace, faults: Faults, grows: Callable[[], None]) -> None:
    """Keep the fault file's word; `grows` is called when the memory fault begins."""
    hog = burn.Hog()
    growing = False
    capped = options.identity == CONTAINER
    file = FaultFile(options.faults) if options.faults else None

    def look() -> None:
        plan = file.poll() if file is not None else None
        if plan is not None:
            faults.replace(plan)
            log.info("faults in force: %s", plan.base)
        loop.call_at(time.monotonic() + INTERVAL, look)

    def bite() -> None:
        nonlocal capped, growing
        appetite = faults.current(_boottime()).memory
        if appetite <= 0.0:
            growing = False
            hog.release()
        elif not growing:
            # Told before the first bite: the last one tells nothing any more.
            growing = True
            grows()
        else:
            if not capped:
                burn.cap_process(options.memory)
                capped = True
            hog.grow(appetite * HOG_STEP)
        loop.call_at(time.monotonic() + HOG_STEP, bite)

    look()
    bite()


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise WorkerError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    return listener


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
