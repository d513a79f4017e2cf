"""The commands on the pages, typed as they stand there. Only ports and the places of the project's files are the test's
own.

`sh` blocks are commands; `console` blocks hold commands after a `$ ` and, below each, what it prints. A block that
names a test file next to its language is run there. A line of output has to occur in what the command prints; words
with digits (times, ids) may differ.
"""

import re

from tests.support import pages
from tests.support.pages import ROOT, Block

ELSEWHERE = {
    r"supervisor\.py compare": "tests/bench/test_compare.py",
    r"supervisor\.py race": "tests/docker/test_race.py",
    r"supervisor\.py init": "tests/unit/cli/test_init.py",
    r"supervisor\.py scenario scenarios/": "tests/process/test_scenario.py",
    r"scripts/bench\.sh": "tests/bench/test_load.py",
}
"""Commands that take minutes, and the tests that run them."""

PAGES = (
    "docs/api.md",
    "docs/cli.md",
    "docs/faults.md",
    "docs/http.md",
    "docs/load-testing.md",
    "docs/troubleshooting.md",
)

Command = tuple[str, list[str]]
"""What is typed, and the lines that are to be printed."""


def commands(block: Block) -> list[Command]:
    if block.language == "sh":
        return [(re.sub(r"\s+# .*", "", line), []) for line in block.commands]
    found: list[Command] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif line:
            found[-1][1].append(line)
    return found


def typed(name: str) -> list[Command]:
    """The commands of a page that are to be run here."""
    blocks = (block for block in pages.blocks(name) if block.language in ("sh", "console") and not block.tested_by)
    every = (command for block in blocks for command in commands(block))
    return [command for command in every if not any(re.search(pattern, command[0]) for pattern in ELSEWHERE)]


def test_every_page_with_commands_is_run() -> None:
    with_commands = {name for name in pages.names() if typed(name)}
    assert with_commands == {"README.md", *PAGES}


def test_what_is_run_elsewhere_is_run_there() -> None:
    for name in ELSEWHERE.values():
        assert (ROOT / name).is_file(), name
