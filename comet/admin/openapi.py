"""The description of the admin API, OpenAPI 3.1, served at `/api/v1/openapi.json` and held to by the tests.

By hand and close to the code: fields come from the dataclasses and the key tables that the answers are made of, so that neither can
change without the other. Objects are open: a later version may add fields.
"""

import types
from dataclasses import fields
from typing import Any, Union, get_args, get_origin, get_type_hints

from comet import __version__
from comet.config import KEYS
from comet.faults import SETTINGS
from comet.snapshot import Edge, Row, SupervisorRow, Total

Schema = dict[str, Any]

_PLAIN: dict[Any, str] = {
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
    """The whole description."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Comet admin API",
            "version": __version__,
            "description": "On 127.0.0.1 only. Reads need nothing; writes a token.",
        },
        "paths": _reads() | _writes(),
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "The content of .comet/admin.token."},
                "session": {"type": "apiKey", "in": "cookie", "name": "comet-session-PORT", "description": "Given by GET /; needs Origin."},
            },
            "schemas": _schemas(),
        },
    }


def _reads() -> Schema:
    after, since = ({"name": "after", "in": "query", "schema": {"type": kind} | _COUNT} for kind in ("integer", "number"))
    status = _object({"status": {"const": "ok"}})
    return {
        "/api/v1/cluster": _get("The cluster as it is: `ps --json` with config, events and history", _ref("Cluster"), also=(503,)),
        "/api/v1/events": _get("Events numbered above `after`", _ref("Events"), after, also=(400,)),
        "/api/v1/history": _get("Samples, one a second, that ended later than `after` (epoch, s)", _ref("History"), since, also=(400,)),
        "/api/v1/openapi.json": _get("This description", {"type": "object"}),
        "/healthz": _get("Whether the admin server answers", status),
        "/readyz": _get("Whether every wanted replica is ready", status, also=(503,)),
        "/metrics": {
            "get": {"summary": "For Prometheus", "operationId": "metrics", "responses": _responses(None, "text/plain", also=(403,))},
        },
    }


def _writes() -> Schema:
    number = {"type": "integer", "minimum": 0, "maximum": 200}
    signal = {"type": ["string", "integer"], "default": "KILL"}
    anything = {name: {"type": ["number", "string"]} for name in SETTINGS}
    limits = {"for": {"type": ["number", "string"]}, "count": {"type": ["integer", "string"]}, "clear": {"type": "boolean"}}
    bodies = {
        "scale": _object({"worker": number, "pool": number | {"minimum": 1, "maximum": 64}}, required=(), closed=True)
        | {"minProperties": 1},
        "restart": _object({"target": {"type": "string", "minLength": 1}}, closed=True),
        "kill": _object({"name": {"type": "string", "minLength": 1}, "signal": signal}, required=("name",), closed=True),
        "faults": _object({"target": {"type": "string", "default": "all"}, **anything, **limits}, required=(), closed=True),
        "reload": _object({}, closed=True),
        "stop": _object({}, closed=True),
    }
    return {f"/api/v1/{name}": {"post": _post(name, body)} for name, body in bodies.items()}


def _post(name: str, body: Schema) -> Schema:
    answers = _responses(_object({"done": {"const": name}, "result": {}}), also=(400, 401, 403, 404, 409, 413, 415, 503))
    answers["202"] = _response("Under way; the events tell how it goes", _object({"accepted": {"const": name}}))
    return {
        "summary": f"What the command `{name}` does",
        "operationId": name,
        "security": [{"token": []}, {"session": []}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": answers,
    }


def _get(summary: str, schema: Schema, *parameters: Schema, also: tuple[int, ...] = ()) -> Schema:
    name = summary.split(":")[0]
    return {
        "get": {"summary": summary, "operationId": name, "parameters": list(parameters), "responses": _responses(schema, also=(403, *also))}
    }


def _responses(schema: Schema | None, kind: str = "application/json", also: tuple[int, ...] = ()) -> Schema:
    refused = {str(status): _response("Refused", _ref("Error")) for status in sorted(also)}
    return {"200": _response("As asked", schema or {"type": "string"}, kind), **refused}


def _response(told: str, schema: Schema, kind: str = "application/json") -> Schema:
    return {"description": told, "content": {kind: {"schema": schema}}}


def _schemas() -> Schema:
    event = _object(
        {"at": {"type": "string"}, "event": {"type": "string"}, "number": {"type": "integer"}, "text": {"type": "string"}},
        required=("at", "event", "text"),
    )
    numbers = {"type": "array", "items": {"type": ["number", "null"]}}
    history = dict.fromkeys(("at", "requests_per_s", "errors_per_s", "p50_ms", "p99_ms", "in_flight"), numbers)
    return {
        "Error": _object({"error": {"type": "string"}}),
        "Supervisor": _of(SupervisorRow),
        "Replica": _of(Row),
        "Edge": _of(Edge),
        "Total": _of(Total),
        "Event": event,
        "Events": _object({"events": _listed("Event"), "last": {"type": "integer"}}),
        "History": _object({**history, "replicas": {"type": "object"}}, required=tuple(history)),
        "Cluster": _object(
            {
                "supervisor": _ref("Supervisor"),
                "replicas": _listed("Replica"),
                "edges": _listed("Edge"),
                "total": _ref("Total"),
                "ready": {"type": "boolean"},
                "silent_s": {"type": "number", "description": "seconds since the supervisor last said anything; it does so every second"},
                "config": _object({name: {} for name in KEYS}),
                "recoveries": {"type": "object"},
                "latency_bounds_s": {"type": "array", "items": {"type": "number"}},
                "events": _listed("Event"),
                "history": _ref("History"),
            }
        ),
    }


def _of(cls: Any) -> Schema:
    """The schema of a dataclass of plain values."""
    hints = get_type_hints(cls)
    return _object({each.name: {"type": _names(hints[each.name])} for each in fields(cls)})


def _names(hint: Any) -> list[str]:
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return [_PLAIN[get_origin(part) or part] for part in parts]


def _object(properties: Schema, required: tuple[str, ...] | None = None, closed: bool = False) -> Schema:
    made: Schema = {"type": "object", "properties": properties, "required": list(properties if required is None else required)}
    return made | ({"additionalProperties": False} if closed else {})


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _listed(name: str) -> Schema:
    return {"type": "array", "items": _ref(name)}
