"""SECURITY.md: each test that it names exists."""

import fnmatch
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_every_test_that_the_page_names_exists() -> None:
    page, missing, current = (ROOT / "SECURITY.md").read_text(), [], ""
    for path, name in re.findall(r"`(tests/[\w/]+\.py)?(?:::(\w+\*?))?`", page):
        current = path or current
        if not (path or name):
            continue
        file = ROOT / current
        tests = re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE) if file.is_file() else []
        if not file.is_file() or (name and not fnmatch.filter(tests, name)):
            missing.append(f"{current}::{name}")
    assert missing == []
    assert page.count("tests/security/") > 10


def test_the_pages_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(((?!https?:)[^)#]+)", (ROOT / "SECURITY.md").read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []
