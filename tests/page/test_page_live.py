"""The page over a real cluster: what it shows is what `ps --json` says, what it is told to do happens, and it outlives its supervisor."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.integration.clusters import House, eventually, free_ports
from tests.page.figures import differences, shown
from tests.page.stage import WATCH, WIDE, Watched, opened

pytestmark = [pytest.mark.docker, pytest.mark.slow]

PAUSE = 0.03
"""Seconds between two requests of the traffic that is looked at."""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    made = House(tmp_path_factory.mktemp("page"), admin_port=free_ports(1))
    try:
        made.start()
        yield made
    finally:
        made.destroy()


@pytest.fixture
def watched(house: House, browser: Browser) -> Iterator[Watched]:
    if not house.ps()["supervisor"]["running"]:
        house.start()
    with opened(browser, WIDE, "dark", home=home(house)) as watched:
        try:
            expect(watched.page.locator("#pulse")).to_have_text("live", timeout=20_000)
        except AssertionError as error:
            error.add_note(f"it asked for {watched.asked}, and complained of {watched.complaints}")
            raise
        yield watched


def home(house: House) -> str:
    return f"http://127.0.0.1:{house.config['admin-port']}/"


def agree(watched: Watched, house: House, moving: float = 0) -> None:
    """Every column of the list says what `ps --json` does."""
    found = [""]

    def same() -> bool:
        found[:] = differences(shown(watched.page), house.replicas(), moving)
        return not found

    try:
        eventually(same)
    except AssertionError:
        raise AssertionError("\n".join(found)) from None


@contextmanager
def traffic(house: House) -> Iterator[None]:
    """A steady stream of requests at both load balancers."""
    over = threading.Event()

    def ask() -> None:
        number = 0
        while not over.wait(PAUSE):
            number += 1
            house.hello(number % 2)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    try:
        yield
    finally:
        over.set()
        asking.join(30)


def do(page: Page, what: str, fill: Callable[[], None] = lambda: None) -> None:
    page.locator(f'.tools [data-do="{what}"]').click()
    fill()
    page.click("#ask-yes")


def test_what_is_shown_is_what_ps_says(watched: Watched, house: House) -> None:
    agree(watched, house)
    assert watched.page.locator("#identity").inner_text().startswith(f"supervisor PID {house.supervisor_pid()}")
    expect(watched.page.locator("#costs")).to_contain_text(re.compile(r"[0-9.]+ % CPU · [0-9]+ MiB"), timeout=10_000)
    with traffic(house):
        busy = eventually(lambda: min(row["requests_per_s"] for row in house.replicas().values()) > 1 and house.replicas(), what="traffic")
        assert all(row["p50_ms"] and row["p99_ms"] for row in busy.values())
        agree(watched, house, moving=3 / PAUSE)
        total = watched.page.locator("#figures dd").first
        eventually(lambda: float(total.inner_text().removesuffix("/s").replace("<", "")) > 1, what="requests are seen")
    agree(watched, house)
    assert house.replicas()["lb-0"]["requests"] > 0
    assert watched.complaints == []
    assert watched.foreign(home(house)) == []


@pytest.mark.parametrize("name", ["lb-0", "worker-1"])
def test_a_kill_is_seen_within_two_seconds(watched: Watched, house: House, name: str) -> None:
    page = watched.page
    page.evaluate(WATCH, name)
    pid = house.replicas()[name]["pid"]
    killed = time.time() * 1000
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: page.evaluate("window.seenAt"), what=f"the kill of {name} is seen")
    delay = page.evaluate("window.seenAt") - killed
    print(f"the kill of {name} was seen after {delay:.0f} ms")
    assert delay < 2000
    eventually(lambda: house.replicas()[name]["state"] == "ready" and house.replicas()[name]["restarts"] > 0)
    kind = "process" if name.startswith("lb") else "container"
    expect(page.locator(f".side.{kind}")).to_contain_text(f"{name}", timeout=20_000)
    expect(page.locator(f".side.{kind} .detail").first).to_contain_text("ready +", timeout=20_000)
    agree(watched, house)


def test_every_control_works(watched: Watched, house: House) -> None:
    page, notices, news = watched.page, watched.page.locator("#notices"), watched.page.locator("#news")
    do(page, "scale", lambda: page.fill("#f-worker", "3"))
    expect(news.locator('[data-event="scaled"]').first).to_be_visible(timeout=30_000)
    do(page, "faults", lambda: page.fill("#f-failure", "40"))
    expect(notices).to_contain_text("Faults of all changed", timeout=20_000)
    expect(page.locator('.node[data-key="worker-0"]')).to_contain_text("failure 40 %", timeout=20_000)
    house.write(failure=7)
    do(page, "reload")
    expect(news.locator('[data-event="reloaded"]').first).to_be_visible(timeout=30_000)
    before = house.replicas()["lb-1"]["id"]
    do(page, "restart", lambda: page.select_option("#f-target", "lb-1") and None)
    expect(notices).to_contain_text("Restarted lb-1", timeout=30_000)
    assert house.replicas()["lb-1"]["id"] != before
    do(page, "restart", lambda: page.select_option("#f-target", "worker") and None)
    expect(notices).to_contain_text("Restarted worker", timeout=60_000)
    do(page, "kill", lambda: page.select_option("#f-name", "lb-1") and None)
    expect(notices).to_contain_text("SIGKILL sent to lb-1", timeout=20_000)
    agree(watched, house)
    assert watched.complaints == []


def test_a_bad_file_is_refused_in_the_page_too(watched: Watched, house: House) -> None:
    house.write(failure=700)
    try:
        do(watched.page, "reload")
        expect(watched.page.locator("#ask-wrong, #notices [data-level='bad']").locator("visible=true")).to_contain_text(
            "failure", timeout=20_000
        )
    finally:
        house.write(failure=0)


def test_without_javascript_the_list_is_there(house: House, browser: Browser) -> None:
    with opened(browser, home=home(house), java_script_enabled=False) as watched:
        page = watched.page
        assert "JavaScript" in page.inner_text("noscript")
        assert differences(shown(page), house.replicas()) == []
        expect(page.locator("#flow")).to_be_hidden()
        watched.shoot("no-script-wide-light")


def test_a_dead_supervisor_is_told_and_its_successor_obeyed(watched: Watched, house: House) -> None:
    page = watched.page
    os.kill(house.supervisor_pid(), signal.SIGKILL)
    expect(page.locator("#lost")).to_contain_text("The supervisor does not answer", timeout=15_000)
    house.start()
    expect(page.locator("#lost")).to_be_hidden(timeout=15_000)
    agree(watched, house)
    do(page, "kill", lambda: page.select_option("#f-name", "lb-0") and None)
    expect(page.locator("#notices")).to_contain_text("SIGKILL sent to lb-0", timeout=20_000)


def test_a_stopped_supervisor_is_no_living_one(watched: Watched, house: House) -> None:
    pid = house.supervisor_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        expect(watched.page.locator("#lost")).to_contain_text("stopped or hung", timeout=20_000)
    finally:
        os.kill(pid, signal.SIGCONT)
    expect(watched.page.locator("#lost")).to_be_hidden(timeout=15_000)


def test_the_page_stops_the_cluster(watched: Watched, house: House) -> None:
    do(watched.page, "stop")
    expect(watched.page.locator("#lost")).to_be_visible(timeout=30_000)
    eventually(lambda: house.comet("ps").returncode == 0 and not house.ps()["supervisor"]["running"], 60)
    assert house.replicas() == {}
