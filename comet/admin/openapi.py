"""Describes the admin API in OpenAPI 3.1, served at `/api/v1/openapi.json` and enforced by the tests.

It is written by hand and close to the code: fields come from the dataclasses and the key tables that the answers are
built from, so that neither can change without the other. Objects are open: a later version may add fields.
"""

import types
from dataclasses import fields
from typing import Any, Union, get_args, get_origin, get_type_hints

from comet import __version__
from comet.admin.schemas import MAX_LOG_LINES, MAX_LOGS
from comet.commands.command import Command
from comet.commands.table import over_http
from comet.config.keys import KEYS, LIMITS
from comet.inspection.rows import MOST_REPLICAS
from comet.telemetry.columns import COLUMNS
from comet.telemetry.snapshot import Edge, Row, SupervisorRow, Total

Schema = dict[str, Any]

_JSON_TYPES: dict[Any, str] = {
    int: "integer",
    float: "number",
    str: "string",
    bool: "boolean",
    type(None): "null",
    dict: "object",
    list: "array",
}

_COUNT = {"minimum": 0, "maximum": 2**53 - 1}


def document() -> Schema:
    """Return the whole description."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Comet admin API",
            "version": __version__,
            "description": (
                "On 127.0.0.1 only. Reads need no token and show no secrets without one; writes need it or a session."
            ),
        },
        "paths": _reads() | _writes(),
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "The content of .comet/admin.token."},
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "comet-session-PORT",
                    "description": "The dashboard's session cookie; writes with it also need Origin.",
                },
            },
            "schemas": _schemas(),
        },
    }


def _reads() -> Schema:
    after, since = (
        {"name": "after", "in": "query", "schema": {"type": kind} | _COUNT} for kind in ("integer", "number")
    )
    status = _object({"status": {"const": "ok"}})
    return {
        "/api/v1/cluster": _get(
            "The cluster as it is: `ps --json` with config, events and history", _ref("Cluster"), also=(503,)
        ),
        "/api/v1/events": _get("Events numbered above `after`", _ref("Events"), after, also=(400,)),
        "/api/v1/history": _get(
            "Samples, one a second, that ended later than `after` (epoch, s)", _ref("History"), since, also=(400,)
        ),
        "/api/v1/inspect": _inspect(),
        "/api/v1/logs": _logs(),
        "/api/v1/openapi.json": _get("This description", {"type": "object"}),
        "/healthz": _get("Whether the admin server answers", status),
        "/readyz": _get("Whether every wanted replica is ready", status, also=(503,)),
        "/metrics": {
            "get": {
                "summary": "Metrics in Prometheus's text format",
                "operationId": "metrics",
                "responses": _responses(None, "text/plain", also=(403,)),
            }
        },
    }


def _inspect() -> Schema:
    """Return the one read that needs the right to write: it shows command lines and what processes hold."""
    names = {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": MOST_REPLICAS}
    parameter = {"name": "name", "in": "query", "required": True, "schema": names}
    summary = "What kernel and engine know of replicas, side by side: `inspect --json`; needs the right to write"
    described = _get(summary, _ref("Inspection"), parameter, also=(400, 401, 404, 409, 503))
    described["get"] |= {"operationId": "inspect", "security": [{"token": []}, {"session": []}]}
    return described


def _logs() -> Schema:
    """Return the read of what replicas printed; it needs the right to write, since logs may hold secrets."""
    names = {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": MAX_LOGS}
    lines = {"type": "integer", "minimum": 1, "maximum": MAX_LOG_LINES, "default": MAX_LOG_LINES}
    parameters = (
        {"name": "name", "in": "query", "required": True, "schema": names},
        {"name": "lines", "in": "query", "schema": lines},
    )
    text = {"type": "string"}
    log = {"type": "array", "items": _object({"name": text, "text": text})}
    summary = "The last lines that replicas printed, with how their lives ended; needs the right to write"
    described = _get(summary, _object({"logs": log}), *parameters, also=(400, 401, 404))
    described["get"] |= {"operationId": "logs", "security": [{"token": []}, {"session": []}]}
    return described


def _writes() -> Schema:
    return {f"/api/v1/{name}": {"post": _post(command)} for name, command in over_http().items()}


def _post(command: Command) -> Schema:
    name, fields = command.name, command.http_fields
    required = tuple(field for field, each in fields.items() if each.required)
    body = _object({field: each.schema for field, each in fields.items()}, required, closed=True)
    body |= {"minProperties": command.minimum} if command.minimum else {}
    answers = _responses(
        _object({"done": {"const": name}, "result": {}}), also=(400, 401, 403, 404, 409, 413, 415, 503)
    )
    answers["202"] = _response("Accepted; the events report the outcome", _object({"accepted": {"const": name}}))
    return {
        "summary": f"Run the command `{name}`",
        "operationId": name,
        "security": [{"token": []}, {"session": []}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": answers,
    }


def _get(summary: str, schema: Schema, *parameters: Schema, also: tuple[int, ...] = ()) -> Schema:
    name = summary.split(":")[0]
    return {
        "get": {
            "summary": summary,
            "operationId": name,
            "parameters": list(parameters),
            "responses": _responses(schema, also=(403, *also)),
        }
    }


def _responses(schema: Schema | None, kind: str = "application/json", also: tuple[int, ...] = ()) -> Schema:
    refusals = {str(status): _response("Refused", _ref("Error")) for status in sorted(also)}
    return {"200": _response("The answer", schema or {"type": "string"}, kind), **refusals}


def _response(description: str, schema: Schema, kind: str = "application/json") -> Schema:
    return {"description": description, "content": {kind: {"schema": schema}}}


def _schemas() -> Schema:
    event = _object(
        {
            "at": {"type": "string"},
            "event": {"type": "string"},
            "number": {"type": "integer"},
            "text": {"type": "string"},
        },
        required=("at", "event", "text"),
    )
    numbers = {"type": "array", "items": {"type": ["number", "null"]}}
    history = dict.fromkeys(("at", "requests_per_s", "errors_per_s", "p50_ms", "p99_ms", "in_flight"), numbers)
    return {
        "Error": _object({"error": {"type": "string"}}),
        "Supervisor": _dataclass_schema(SupervisorRow),
        "Replica": _replica(),
        "Edge": _dataclass_schema(Edge),
        "Total": _dataclass_schema(Total),
        "Event": event,
        "Events": _object({"events": _array_of("Event"), "last": {"type": "integer"}}),
        "History": _object({**history, "replicas": {"type": "object"}}, required=tuple(history)),
        "Inspection": _inspection(),
        "Cluster": _object(
            {
                "supervisor": _ref("Supervisor"),
                "replicas": _array_of("Replica"),
                "edges": _array_of("Edge"),
                "total": _ref("Total"),
                "ready": {"type": "boolean"},
                "stopping": {"type": "boolean", "description": "whether the cluster is being stopped"},
                "writable": {
                    "type": "boolean",
                    "description": (
                        "whether this reader may also write; without that right, possible secrets are masked"
                    ),
                },
                "silent_s": {
                    "type": "number",
                    "description": "seconds since the supervisor's last message; it sends one a second",
                },
                "config": _object(
                    {name: {} for name in KEYS | LIMITS} | {"limits": _object({name: {} for name in LIMITS})}
                ),
                "recoveries": {"type": "object"},
                "latency_bounds_s": {"type": "array", "items": {"type": "number"}},
                "front": _object({name: {"type": "string"} for name in ("scheme", "host", "path")}),
                "load": {
                    "type": ["object", "null"],
                    "description": "what the admin server itself sends (`load`, `demo`); null: nothing",
                },
                "events": _array_of("Event"),
                "history": _ref("History"),
            }
        ),
    }


def _replica() -> Schema:
    """Return the schema of a row, with what columns compute of it."""
    schema = _dataclass_schema(Row)
    schema["properties"] |= {each.key: {} for each in COLUMNS if each.key not in schema["properties"]}
    return schema


def _inspection() -> Schema:
    text = {"type": "string"}
    optional = {"type": ["string", "null"]}
    value = _object({"text": text, "value": {}, "missing": optional, "remedy": optional})
    row = dict.fromkeys(("key", "group", "heading", "meaning"), text)
    replica = dict.fromkeys(("name", "role", "kind"), text) | {"pid": {"type": "integer"}, "container": optional}
    return _object(
        {
            "machine": _object({"kernel": text, "host": text}),
            "replicas": {"type": "array", "items": _object(replica)},
            "rows": {
                "type": "array",
                "items": _object(row | {"differs": {"type": "boolean"}, "values": {"type": "array", "items": value}}),
            },
        }
    )


def _dataclass_schema(cls: Any) -> Schema:
    """Return the schema of a dataclass with plain values."""
    hints = get_type_hints(cls)
    return _object({each.name: {"type": _type_names(hints[each.name])} for each in fields(cls)})


def _type_names(hint: Any) -> list[str]:
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return [_JSON_TYPES[get_origin(part) or part] for part in parts]


def _object(properties: Schema, required: tuple[str, ...] | None = None, closed: bool = False) -> Schema:
    schema: Schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties if required is None else required),
    }
    return schema | ({"additionalProperties": False} if closed else {})


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _array_of(name: str) -> Schema:
    return {"type": "array", "items": _ref(name)}
