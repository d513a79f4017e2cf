"""The documentation as tests read it: pages, their fenced blocks, their tables and their headings."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, and where another test runs it, that test's file."""

    page: str
    language: str
    tested_by: str
    text: str
    line: int
    end: int

    @property
    def commands(self) -> list[str]:
        """The command lines, a line that ends in a backslash with the next one."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def names() -> list[str]:
    """Every page that people read, but the changelog."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]
    return sorted(str(path.relative_to(ROOT)) for path in found if path.name != "CHANGELOG.md")


def read(name: str) -> str:
    return (ROOT / name).read_text()


def blocks(name: str) -> list[Block]:
    """The fenced blocks of a page, from top to bottom."""
    text = read(name)
    found = []
    for match in _FENCE.finditer(text):
        language, _, tested_by = match[2].strip().partition(" ")
        content = re.sub(rf"^{match[1]}", "", match[3], flags=re.MULTILINE)
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(name, language, tested_by, content, line, text.count("\n", 0, match.end()) + 1))
    return found


def prose(name: str) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", read(name))


def anchors(name: str) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    slugs: set[str] = set()
    for _, heading in _HEADING.findall(prose(name)):
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
        slugs.add(slug)
    return slugs


def section(name: str, heading: str) -> str:
    """What stands below a heading, up to the next one of the same or a higher level."""
    match = re.search(
        rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,\1}} |\Z)".replace(r"\1", "9"),
        read(name),
        re.MULTILINE | re.DOTALL,
    )
    assert match, f"{name} has no heading {heading!r}"
    level = len(match[1])
    text = read(name)[match.start(2) :]
    following = re.search(rf"^#{{1,{level}}} ", text, re.MULTILINE)
    return text[: following.start()] if following else text


def rows(text: str) -> list[list[str]]:
    """The cells of the tables in a text, heads and rules left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    heads = {
        index for index, line in enumerate(lines) if index + 1 < len(lines) and set(lines[index + 1]) <= set("|-: ")
    }
    kept = [line for index, line in enumerate(lines) if index not in heads and not set(line) <= set("|-: ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in kept]


def quoted(cell: str) -> list[str]:
    """The names between backquotes."""
    return re.findall(r"`([^`]+)`", cell)
