"""The page's dialogs, as the commands declare them."""

import re

from comet.commands import forms
from comet.commands.command import Command, Field, words_field
from comet.commands.table import COMMANDS, over_http

FIELDS = {"name": words_field("a worker's name"), "often": Field({"type": "integer", "minimum": 1})}
GREET = Command("greet", "greet a worker", fields=FIELDS, over_http=True)


def test_a_command_without_words_gets_a_dialog_from_its_help() -> None:
    found = forms.described(GREET)
    assert (found["title"], found["why"], found["yes"], found["done"]) == (
        "Greet", "Greet a worker.", "Greet", "Greet: done",
    )  # fmt: skip
    assert found["place"] > max(command.form.place for name, command in COMMANDS.items() if name in ("stop", "reload"))
    assert [(each["name"], each["label"], each["type"], each["required"]) for each in found["fields"]] == [
        ("name", "Name", "text", True),
        ("often", "Often", "number", False),
    ]
    assert found["fields"][1]["limits"] == {"min": 1, "max": None, "step": 1}


def test_what_the_declared_dialogs_name_exists() -> None:
    reverses = set()
    for command in over_http().values():
        form = command.form
        # What an outcome names comes from the request, or from the result of a command that has no such field.
        named = set(re.findall(r"\{([\w-]+)(?:: [^}]+)?\}", form.done))
        assert named <= command.http_fields.keys() | {"changed", "for"}, command.name
        assert set(form.fields) <= command.http_fields.keys()
        if form.reverse:
            reverses.add(form.reverse)
            assert form.order
            assert COMMANDS[form.reverse].form.order
            assert form.reversible
    places = [each.form.place for name, each in over_http().items() if name not in reverses and each.form.place]
    assert sorted(places) == list(range(1, len(places) + 1))


def test_signals_are_offered_by_their_words() -> None:
    (signal,) = [each for each in forms.described(COMMANDS["kill"])["fields"] if each["name"] == "signal"]
    assert (signal["type"], signal["first"], signal["limits"]) == ("choice", "KILL", {})
    assert [value for value, _ in signal["choices"]] == ["KILL", "TERM", "STOP", "CONT", "SEGV"]
