"""The pages say what the program declares: keys, commands, columns, JSON fields, events, metrics. Their links lead
somewhere.
"""

import re
from pathlib import Path

import pytest

from comet.admin.openapi import document
from comet.commands.table import on_command_line
from comet.config.keys import KEYS, LIMITS
from comet.config.schema import ConfigError, parse
from comet.scenario import file as scenarios
from comet.telemetry.columns import COLUMNS
from scripts import docs
from tests.support import pages
from tests.support.pages import ROOT, names, quoted, rows, section

pytestmark = pytest.mark.slow

LANGUAGES = {"python", "sh", "text", "console", "json", "yaml"}


def test_generated_parts_are_up_to_date() -> None:
    stale = [page.name for page in docs.pages() if docs.rewritten(page.read_text()) != page.read_text()]
    assert stale == [], "run: .venv/bin/python -m scripts.docs"


def test_every_generated_part_has_an_end() -> None:
    for page in docs.pages():
        text = page.read_text()
        assert len(docs.PART.findall(text)) == text.count("<!-- generated: end -->"), page.name


def test_every_key_stands_in_one_table() -> None:
    listed = [
        key
        for found in docs.PART.findall(pages.read("docs/configuration.md"))
        if found[1] == "config"
        for key in found[2].split()
    ]
    assert sorted(listed) == sorted([*KEYS, *(f"limits.{name}" for name in LIMITS)])


def test_every_command_has_a_section_and_a_line_in_the_readme() -> None:
    listed = [found[2].split()[0] for found in docs.PART.findall(pages.read("docs/cli.md")) if found[1] == "command"]
    assert sorted(listed) == sorted(on_command_line())
    assert {word for row in rows(section("README.md", "Commands")) for word in re.findall(r"`([a-z]+)", row[0])} == set(
        on_command_line()
    )


def test_the_columns_of_ps_are_explained() -> None:
    listed = [
        name for row in rows(section("docs/cli.md", "ps")) for name in quoted(row[0]) if name.isupper() or "/" in name
    ]
    assert set(listed) == {column.heading for column in COLUMNS} - {""}


def test_the_columns_of_stats_are_explained() -> None:
    from comet.terminal.tables import RARE, statistics

    row = {"successful": 0, "failed": 0, "mean_ms": 0.0, "p50_ms": 0.0, "p99_ms": 0.0, "injections": {}}
    shown = {column.heading for column in statistics({"total": row, "workers": []}).columns}
    listed = {
        name for row in rows(section("docs/cli.md", "stats")) for name in quoted(row[0]) if name.split()[0].isupper()
    }
    assert listed == shown | set(RARE.values())


@pytest.mark.parametrize(
    ("heading", "schema"),
    [("supervisor", "Supervisor"), ("replicas", "Replica"), ("edges", "Edge"), ("total", "Total")],
)
def test_the_json_shapes_are_those_of_the_api(heading: str, schema: str) -> None:
    properties = document()["components"]["schemas"][schema]["properties"]
    declared = [(name, " or ".join(each["type"])) for name, each in properties.items()]
    listed = [(quoted(row[0])[0], row[1]) for row in rows(section("docs/api.md", heading))]
    assert listed == declared


def test_the_events_are_those_that_the_program_writes() -> None:
    """Every name that stands as the first argument of an event in the sources."""
    call = re.compile(r"\b[Ee]vent\(\s*\"([a-z_]+)\"")
    written = {name for path in (ROOT / "comet").rglob("*.py") for name in call.findall(path.read_text())}
    listed = {quoted(row[0])[0] for row in rows(section("docs/api.md", "Events"))}
    assert written <= listed
    sentences = re.findall(r"^    \"([a-z_]+)\": ", "\n".join(path.read_text() for path in _sentences()), re.MULTILINE)
    assert listed <= written | set(sentences)


def _sentences() -> list[Path]:
    return [path for path in (ROOT / "comet").rglob("*.py") if "_SENTENCES" in path.read_text()]


@pytest.mark.parametrize("name", names())
def test_links_lead_somewhere(name: str) -> None:
    for link in re.findall(r"\]\(((?!https?:)[^)\s]+)\)", pages.prose(name)):
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in pages.anchors(str(target.resolve().relative_to(ROOT))), link


@pytest.mark.parametrize("name", names())
def test_files_that_a_page_names_exist(name: str) -> None:
    # Capitals stand for a name of the reader's choice.
    named = re.findall(
        r"`((?:comet|fault_rules|lb|worker_app|tests|scripts|docs|scenarios|docker)/[\w./-]*)(?:::\w+\*?)?`",
        pages.prose(name),
    )
    assert [path for path in named if not (ROOT / path).exists() and "/NAME/" not in path] == []


def test_the_architecture_names_every_room() -> None:
    """A room is a folder with Python modules; the page has a line for each, and no other."""
    listed = [quoted(row[0])[0].rstrip("/") for row in rows(section("ARCHITECTURE.md", "Rooms"))]
    there = {
        str(path.parent.relative_to(ROOT))
        for package in ("comet", "fault_rules", "lb", "worker_app")
        for path in (ROOT / package).rglob("*.py")
    }
    assert sorted(listed) == sorted(there)
    assert len(pages.read("ARCHITECTURE.md").splitlines()) <= 150


@pytest.mark.parametrize("name", names())
def test_blocks_say_what_they_are(name: str) -> None:
    """A block is a command (sh), which is run by a test, or something to read."""
    for block in pages.blocks(name):
        assert block.language in LANGUAGES, block
        assert not block.tested_by or (ROOT / block.tested_by).is_file(), block
        assert not block.tested_by or block.language in ("sh", "console"), block
    assert not re.search(
        r"^ {4,}(?!- |\* )\S",
        re.sub(r"^ *(?:[-*]|\d+\.) .*(?:\n(?: +\S.*)?)*", "", pages.prose(name), flags=re.MULTILINE),
        re.MULTILINE,
    )


@pytest.mark.parametrize("name", names())
def test_yaml_is_a_config_or_a_scenario(name: str) -> None:
    for block in pages.blocks(name):
        if block.language == "yaml":
            try:
                assert parse(block.text, ROOT / "config.yaml").path == ROOT / "config.yaml"
            except ConfigError:
                assert scenarios.parse(block.text, block.page).steps


def test_the_shown_config_is_the_one_that_comes_with_comet() -> None:
    (first, *_) = [block for block in pages.blocks("docs/configuration.md") if block.language == "yaml"]
    assert first.text == pages.read("config.yaml")


def test_the_mistakes_shown_are_what_a_bad_config_prints() -> None:
    shown = section("docs/configuration.md", "Mistakes in the file").split("```text\n")[1].split("```")[0]
    with pytest.raises(ConfigError) as caught:
        parse("wroker: 3\nfailure: 120\n", ROOT / "config.yaml")
    assert caught.value.message.splitlines() == shown.splitlines()


def test_the_readme_is_short() -> None:
    assert len(pages.read("README.md").splitlines()) <= 120


def test_the_index_names_every_page() -> None:
    linked = set(
        re.findall(r"\]\(([\w./-]+\.md)\)", pages.read("docs/README.md") + pages.read("docs/decisions/README.md"))
    )
    there = {path.name for path in ROOT.glob("docs/**/*.md") if path.name != "README.md"}
    assert there <= {Path(link).name for link in linked}
