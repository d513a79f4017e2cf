"""Renders a report as one self-contained HTML page: no script, no other file, no address of another host."""

from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from comet.report.cells import fact, label, text
from comet.report.model import Picture, Report, Table
from comet.report.svg import STYLE, draw

ALARMS = ("MISSED", "NOT ", ": NO", "? NO")
"""Words of a note that is bad news."""


def render(report: Report) -> str:
    """Return the whole page."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("comet.report").joinpath("page.html.j2").read_text())
    parts = [(part, "" if isinstance(part, Table) else _drawn(part)) for part in report.parts]
    return template.render(
        report=report, parts=parts, style=STYLE, text=text, label=label, fact=fact, is_alarm=_is_alarm
    )


def _is_alarm(note: str) -> bool:
    return any(word in note for word in ALARMS)


def _drawn(picture: Picture) -> Markup:
    """Mark a picture as safe; the module that draws it escapes what it writes."""
    return Markup(draw(picture, alone=False))  # nosec B704
