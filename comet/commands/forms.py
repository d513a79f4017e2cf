"""Describes the page's dialogs for commands: their words, and the fields of which a request is made.

Pure. A command without words of its own gets them from its name and help. `described` is all that the page knows of a
command.
"""

from typing import Any

from comet.commands.command import Command, Field, Form, Input

REPLICA = Input("Replica", names="running")
WORKER = Input("Worker", names="workers")
TARGET = Input(
    "What", names="replicas", choices=(("all", "everything"), ("lb", "all load balancers"), ("worker", "all workers"))
)
FAULTY = Input("Where", names="workers")
SIGNAL = Input(
    "Signal",
    choices=(
        ("KILL", "KILL, as a crash"),
        ("TERM", "TERM, a request to end"),
        ("STOP", "STOP, so that it hangs"),
        ("CONT", "CONT, to resume after STOP"),
        ("SEGV", "SEGV, as a memory fault"),
    ),
)
WORKERS = Input("Workers", counts="workers")
BALANCERS = Input("Load balancers", counts="lbs")
TIME = Input("For", first=30, unit="seconds; empty: until resumed")

HIDDEN = Form(place=0)
"""For a command that the page gives in another way."""

SCALE = Form(
    "Scale",
    "It is done when new replicas are ready. Surplus replicas finish their requests first.",
    done="Scaled to {worker: worker} and {pool: load balancer}",
    place=1,
)
RESTART = Form(
    "Restart",
    "Each replacement is ready before the old replica ends: no request is lost.",
    done="Restarted {target}",
    place=2,
)
FAULTS = Form(
    "Faults",
    "Fields show what is effective now; only what you change is sent.",
    yes="Apply",
    done="Faults of {target} changed",
    fields=("target",),
    place=3,
)
DRAIN = Form(
    "Drain",
    "It gets no new requests until it is undrained, and those in flight finish. It keeps running and is checked as "
    "before.",
    yes="Apply",
    order="no new requests",
    done="{name} gets no new requests",
    reverse="undrain",
    reversible="drained",
    place=4,
)
UNDRAIN = Form("Undrain", order="requests again", done="{name} gets requests")
PAUSE = Form(
    "Pause",
    "New requests wait in the load balancers, those in flight finish. Afterwards all go on.",
    yes="Apply",
    order="requests wait",
    done="Requests wait",
    reverse="resume",
    reversible="paused",
    place=5,
)
RESUME = Form("Resume", order="requests go on", done="Requests go on")
KILL = Form(
    "Kill",
    "It dies at once, with its requests in flight. The supervisor restarts it: watch how long that takes.",
    yes="Kill it",
    done="SIG{signal} sent to {name}",
    is_risky=True,
    place=6,
)
RELOAD = Form(
    "Reload",
    "Changes of config.yaml apply live where possible; other replicas are replaced one by one. An invalid file is "
    "refused and changes nothing.",
    done="Reloaded config.yaml; changed: {changed}",
    place=7,
)
STOP = Form(
    "Stop",
    "Every replica finishes its requests and is removed. Then the supervisor and this page end.",
    yes="Stop everything",
    done="The cluster is stopping",
    is_risky=True,
    place=8,
)
DEMO = Form(
    "Demo",
    "For a minute the server of this page sends requests. Meanwhile a load balancer and a worker are killed, and a "
    "built-in worker answers 500. It ends by itself; do not use it on a cluster that others use.",
    yes="Start the demo",
    done="The demo runs for {for} s",
    place=0,
)


def described(command: Command) -> dict[str, Any]:
    """Return what the page has to know of a command to ask for it."""
    form = command.form
    title = form.title or command.name.capitalize()
    return {
        "name": command.name,
        "title": title,
        "why": form.why or f"{command.help[:1].upper()}{command.help[1:]}.",
        "yes": form.yes or title,
        "done": form.done or f"{title}: done",
        "risky": form.is_risky,
        "place": form.place,
        "order": form.order,
        "reverse": form.reverse,
        "reversible": form.reversible,
        "fields": [_field(name, command.http_fields[name]) for name in form.fields or command.http_fields],
    }


def _field(name: str, field: Field) -> dict[str, Any]:
    schema, shown = field.schema or {}, field.input
    types = [schema["type"]] if isinstance(schema.get("type"), str) else schema.get("type", [])
    number = next((each for each in types if each in ("integer", "number")), None)
    choices = shown.choices or tuple((value, value) for value in schema.get("enum", ()))
    limits = {"min": schema.get("minimum"), "max": schema.get("maximum"), "step": 1 if number == "integer" else "any"}
    return {
        "name": name,
        "label": shown.label or name.replace("-", " ").capitalize(),
        "type": _type(types, number, bool(choices or shown.names)),
        "names": shown.names,
        "choices": choices,
        "first": shown.first if shown.first is not None else schema.get("default"),
        "counts": shown.counts,
        "unit": shown.unit,
        "limits": limits if number and not choices else {},
        "required": field.required,
    }


def _type(types: list[str], number: str | None, is_choice: bool) -> str:
    if is_choice:
        return "choice"
    return "number" if number else "check" if "boolean" in types else "text"
