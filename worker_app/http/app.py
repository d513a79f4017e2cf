"""Defines the Flask application: three responses, byte for byte as docs/http.md shows them.

It decides what the response is, never when it is sent. Behind the worker's server an `Exchange` in the WSGI environment
has sampled the fault and waited for the delay, and commits afterwards. Under any other WSGI server the view does all
three and blocks, so the application is complete without the worker's server.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from fault_rules import COUNTS_FIELD, Sample, counts_text
from worker_app.common.errors import NotCommitted
from worker_app.http.exchange import ENVIRON_KEY, INTERNAL, UNAVAILABLE
from worker_app.stats.batch import Record
from worker_app.stats.commit_queue import COMMIT_TIMEOUT
from worker_app.stats.rows import render
from worker_app.stats.store import StatsReader

log = logging.getLogger("worker_app")

FAILED = b'{"error":"injected failure"}'
MARKED = ("failure", "truncate")
"""The injected faults of which a response says that it was injected: a load balancer counts these apart."""
HEALTHY = b'{"status":"ok"}'


@dataclass(frozen=True, slots=True)
class Services:
    """What the application needs from the worker.

    `next_sample` and `count` are for requests without an exchange; `count` blocks until the commit and returns its
    success. `counts_left` says how many requests each counted lease of faults still applies to.
    """

    greeting: str
    reader: StatsReader
    next_sample: Callable[[], Sample]
    count: Callable[[Record], bool]
    counts_left: Callable[[], Mapping[str, int]]


def create_app(services: Services) -> Flask:
    app = Flask("worker_app", static_folder=None)
    # The socket already listens. The clock is the host's, so the supervisor can compare the time with its own.
    listening = f"{time.monotonic():.6f}"
    hello_body = json.dumps({"message": services.greeting}, separators=(",", ":")).encode()

    @app.get("/api/v1/hello")
    def hello() -> Response:
        exchange = request.environ.get(ENVIRON_KEY)
        if exchange is None:
            return _hello_blocking(services, hello_body)
        return _hello(exchange.sample, hello_body)

    @app.get("/worker/stats")
    def stats() -> Response:
        try:
            response = _json(render(services.reader.rows()).encode())
        except NotCommitted as error:
            log.warning("statistics cannot be read: %s", error)
            response = _json(UNAVAILABLE, 503)
        response.headers["Cache-Control"] = "no-store"  # The counts change with every request.
        return response

    @app.get("/healthz")
    def healthz() -> Response:
        response = _json(HEALTHY)
        response.headers["X-Comet-Listening"] = listening
        if left := services.counts_left():
            response.headers[COUNTS_FIELD] = counts_text(left)
        return response

    @app.errorhandler(HTTPException)
    def known(error: HTTPException) -> Response:
        response = _json(
            json.dumps({"error": (error.name or "error").lower()}, separators=(",", ":")).encode(), error.code or 500
        )
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


def _hello(sample: Sample, body: bytes) -> Response:
    response = _json(FAILED, sample.settings.status) if sample.fails() else _json(body)
    if sample.kind in MARKED:
        response.headers["X-Comet-Injected"] = sample.kind
    return response


def _hello_blocking(services: Services, body: bytes) -> Response:
    started = time.monotonic()
    sample = services.next_sample()
    time.sleep(sample.delay)
    response = _hello(sample, body)
    record = Record(
        sample.fails(), round((time.monotonic() - started) * 1e6), injected=("failure",) if sample.fails() else ()
    )
    return response if services.count(record) else _json(UNAVAILABLE, 503)


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, content_type="application/json")


class BlockingEntry:
    """An entry of the commit queue for a thread that waits until the queue calls `on_committed`."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.deadline = time.monotonic() + COMMIT_TIMEOUT
        self.committed = False
        self._done = threading.Event()

    def on_committed(self, committed: bool) -> None:
        self.committed = committed
        self._done.set()

    def wait(self) -> bool:
        self._done.wait()
        return self.committed
