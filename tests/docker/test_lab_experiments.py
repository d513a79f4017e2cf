"""The eight experiments of docs/process-vs-container.md, typed as they stand there, in one mixed cluster."""

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.process.test_docs_commands import Shell
from tests.support import pages
from tests.support.cluster import TestCluster
from tests.support.waiting import wait_until
from tests.unit.docs.test_commands import commands

PAGE = "docs/process-vs-container.md"
MINE = "tests/docker/test_lab_experiments.py"

EXPERIMENTS = re.findall(r"^## (\d\. .+)$", pages.read(PAGE), re.MULTILINE)
HELPER = next(line for line in pages.read(PAGE).splitlines() if line.startswith("pid() {"))


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    folder = tmp_path_factory.mktemp("lab")
    config = next(block.text for block in pages.blocks(PAGE) if block.language == "yaml")
    keys = dict(line.split(": ") for line in config.splitlines())
    cluster = TestCluster(folder, **keys)
    try:
        cluster.start()
        made = Shell(cluster)
        (folder / "helper.sh").write_text(made.translated(HELPER) + "\n")
        made.environment["BASH_ENV"] = str(folder / "helper.sh")
        yield made
        cluster.stop()
        cluster.assert_nothing_left()
    finally:
        cluster.destroy()


def is_calm(row: dict[str, Any]) -> bool:
    return row["state"] == "ready" and row["pid"] is not None and not (row["fault_orders"] or {}).get("leases")


class Calm:
    """Whether all are ready and no fault is active, for some time: what a fault filled may still kill a worker."""

    def __init__(self, cluster: TestCluster) -> None:
        self._cluster, self._since = cluster, 0.0
        self._lives: list[int] | None = None

    def __call__(self) -> bool:
        rows, now = self._cluster.ps()["replicas"], time.monotonic()
        lives = [row["pid"] for row in rows] if all(map(is_calm, rows)) else None
        if lives != self._lives:
            self._lives, self._since = lives, now
        return lives is not None and now - self._since > 1.5


def test_there_are_eight_with_as_many_questions_and_answers() -> None:
    assert len(EXPERIMENTS) == 8
    for heading in ("Questions", "Answers"):
        assert re.findall(r"^(\d)\. ", pages.section(PAGE, heading), re.MULTILINE) == [*"12345678"]
    for title in EXPERIMENTS:
        text = pages.section(PAGE, title)
        assert "**Why.**" in text
        assert "**Try next.**" in text


@pytest.mark.root
@pytest.mark.parametrize("title", EXPERIMENTS)
def test_an_experiment_shows_what_the_page_says(shell: Shell, title: str) -> None:
    text = pages.section(PAGE, title)
    block = next(each for each in pages.blocks(PAGE) if each.tested_by == MINE and each.text in text)
    wait_until(Calm(shell.cluster), 60, "all are ready, and no fault is active")
    for command, expected in commands(block):
        shell.type(command, expected)
