"""Measures how soon a death is shown, and the cost of being watched.

    .venv/bin/python scripts/watching.py [KILLS [SECONDS]]

First a cluster of three containers and two load balancers: KILLS (10) times each, the time from kill -9 to the death in
the page and on the board of `ps --watch`. Then 50 workers and two load balancers, all as processes, without requests:
the share of a core that the supervisor and the admin server use within SECONDS (30), with the page closed and open.
Needs Chromium and the packages of the extra `test`.
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

from tests.page.stage import WATCH, Watched, launch, opened  # noqa: E402
from tests.support.cluster import TestCluster, free_ports, open_cluster, wait_until  # noqa: E402
from tests.support.terminal import terminal  # noqa: E402

STABLE = 1
"""Seconds that a replica is ready between two kills, so that each restart is a first one."""


@contextmanager
def temporary_cluster(**config: Any) -> Iterator[TestCluster]:
    with (
        tempfile.TemporaryDirectory() as folder,
        open_cluster(Path(folder), admin_port=free_ports(1), **config) as cluster,
    ):
        cluster.start()
        yield cluster
        cluster.stop()


@contextmanager
def page_of(cluster: TestCluster, browser: Browser) -> Iterator[Watched]:
    with opened(browser, (1440, 1000), "light", home=f"http://127.0.0.1:{cluster.config['admin-port']}/") as watched:
        watched.page.locator("#pulse[data-level=good]").wait_for()
        yield watched


def is_stable(cluster: TestCluster, name: str, restarts: int) -> bool:
    row = cluster.replicas()[name]
    return bool(row["restarts"] == restarts and row["state"] == "ready" and row["uptime_s"] > STABLE + 1)


def next_victims(cluster: TestCluster, kills: int) -> Iterator[tuple[str, int]]:
    """Yield name and PID of one replica after the other, of both kinds in turn; each when the one before is ready
    again.
    """
    for name in islice(cycle(["lb-0", "worker-0", "lb-1", "worker-1"]), kills):
        row = cluster.replicas()[name]
        yield name, row["pid"]
        wait_until(lambda name=name, restarts=row["restarts"] + 1: is_stable(cluster, name, restarts), 60, name)


def until_on_the_page(cluster: TestCluster, browser: Browser, kills: int) -> list[float]:
    """Return the milliseconds from each kill to the death among the page's events."""
    took = []
    with page_of(cluster, browser) as watched:
        for name, pid in next_victims(cluster, kills):
            watched.page.evaluate(WATCH, name)
            time.sleep(random.random())  # Anywhere between two of the page's questions.
            killed = time.time() * 1000
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: watched.page.evaluate("window.seenAt"), 30, f"the death of {name}")
            took.append(watched.page.evaluate("window.seenAt") - killed)
    return took


def until_on_the_board(cluster: TestCluster, kills: int) -> list[float]:
    """Return the milliseconds from each kill to the death among the board's events. The screen is read every 20 ms."""
    took = []
    with terminal([*cluster.command, "ps", "--watch"], cluster.folder, 140, 200) as shown:
        shown.shows("LAST EVENTS")
        for name, pid in next_victims(cluster, kills):
            before = len(re.findall(rf"{name} +exited", shown.text))
            time.sleep(random.random())
            os.kill(pid, signal.SIGKILL)
            killed = time.monotonic()
            shown.shows(lambda text, name=name, before=before: len(re.findall(rf"{name} +exited", text)) > before)
            took.append(1000 * (time.monotonic() - killed))
        shown.type("q")
    return took


def shares(cluster: TestCluster, seconds: float) -> dict[str, float]:
    """Return the percent of a core that supervisor and admin server use."""
    found = {"supervisor": psutil.Process(cluster.supervisor_pid())}
    found["admin server"] = next(each for each in cluster.processes() if "comet: admin" in " ".join(each.cmdline()))
    before = {name: sum(process.cpu_times()[:2]) for name, process in found.items()}
    time.sleep(seconds)
    return {name: 100 * (sum(process.cpu_times()[:2]) - before[name]) / seconds for name, process in found.items()}


def summary_text(times: list[float]) -> str:
    return f"median {statistics.median(times):.0f} ms, {min(times):.0f} to {max(times):.0f} ms in {len(times)} kills"


def say(text: str) -> None:
    print(f"{text}  (load average {os.getloadavg()[0]:.1f})", flush=True)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # The clusters are stopped then too.
    kills, seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 10, float(sys.argv[2]) if len(sys.argv) > 2 else 30.0
    with sync_playwright() as playwright:
        browser = launch(playwright)
        with temporary_cluster(worker=2, pool=2, restart_stable=STABLE) as small:
            say(f"from kill -9 to the death in the page: {summary_text(until_on_the_page(small, browser, kills))}")
            say(f"from kill -9 to the death in ps --watch: {summary_text(until_on_the_board(small, kills))}")
        with temporary_cluster(worker=50, pool=2, runtime="process") as large:
            time.sleep(10)  # What the start has left to do.
            for state in ("closed", "open", "closed", "open"):
                if state == "open":
                    with page_of(large, browser):
                        time.sleep(2)
                        used = shares(large, seconds)
                else:
                    used = shares(large, seconds)
                say(
                    f"50 workers, page {state}, {seconds:g} s: "
                    + ", ".join(f"{name} {share:.1f} %" for name, share in used.items())
                )
        browser.close()


if __name__ == "__main__":
    main()
