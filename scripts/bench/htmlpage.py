"""A result as one self-contained HTML page: no script, no other file, no address of another host. Pure."""

from collections.abc import Sequence
from html import escape
from typing import Any

from scripts.bench.table import Cell, Table, label, text

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --soft: #5c6670; --rule: #d5dae0;
  --bad: #b42318; --good: #1a7f37; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e6e9ec; --paper: #15191e; --soft: #9aa5b1; --rule: #333c46; --bad: #ff8f85; --good: #5fd380; } }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem;
  font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.soft { color: var(--soft); } .good { color: var(--good); } .bad { color: var(--bad); font-weight: 600; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { text-align: left; padding: .3rem .7rem; border-bottom: 1px solid var(--rule); } .number { text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; } li { margin: .3rem 0; }
svg { width: 100%; max-width: 900px; height: auto; border-radius: 6px; } dt { font-weight: 600; } dd { margin: 0 0 .3rem 1rem; }
"""
ALARMS = ("MISSED", "NOT ", ": NO", "? NO")


def page(result: dict[str, Any], tables: Sequence[Table], pictures: Sequence[str]) -> str:
    """`result` as in the JSON; pictures are SVG documents."""
    verdict = '<span class="good">passed</span>' if result["passed"] else '<span class="bad">did not pass</span>'
    notes = "".join(f"<li{_alarm(note)}>{escape(note)}</li>" for note in result["notes"])
    facts = result["settings"] | {"versions": ", ".join(f"{name} {of}" for name, of in result["versions"].items())}
    facts |= {"machine": ", ".join(f"{label(key)} {value}" for key, value in result["machine"].items())}
    told = "".join(f"<dt>{escape(str(key))}</dt><dd>{escape(str(value))}</dd>" for key, value in facts.items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Comet bench: {escape(result["bench"])}</title><style>{STYLE}</style></head><body>
<h1>Comet bench: {escape(result["bench"])}</h1>
<p class="soft">{escape(result["at"])}, {verdict}</p>
<ul>{notes}</ul>
{"".join(f"<figure style='margin:1.5rem 0'>{picture}</figure>" for picture in pictures)}
{"".join(map(_table, tables))}
<h2>How it was measured</h2><dl>{told}</dl>
</body></html>
"""


def _alarm(note: str) -> str:
    return ' class="bad"' if any(word in note for word in ALARMS) else ""


def _table(table: Table) -> str:
    words = [all(isinstance(row[index], str) for row in table.rows) for index in range(len(table.columns))]

    def cells(tag: str, row: Sequence[Cell]) -> str:
        return "".join(
            f"<{tag}>{escape(text(cell))}</{tag}>" if word else f'<{tag} class="number">{escape(text(cell))}</{tag}>'
            for cell, word in zip(row, words, strict=True)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in table.rows)
    return f'<h2>{escape(table.title)}</h2><div class="wide"><table><tr>{cells("th", table.columns)}</tr>{body}</table></div>'
