"""Measure how soon a death is seen, and what it costs to be looked at.

    .venv/bin/python scripts/watching.py [KILLS [SECONDS]]

First a cluster of three containers and two load balancers: KILLS (10) times each, from kill -9 to the death in the page and on the board
of `ps --watch`. Then 50 workers and two load balancers, all as processes, without requests: the share of a core that the supervisor and
the admin server take within SECONDS (30), with the page closed and open. Needs Chromium and the packages of the extra `test`.
"""

import os
import random
import re
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from playwright.sync_api import Browser, sync_playwright  # noqa: E402

from tests.comet.terminal import terminal  # noqa: E402
from tests.integration.clusters import House, eventually, free_ports, house  # noqa: E402
from tests.page.stage import WATCH, Watched, launch, opened  # noqa: E402

STABLE = 1
"""Seconds that a replica is ready between two kills, so that each restart is a first one."""


@contextmanager
def cluster(**config: Any) -> Iterator[House]:
    with tempfile.TemporaryDirectory() as folder, house(Path(folder), admin_port=free_ports(1), **config) as made:
        made.start()
        yield made
        made.stop()


@contextmanager
def page_of(of: House, browser: Browser) -> Iterator[Watched]:
    with opened(browser, (1440, 1000), "light", home=f"http://127.0.0.1:{of.config['admin-port']}/") as watched:
        watched.page.locator("#pulse[data-level=good]").wait_for()
        yield watched


def settled(of: House, name: str, restarts: int) -> bool:
    row = of.replicas()[name]
    return bool(row["restarts"] == restarts and row["state"] == "ready" and row["uptime_s"] > STABLE + 1)


def victims(of: House, kills: int) -> Iterator[tuple[str, int]]:
    """Name and PID of one replica after the other, of both kinds in turn; each when the one before is well again."""
    for name in islice(cycle(["lb-0", "worker-0", "lb-1", "worker-1"]), kills):
        row = of.replicas()[name]
        yield name, row["pid"]
        eventually(lambda name=name, restarts=row["restarts"] + 1: settled(of, name, restarts), 60, name)


def until_on_the_page(of: House, browser: Browser, kills: int) -> list[float]:
    """Milliseconds from each kill to the death among the page's events."""
    took = []
    with page_of(of, browser) as watched:
        for name, pid in victims(of, kills):
            watched.page.evaluate(WATCH, name)
            time.sleep(random.random())  # Anywhere between two of the page's questions.
            killed = time.time() * 1000
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: watched.page.evaluate("window.seenAt"), 30, f"the death of {name}")
            took.append(watched.page.evaluate("window.seenAt") - killed)
    return took


def until_on_the_board(of: House, kills: int) -> list[float]:
    """Milliseconds from each kill to the death among the board's events. The screen is looked at every 20 ms."""
    took = []
    with terminal([*of.command, "ps", "--watch"], of.folder, 140, 200) as shown:
        shown.shows("LAST EVENTS")
        for name, pid in victims(of, kills):
            before = len(re.findall(rf"{name} +exited", shown.text))
            time.sleep(random.random())
            os.kill(pid, signal.SIGKILL)
            killed = time.monotonic()
            shown.shows(lambda text, name=name, before=before: len(re.findall(rf"{name} +exited", text)) > before)
            took.append(1000 * (time.monotonic() - killed))
        shown.type("q")
    return took


def shares(of: House, seconds: float) -> dict[str, float]:
    """Percent of a core that supervisor and admin server take."""
    found = {"supervisor": psutil.Process(of.supervisor_pid())}
    found["admin server"] = next(each for each in of.processes() if "comet: admin" in " ".join(each.cmdline()))
    before = {name: sum(process.cpu_times()[:2]) for name, process in found.items()}
    time.sleep(seconds)
    return {name: 100 * (sum(process.cpu_times()[:2]) - before[name]) / seconds for name, process in found.items()}


def told(times: list[float]) -> str:
    return f"median {statistics.median(times):.0f} ms, {min(times):.0f} to {max(times):.0f} ms in {len(times)} kills"


def say(text: str) -> None:
    print(f"{text}  (load average {os.getloadavg()[0]:.1f})", flush=True)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # The clusters are stopped then too.
    kills, seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 10, float(sys.argv[2]) if len(sys.argv) > 2 else 30.0
    with sync_playwright() as playwright:
        browser = launch(playwright)
        with cluster(worker=2, pool=2, restart_stable=STABLE) as small:
            say(f"from kill -9 to the death in the page: {told(until_on_the_page(small, browser, kills))}")
            say(f"from kill -9 to the death in ps --watch: {told(until_on_the_board(small, kills))}")
        with cluster(worker=50, pool=2, runtime="process") as large:
            time.sleep(10)  # What the start has left to do.
            for state in ("closed", "open", "closed", "open"):
                if state == "open":
                    with page_of(large, browser):
                        time.sleep(2)
                        used = shares(large, seconds)
                else:
                    used = shares(large, seconds)
                say(f"50 workers, page {state}, {seconds:g} s: " + ", ".join(f"{name} {share:.1f} %" for name, share in used.items()))
        browser.close()


if __name__ == "__main__":
    main()
