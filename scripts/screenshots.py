"""Takes the README's pictures of the page from a running cluster: calm, during kills, and on a phone.

    .venv/bin/python scripts/screenshots.py [FOLDER]

Needs Chromium and the packages of the extra `test`. Runs a cluster of three containers behind two load balancers on the
default ports in a temporary folder for about five minutes, sends it about 40 requests a second, and writes
docs/page-*.png (or into FOLDER).
"""

import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from playwright.sync_api import Browser, TimeoutError, sync_playwright  # noqa: E402

from tests.page.stage import Watched, launch, opened  # noqa: E402

HOME = "http://127.0.0.1:5040/"
CONFIG = {"worker": 3, "pool": 2, "avg-delay": 40, "failure": 1}
CLIENTS, PAUSE = 6, 0.1

CALM = 90.0
TRIES = 6
"""Maximum number of kills, until one coincides with an update of the page: each is followed by a longer backoff than
the one before.
"""

STORM: tuple[tuple[float, tuple[str, ...]], ...] = (
    (5, ("kill", "lb-0")),
    (12, ("kill", "worker-1")),
    (12, ("faults", "worker-2", "--failure", "30", "--for", "25s")),
    (14, ("kill", "lb-1")),
    (10, ("kill", "worker-0")),
    (14, ("scale", "worker=4")),
    (12, ("kill", "lb-0")),
    (4, ("kill", "worker-2")),
    (14, ("kill", "worker-3", "--signal", "SEGV")),
    (8, ("kill", "lb-1")),
)
"""Pairs of seconds to wait and a command."""


class Clients:
    """Send requests to the load balancers in turn, until it is to end."""

    def __init__(self) -> None:
        self._finished = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *error: object) -> None:
        self._finished.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        with requests.Session() as session:
            while not self._finished.wait(PAUSE):
                try:
                    session.get(f"http://127.0.0.1:{5050 + number % 2}/api/v1/hello", timeout=10)
                except requests.RequestException:
                    session.close()


def shoot(
    browser: Browser,
    path: Path,
    size: tuple[int, int],
    theme: str,
    then: Callable[[Watched], None] = lambda watched: None,
) -> None:
    with opened(browser, size, theme, home=HOME) as watched:
        watched.page.locator("#pulse[data-level=good]").wait_for()
        time.sleep(2.5)
        then(watched)
        watched.page.screenshot(path=path)
    print(f"{path}: {path.stat().st_size // 1024} KiB")


def play(comet: Callable[..., None], browser: Browser, folder: Path) -> None:
    with Clients():
        time.sleep(CALM)
        shoot(browser, folder / "page-calm.png", (1440, 1290), "light")
        for pause, command in STORM:
            time.sleep(pause)
            comet(*command)

        def one_more(watched: Watched) -> None:
            """Take the picture when the page shows a replica as dead or restarting."""
            for _ in range(TRIES):
                comet("kill", "worker-1")
                with suppress(TimeoutError):
                    watched.page.locator("#verdict:not([data-level=good])").wait_for(timeout=2500)
                    return

        shoot(browser, folder / "page-chaos.png", (1440, 1290), "dark", one_more)
        shoot(browser, folder / "page-phone.png", (360, 780), "light")


def main() -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # The cluster is stopped then too.
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        Path(place, "config.yaml").write_text("".join(f"{key}: {value}\n" for key, value in CONFIG.items()))

        def comet(*arguments: str) -> None:
            subprocess.run(
                [sys.executable, str(ROOT / "supervisor.py"), *arguments],
                cwd=place,
                stdout=subprocess.DEVNULL,
                check=True,
            )

        comet("run", "--detach")
        try:
            with sync_playwright() as playwright:
                browser = launch(playwright)
                play(comet, browser, folder)
                browser.close()
        finally:
            comet("stop")


if __name__ == "__main__":
    main()
