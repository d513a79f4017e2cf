"""The Flask application: three answers, byte for byte as the contract has them.

It says what is answered, never when: behind the worker's server an `Exchange` in the WSGI environment has drawn the fault,
served the delay and will see to the commit. Under any other WSGI server the view does those three itself, blocking, so the
application is whole without our server too.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from worker_app.draws import Draw
from worker_app.errors import NotCommitted
from worker_app.exchange import ENVIRON_KEY, INTERNAL, UNAVAILABLE
from worker_app.ledger import VERDICT
from worker_app.stats import render
from worker_app.store import StatsReader
from worker_app.tally import Record

log = logging.getLogger("worker_app")

FAILED = b'{"error":"injected failure"}'
HEALTHY = b'{"status":"ok"}'


@dataclass(frozen=True, slots=True)
class Services:
    """What the application needs of the worker. `next_draw` and `count` serve requests that no exchange carries;
    `count` blocks until the record is committed and tells whether it was."""

    greeting: str
    reader: StatsReader
    next_draw: Callable[[], Draw]
    count: Callable[[Record], bool]


def create_app(services: Services) -> Flask:
    app = Flask("worker_app", static_folder=None)
    # The socket listens already when the application is made. The clock is the host's, and so the supervisor's.
    listening = f"{time.monotonic():.6f}"
    hello_body = json.dumps({"message": services.greeting}, separators=(",", ":")).encode()

    @app.get("/api/v1/hello")
    def hello() -> Response:
        exchange = request.environ.get(ENVIRON_KEY)
        if exchange is None:
            return _hello_blocking(services, hello_body)
        return _hello(exchange.draw, hello_body)

    @app.get("/worker/stats")
    def stats() -> Response:
        try:
            return _json(render(services.reader.rows()).encode())
        except NotCommitted as error:
            log.warning("statistics cannot be read: %s", error)
            return _json(UNAVAILABLE, 503)

    @app.get("/healthz")
    def healthz() -> Response:
        response = _json(HEALTHY)
        response.headers["X-Comet-Listening"] = listening
        return response

    @app.errorhandler(HTTPException)
    def known(error: HTTPException) -> Response:
        response = _json(json.dumps({"error": (error.name or "error").lower()}, separators=(",", ":")).encode(), error.code or 500)
        if error.code == 405:
            response.headers["Allow"] = dict(error.get_headers()).get("Allow", "GET, HEAD, OPTIONS")
        elif error.code in (301, 307, 308):
            return error.get_response()  # type: ignore[return-value]
        return response

    @app.errorhandler(Exception)
    def unplanned(error: Exception) -> Response:
        exchange = request.environ.get(ENVIRON_KEY)
        if exchange is not None:
            exchange.unplanned = True
        log.error("unplanned exception at %s", request.path, exc_info=error)
        return _json(INTERNAL, 500)

    return app


def _hello(draw: Draw, body: bytes) -> Response:
    if draw.fails():
        return _json(FAILED, draw.settings.status)
    return _json(body)


def _hello_blocking(services: Services, body: bytes) -> Response:
    started = time.monotonic()
    draw = services.next_draw()
    time.sleep(draw.delay)
    response = _hello(draw, body)
    record = Record(draw.fails(), round((time.monotonic() - started) * 1e6), injected=("failure",) if draw.fails() else ())
    return response if services.count(record) else _json(UNAVAILABLE, 503)


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, content_type="application/json")


class BlockingEntry:
    """A ledger entry for a thread that waits: `settled` is set by the ledger's notify."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.deadline = time.monotonic() + VERDICT
        self.committed = False
        self._done = threading.Event()

    def settled(self, committed: bool) -> None:
        self.committed = committed
        self._done.set()

    def wait(self) -> bool:
        self._done.wait()
        return self.committed
