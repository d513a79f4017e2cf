"""The Flask application: what the admin server answers, and to whom.

Reads render the picture; writes become commands of the control socket, with the words and refusals of the command line.
"""

import concurrent.futures
import json
import logging
import mimetypes
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from flask import Flask, Response, abort, request
from itsdangerous import BadSignature, TimestampSigner
from werkzeug.exceptions import HTTPException
from werkzeug.security import safe_join

from comet.admin import forms, guard, openapi, rows
from comet.admin.picture import Picture
from comet.control import Silent
from comet.errors import Busy, Unknown, UserError

log = logging.getLogger("comet.admin")

PAGE = Path(__file__).parent / "page"

SESSION_LIFE = 12 * 3600
"""Seconds for which the session that `GET /` gave is good for writes."""

MAX_BODY = 64 << 10

PATIENCE = 2.0
"""Seconds that a write waits for its outcome before it is answered with 202."""

LONGEST_WAIT = 900.0
"""Seconds that a write waits at most where the client asks for it (`Prefer: wait=900`, RFC 7240), as the page does to tell the end."""

LONG_WAITS = 2
"""So many writes may wait for long at a time: each holds one of the server's threads."""

UNDER_WAY = 8
"""Commands that may be under way at a time; the supervisor itself refuses a second operation."""

Number = TypeVar("Number", int, float)
Command = Callable[[str, dict[str, Any]], Any]


@dataclass(frozen=True)
class Services:
    """What the application needs of its process. `command` asks the supervisor (see `comet.control.call`), `metrics` renders them."""

    picture: Picture
    token: str
    command: Command
    metrics: Callable[[], bytes]


def create_app(services: Services) -> Flask:
    app = Flask("comet.admin", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.json.sort_keys = False  # type: ignore[attr-defined]
    pool = concurrent.futures.ThreadPoolExecutor(UNDER_WAY, "command")
    _guard(app)
    _reads(app, services.picture, services.metrics)
    _page(app, services, TimestampSigner(services.token, salt="comet.session"))
    _writes(app, services, pool)
    _errors(app)
    return app


def _guard(app: Flask) -> None:
    @app.before_request
    def check_host() -> Response | None:
        refusal = guard.check_host([value for name, value in request.headers if name.lower() == "host"])
        return _error(refusal.status, refusal.error) if refusal else None

    @app.after_request
    def harden(response: Response) -> Response:
        for name, value in guard.HEADERS.items():
            response.headers.setdefault(name, value)
        return response


def _reads(app: Flask, picture: Picture, metrics: Callable[[], bytes]) -> None:
    @app.get("/healthz")
    def healthz() -> Response:
        return _json({"status": "ok"})

    @app.get("/readyz")
    def readyz() -> Response:
        if picture.stale:
            return _error(503, "the supervisor does not say anything")
        return _json({"status": "ok"}) if picture.ready else _error(503, "not all replicas are ready")

    @app.get("/api/v1/cluster")
    def cluster() -> Response:
        rendered = picture.cluster()
        return _error(503, "the supervisor has not said anything yet") if rendered is None else _body(rendered)

    @app.get("/api/v1/events")
    def events() -> Response:
        return _json(picture.events_after(_number("after", int)))

    @app.get("/api/v1/history")
    def history() -> Response:
        return _json(picture.history_after(_number("after", float)))

    description = json.dumps(openapi.document()).encode()

    @app.get("/api/v1/openapi.json")
    def describe() -> Response:
        return _body(description)

    @app.get("/metrics")
    def show_metrics() -> Response:
        return Response(metrics(), content_type="text/plain; version=0.0.4; charset=utf-8")


def _page(app: Flask, services: Services, signer: TimestampSigner) -> None:
    @app.get("/")
    def index() -> Response:
        page = (PAGE / "index.html").read_text()
        response = Response(rows.fill(page, services.picture.replicas()), content_type="text/html; charset=utf-8")
        response.headers["Content-Security-Policy"] = guard.page_policy(page)
        if not _has_session(signer):
            response.set_cookie(_cookie(), signer.sign(b"dashboard").decode(), max_age=SESSION_LIFE, httponly=True, samesite="Strict")
        return response

    @app.get("/<name>")
    def asset(name: str) -> Response:
        return _file(name)

    app.extensions["comet-signer"] = signer


def _writes(app: Flask, services: Services, pool: concurrent.futures.Executor) -> None:
    waits = threading.BoundedSemaphore(LONG_WAITS)

    def write(command: str) -> Response:
        refusal = guard.check_write(request.headers, services.token, lambda: _has_session(app.extensions["comet-signer"]))
        if refusal is not None:
            return _error(refusal.status, refusal.error)
        try:
            fields = forms.read(command, request.get_json(silent=False))
        except UserError as error:
            return _error(400, error.message)
        except RecursionError:
            return _error(400, "the body is nested too deeply")
        return _outcome(command, pool.submit(services.command, command, fields), waits)

    for command in forms.FORMS:
        app.add_url_rule(f"/api/v1/{command}", command, write, methods=["POST"], defaults={"command": command})


def _outcome(command: str, asked: "concurrent.futures.Future[Any]", waits: threading.Semaphore) -> Response:
    """What became of a command, or 202 for one that takes its time."""
    try:
        return _json({"done": command, "result": _await(asked, waits)})
    except concurrent.futures.TimeoutError:
        return _json({"accepted": command}, 202)
    except Unknown as error:
        return _error(404, error.message)
    except Busy as error:
        return _error(409, error.message)
    except (Silent, ConnectionError) as error:
        return _error(503, f"the supervisor cannot be asked: {error}")
    except UserError as error:
        return _error(400 if error.exit_code == 2 else 409, error.message)


def _await(asked: "concurrent.futures.Future[Any]", waits: threading.Semaphore) -> Any:
    """The command's result; TimeoutError where there is none within the time that the client wishes and we can afford."""
    wished = re.search(r"(?:^|[,;\s])wait=(\d{1,6})", request.headers.get("Prefer", ""))
    try:
        return asked.result(PATIENCE)
    except concurrent.futures.TimeoutError:
        if wished is None or not waits.acquire(blocking=False):
            raise
    try:
        return asked.result(max(0.0, min(float(wished[1]), LONGEST_WAIT) - PATIENCE))
    finally:
        waits.release()


def _errors(app: Flask) -> None:
    @app.errorhandler(HTTPException)
    def known(error: HTTPException) -> Response:
        code = error.code or 500
        response = _error(code, (error.description if code == 400 else None) or HTTPStatus(code).phrase.lower())
        for name, value in error.get_headers():
            if name.lower() in ("allow", "location"):
                response.headers[name] = value
        return response

    @app.errorhandler(Exception)
    def unplanned(error: Exception) -> Response:
        log.error("unplanned exception at %s", request.path, exc_info=error)
        return _error(500, "internal error (.comet/logs/admin.log has more)")


def _file(name: str) -> Response:
    """A file of the page; 404 for anything else."""
    path = safe_join(str(PAGE), name)
    try:
        content = Path(path or "").read_bytes()
    except (OSError, ValueError):
        abort(404)
    return Response(content, mimetype=mimetypes.guess_type(name)[0] or "application/octet-stream")


def _number(name: str, kind: Callable[[str], Number]) -> Number:
    """A number of the query, 0 where it is not given."""
    try:
        value = kind(request.args.get(name, "0"))
    except ValueError:
        abort(400, f"{name}: a number from 0 on is wanted")
    if not 0 <= value < 2**53:
        abort(400, f"{name}: a number from 0 on is wanted")
    return value


def _cookie() -> str:
    """Cookies know no ports: two clusters on one machine must not take each other's."""
    return f"comet-session-{request.host.rpartition(':')[2]}"


def _has_session(signer: TimestampSigner) -> bool:
    try:
        signer.unsign(request.cookies.get(_cookie(), ""), max_age=SESSION_LIFE)
    except BadSignature:
        return False
    return True


def _json(content: Any, status: int = 200) -> Response:
    return _body(json.dumps(content, separators=(",", ":")).encode(), status)


def _body(content: bytes, status: int = 200) -> Response:
    return Response(content, status, content_type="application/json")


def _error(status: int, text: str) -> Response:
    return _json({"error": text}, status)
