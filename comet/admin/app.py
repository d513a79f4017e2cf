"""Defines the Flask application: the admin server's routes, and which clients may use them.

Reads render the view model. Writes become commands of the control socket, with the wording and the refusals of the
command line.
"""

import concurrent.futures
import functools
import json
import logging
import mimetypes
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from flask import Flask, Response, abort, request
from werkzeug.exceptions import HTTPException
from werkzeug.security import safe_join

from comet.admin import html_table, schemas
from comet.admin.access import request_guard
from comet.admin.access.sessions import SESSION_LIFE, Keys
from comet.admin.access.write_access import Access
from comet.admin.view_model import ViewModel
from comet.commands.table import over_http
from comet.common.errors import Busy, Unknown, UserError
from comet.state.control_socket import NotAnswering

log = logging.getLogger("comet.admin")

PAGE = Path(__file__).parent / "page"

MAX_BODY = 64 << 10

RESULT_TIMEOUT = 2.0
"""Seconds that a write waits for its outcome before it is answered with 202."""

MAX_WAIT = 900.0
"""Maximum seconds that a write waits if the client asks for it (`Prefer: wait=900`, RFC 7240).

The page does so, to show the outcome.
"""

MAX_WAITING_WRITES = 2
"""Maximum number of writes that wait for long at a time: each holds one of the server's threads."""

TOKEN_FIELD = "token"
"""The query parameter with a link's one-time token."""

MAX_COMMANDS = 8
"""Maximum number of concurrent commands; the supervisor itself refuses a second operation."""

Number = TypeVar("Number", int, float)
Command = Callable[[str, dict[str, Any]], Any]
Inspect = Callable[[list[str]], dict[str, Any]]
ReadLogs = Callable[[list[str], int], list[dict[str, str]]]

INSPECTION_WAIT = 5.0
"""Seconds that a request waits for another client's inspection: they run one at a time, as each reads much of /proc."""


@dataclass(frozen=True)
class Services:
    """The services that the application needs from its process.

    `command` sends a command to the supervisor (see `comet.state.control_socket.call`), `metrics` renders the metrics,
    `peer` returns the uid of the client on whose connection the current request came, `inspect` the report on the named
    replicas (see `comet.inspection.replicas.report`), `logs` the last lines that they printed.
    """

    view_model: ViewModel
    token: str
    command: Command
    metrics: Callable[[], bytes]
    peer: Callable[[], int | None]
    keys: Keys
    inspect: Inspect
    logs: ReadLogs


def create_app(services: Services) -> Flask:
    app = Flask("comet.admin", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.json.sort_keys = False  # type: ignore[attr-defined]
    pool = concurrent.futures.ThreadPoolExecutor(MAX_COMMANDS, "command")
    rights = RequestRights(Access(services.token, services.keys, {0, os.getuid()}), services.peer)
    _guard(app)
    _reads(app, services.view_model, services.metrics, rights)
    _inspection(app, services.inspect, rights)
    _logs(app, services.logs, rights)
    _page(app, services, rights)
    _writes(app, services, pool, rights)
    _errors(app)
    return app


class RequestRights:
    """The rights of the current request."""

    def __init__(self, access: Access, peer: Callable[[], int | None]) -> None:
        self._access = access
        self._peer = peer

    @property
    def has_session(self) -> bool:
        return self._access.has_session(request.cookies.getlist(_cookie()), self._peer())

    @property
    def may_see_all(self) -> bool:
        return self._access.may_see_all(request.headers, self.has_session)

    @property
    def refusal(self) -> request_guard.Refusal | None:
        return self._access.refusal(request.headers, self.has_session)

    @property
    def is_owner(self) -> bool:
        return self._access.is_owner(self._peer(), request.headers.keys(), request.environ.get("SERVER_PROTOCOL", ""))

    def uses_link(self) -> bool:
        """Return whether the query has a valid link token, which is used up by this call."""
        return request.method == "GET" and self._access.open_link(request.args.get(TOKEN_FIELD, ""))

    def give_session(self, response: Response) -> None:
        value = self._access.new_session(self._peer())
        response.set_cookie(_cookie(), value, max_age=SESSION_LIFE, httponly=True, samesite="Strict")


def _guard(app: Flask) -> None:
    @app.before_request
    def check_host() -> Response | None:
        refusal = request_guard.check_host([value for name, value in request.headers if name.lower() == "host"])
        return _error(refusal.status, refusal.error) if refusal else None

    @app.after_request
    def harden(response: Response) -> Response:
        for name, value in request_guard.HEADERS.items():
            response.headers.setdefault(name, value)
        return response


def _reads(app: Flask, view_model: ViewModel, metrics: Callable[[], bytes], rights: RequestRights) -> None:
    @app.get("/healthz")
    def healthz() -> Response:
        return _json({"status": "ok"})

    @app.get("/readyz")
    def readyz() -> Response:
        if view_model.stale:
            return _error(503, "the supervisor sends no updates")
        return _json({"status": "ok"}) if view_model.ready else _error(503, "not all replicas are ready")

    @app.get("/api/v1/cluster")
    def cluster() -> Response:
        rendered = view_model.cluster(rights.may_see_all)
        return _error(503, "the supervisor has sent no state yet") if rendered is None else _body(rendered)

    @app.get("/api/v1/events")
    def events() -> Response:
        return _json(view_model.events_after(_number("after", int), rights.may_see_all))

    @app.get("/api/v1/history")
    def history() -> Response:
        return _json(view_model.history_after(_number("after", float)))

    @app.get("/api/v1/openapi.json")
    def describe() -> Response:
        return _body(_description())

    @app.get("/metrics")
    def show_metrics() -> Response:
        return Response(metrics(), content_type="text/plain; version=0.0.4; charset=utf-8")


@functools.cache
def _description() -> bytes:
    from comet.admin import openapi  # Most servers are never asked for it.

    return json.dumps(openapi.document()).encode()


def _inspection(app: Flask, report: Inspect, rights: RequestRights) -> None:
    turn = threading.Lock()

    @app.get("/api/v1/inspect")
    def inspect() -> Response:
        if not rights.may_see_all:
            return _error(401, request_guard.INSPECTION_REFUSED)
        if not turn.acquire(timeout=INSPECTION_WAIT):
            return _error(503, "another inspection is running; try again")
        try:
            return _json(report(schemas.names(request.args.getlist("name"))))
        except Unknown as error:
            return _error(404, error.message)
        except UserError as error:
            return _error(400 if error.exit_code == 2 else 409, error.message)
        finally:
            turn.release()


def _logs(app: Flask, read: ReadLogs, rights: RequestRights) -> None:
    @app.get("/api/v1/logs")
    def logs() -> Response:
        if not rights.may_see_all:
            return _error(401, request_guard.LOGS_REFUSED)
        try:
            asked = schemas.log_request(
                request.args.getlist("name"), request.args.get("lines", str(schemas.MAX_LOG_LINES))
            )
            return _json({"logs": read(*asked)})
        except Unknown as error:
            return _error(404, error.message)
        except UserError as error:
            return _error(400, error.message)


def _page(app: Flask, services: Services, rights: RequestRights) -> None:
    @app.get("/")
    def index() -> Response:
        by_link = TOKEN_FIELD in request.args and rights.uses_link()
        if by_link or (TOKEN_FIELD in request.args and (rights.has_session or rights.is_owner)):
            # Redirect, so that the token does not stay in the browser's address bar and history.
            response = _body(b"", 303)
            response.headers["Location"] = "/"
        else:
            page = (PAGE / "index.html").read_text()
            response = Response(
                html_table.fill(page, services.view_model.replicas()), content_type="text/html; charset=utf-8"
            )
            response.headers["Content-Security-Policy"] = request_guard.page_policy(page)
            response.status_code = 403 if TOKEN_FIELD in request.args else 200
        if by_link or (not rights.has_session and rights.is_owner):
            rights.give_session(response)
        return response

    @app.get("/<name>")
    def asset(name: str) -> Response:
        return _file(name)


def _writes(app: Flask, services: Services, pool: concurrent.futures.Executor, rights: RequestRights) -> None:
    wait_slots = threading.BoundedSemaphore(MAX_WAITING_WRITES)

    def write(command: str) -> Response:
        refusal = rights.refusal
        if refusal is not None:
            return _error(refusal.status, refusal.error)
        if not request.is_json:
            return _error(415, "Content-Type must be application/json")
        try:
            fields = schemas.read(command, schemas.parse(request.get_data()))
        except UserError as error:
            return _error(400, error.message)
        return _command_response(command, pool.submit(services.command, command, fields), wait_slots)

    for command in over_http():
        app.add_url_rule(f"/api/v1/{command}", command, write, methods=["POST"], defaults={"command": command})


def _command_response(
    command: str, future: "concurrent.futures.Future[Any]", wait_slots: threading.Semaphore
) -> Response:
    """Return the response with a command's outcome, or 202 for one that takes longer."""
    try:
        return _json({"done": command, "result": _await_result(future, wait_slots)})
    except concurrent.futures.TimeoutError:
        return _json({"accepted": command}, 202)
    except Unknown as error:
        return _error(404, error.message)
    except Busy as error:
        return _error(409, error.message)
    except (NotAnswering, ConnectionError) as error:
        return _error(503, f"the supervisor does not answer: {error}")
    except UserError as error:
        return _error(400 if error.exit_code == 2 else 409, error.message)


def _await_result(future: "concurrent.futures.Future[Any]", wait_slots: threading.Semaphore) -> Any:
    """Return the command's result.

    Raises TimeoutError if there is none within the time that the client requests and the server can spare.
    """
    preferred = re.search(r"(?:^|[,;\s])wait=([0-9]{1,6})", request.headers.get("Prefer", ""))
    try:
        return future.result(RESULT_TIMEOUT)
    except concurrent.futures.TimeoutError:
        if preferred is None or not wait_slots.acquire(blocking=False):
            raise
    try:
        return future.result(max(0.0, min(float(preferred[1]), MAX_WAIT) - RESULT_TIMEOUT))
    finally:
        wait_slots.release()


def _errors(app: Flask) -> None:
    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        code = error.code or 500
        response = _error(code, (error.description if code == 400 else None) or HTTPStatus(code).phrase.lower())
        for name, value in error.get_headers():
            if name.lower() in ("allow", "location"):
                response.headers[name] = value
        return response

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        log.error("unexpected exception at %s", request.path, exc_info=error)
        return _error(500, "internal error (details are in .comet/logs/admin.log)")


def _file(name: str) -> Response:
    """Return a file of the page; 404 for anything else."""
    path = safe_join(str(PAGE), name)
    try:
        content = Path(path or "").read_bytes()
    except (OSError, ValueError):
        abort(404)
    return Response(content, mimetype=mimetypes.guess_type(name)[0] or "application/octet-stream")


def _number(name: str, kind: Callable[[str], Number]) -> Number:
    """Return a number of the query, 0 if it is not given; 400 for anything but a number of 0 or more."""
    text = request.args.get(name, "0")
    try:
        value = kind(text)
    except ValueError:
        abort(400, f"{name}: must be a number, 0 or more")
    if not text.isascii() or not 0 <= value < 2**53:
        abort(400, f"{name}: must be a number, 0 or more")
    return value


def _cookie() -> str:
    """Return the name of the session cookie.

    It contains the port, because cookies ignore ports: two clusters on one machine must not overwrite each other's.
    """
    return f"comet-session-{request.host.rpartition(']')[2].partition(':')[2] or '80'}"


def _json(content: Any, status: int = 200) -> Response:
    return _body(json.dumps(content, separators=(",", ":")).encode(), status)


def _body(content: bytes, status: int = 200) -> Response:
    return Response(content, status, content_type="application/json")


def _error(status: int, text: str) -> Response:
    return _json({"error": text}, status)
