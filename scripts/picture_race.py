"""Takes the picture of a race on the page, docs/page-race.png: 20 rounds in a cluster of both forms.

    .venv/bin/python scripts/picture_race.py [FILE]

Needs Chromium, a Docker engine and the packages of the extra `test`. It takes two to three minutes.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from playwright.sync_api import expect, sync_playwright  # noqa: E402

import comet  # noqa: E402
from tests.page.stage import launch, opened  # noqa: E402

ROUNDS = 20
LIMIT = 600_000
"""Milliseconds for all rounds."""


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs/page-race.png"
    keys = {"runtime": "mixed", "worker": 2, "pool": 1, "restart_stable": 1, "admin_port": "auto"}
    with comet.cluster(**keys) as cluster, sync_playwright() as playwright:
        browser = launch(playwright)
        with opened(browser, (1440, 1000), "light", home=f"{cluster.dashboard}/") as watched:
            page = watched.page
            page.click("#race-open")
            page.fill("#race-rounds", str(ROUNDS))
            page.click("#race-begin")
            expect(page.locator("#race-state")).to_contain_text("Done.", timeout=LIMIT)
            print(page.inner_text("#race-state"))
            page.locator("#race").screenshot(path=path)
        browser.close()
    print(f"{path}: {path.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
