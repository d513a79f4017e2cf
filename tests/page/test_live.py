"""The page over a real cluster: what it shows is what `ps --json` says, what it is told to do happens, and it outlives
its supervisor.
"""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from statistics import median

import pytest
import requests
from playwright.sync_api import Browser, Page, expect

from tests.page.figures import KEEP_ANSWERS, PICTURE, by_name, differences, shown
from tests.page.stage import WATCH, WIDE, Watched, opened
from tests.support.cluster import TestCluster, free_ports
from tests.support.inspected import Report
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.docker

PAUSE = 0.03
"""Seconds between two requests of the traffic that is looked at."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    cluster = TestCluster(tmp_path_factory.mktemp("page"), admin_port=free_ports(1))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.destroy()


@pytest.fixture
def watched(cluster: TestCluster, browser: Browser) -> Iterator[Watched]:
    if not cluster.ps()["supervisor"]["running"]:
        cluster.start()
    with opened(browser, WIDE, "dark", home=home(cluster)) as watched:
        try:
            expect(watched.page.locator("#pulse")).to_have_text("live")
        except AssertionError as error:
            error.add_note(f"it asked for {watched.asked}, and complained of {watched.complaints}")
            raise
        yield watched


def home(cluster: TestCluster) -> str:
    return f"http://127.0.0.1:{cluster.config['admin-port']}/"


def agree(watched: Watched, cluster: TestCluster, moving: float = 0, reload: bool = False) -> None:
    """Every column of the list says what `ps --json` does; `reload`: it is loaded for each look."""
    found = [""]

    def same() -> bool:
        if reload:
            watched.page.reload()
        found[:] = differences(shown(watched.page), cluster.replicas(), moving)
        return not found

    try:
        wait_until(same)
    except AssertionError:
        raise AssertionError("\n".join(found)) from None


@contextmanager
def traffic(cluster: TestCluster) -> Iterator[None]:
    """A steady stream of requests at both load balancers."""
    over = threading.Event()

    def ask() -> None:
        number = 0
        while not over.wait(PAUSE):
            number += 1
            with suppress(requests.RequestException):  # A load balancer that is killed breaks what it had accepted.
                cluster.hello(number % 2)

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


def test_what_is_shown_is_what_ps_says(watched: Watched, cluster: TestCluster) -> None:
    agree(watched, cluster)
    assert watched.page.locator("#identity").inner_text().startswith(f"supervisor PID {cluster.supervisor_pid()}")
    expect(watched.page.locator("#costs")).to_contain_text(re.compile(r"[0-9.]+ % CPU · [0-9.]+ MiB"))
    with traffic(cluster):
        busy = wait_until(
            lambda: min(row["requests_per_s"] for row in cluster.replicas().values()) > 1 and cluster.replicas(),
            what="traffic",
        )
        assert all(row["p50_ms"] and row["p99_ms"] for row in busy.values())
        agree(watched, cluster, moving=3 / PAUSE)
        total = watched.page.locator("#figures dd").first
        wait_until(lambda: float(total.inner_text().removesuffix("/s").replace("<", "")) > 1, what="requests are seen")
    agree(watched, cluster)
    assert cluster.replicas()["lb-0"]["requests"] > 0
    assert watched.complaints == []
    assert watched.foreign(home(cluster)) == []


def seen_after(page: Page, cluster: TestCluster, name: str) -> float:
    """Kill a replica; milliseconds until the page shows it. It is ready again afterwards."""
    before = cluster.replicas()[name]
    page.evaluate(WATCH, name)
    killed = time.time() * 1000
    os.kill(before["pid"], signal.SIGKILL)
    wait_until(lambda: page.evaluate("window.seenAt"), what=f"the kill of {name} is seen")

    def back() -> bool:
        row = cluster.replicas()[name]
        return bool(row["state"] == "ready" and row["restarts"] > before["restarts"])

    wait_until(back, what=f"{name} is back")
    return float(page.evaluate("window.seenAt") - killed)


@pytest.mark.parametrize("name", ["lb-0", "worker-1"])
def test_a_kill_is_seen_within_two_seconds(watched: Watched, cluster: TestCluster, name: str) -> None:
    """Of several kills the one that is seen soonest counts: the others may have met a machine that stood still."""
    page, delays = watched.page, list[float]()
    while not delays or (delays[-1] >= 2000 and len(delays) < 8):
        delays.append(seen_after(page, cluster, name))
    print(f"the kills of {name} were seen after {[round(delay) for delay in delays]} ms")
    assert min(delays) < 2000
    group = page.locator(f'[data-group="{"lb" if name.startswith("lb") else "worker-container"}"]')
    expect(group).to_contain_text(name)
    expect(group.locator(".detail").first).to_have_attribute("title", re.compile(r"ready \+"))
    agree(watched, cluster)


def test_each_picture_of_a_chaos_run_is_one_answer(watched: Watched, cluster: TestCluster) -> None:
    """Whatever dies and comes back: what is drawn at a moment is one answer of the cluster, usually at most 2 s old
    (more on a busy machine).
    """
    page, seen, ages = watched.page, dict[float, bool](), list[float]()
    page.add_init_script(KEEP_ANSWERS)
    page.reload()
    wait_until(lambda: page.evaluate("Boolean(window.answer)"), what="the first answer")
    with traffic(cluster), ThreadPoolExecutor(1) as pool:
        chaos = pool.submit(cluster.comet, "chaos", "--for", "8s", "--seed", "7")
        deadline = time.monotonic() + 60 * PATIENCE
        # On a busy machine the page may meet less of one run.
        while not (chaos.done() and len(seen) > 4 and set(seen.values()) == {True, False}):
            assert time.monotonic() < deadline, seen
            if chaos.done() and False not in seen.values():
                assert chaos.result().returncode == 0, chaos.result().stderr
                chaos = pool.submit(cluster.comet, "chaos", "--for", "8s", "--seed", "7")
            picture = page.evaluate(PICTURE)
            listed = {row["name"]: row for row in picture["answer"]["replicas"]}
            assert differences(by_name(picture["rows"]), listed) == []
            assert sorted(picture["workers"]) == sorted(listed)
            ages.append(picture["age"])
            seen[picture["answer"]["supervisor"]["uptime_s"]] = all(row["state"] == "ready" for row in listed.values())
    assert chaos.result().returncode == 0, chaos.result().stderr
    assert median(ages) <= 2 * PATIENCE
    wait_until(lambda: all(row["state"] == "ready" for row in cluster.replicas().values()))


def test_every_control_works(watched: Watched, cluster: TestCluster) -> None:
    page, news = watched.page, watched.page.locator("#news")
    do(page, "scale", lambda: page.fill("#f-worker", "3"))
    expect(news.locator('[data-event="scaled"]').first).to_be_visible()

    def until_cleared() -> None:
        page.fill("#f-failure", "40")
        page.fill("#f-for", "")

    do(page, "faults", until_cleared)
    watched.noticed("Faults of all changed")
    expect(page.locator('.node[data-key="worker-0"]')).to_contain_text("failure 40 %")
    do(page, "faults", lambda: page.check('[name="clear"]'))
    watched.noticed("Faults of all cleared")
    cluster.write(failure=7)
    do(page, "reload")
    expect(news.locator('[data-event="reloaded"]').first).to_be_visible()
    before = cluster.replicas()["lb-1"]["id"]
    do(page, "restart", lambda: page.select_option("#f-target", "lb-1") and None)
    watched.noticed("Restarted lb-1")
    assert cluster.replicas()["lb-1"]["id"] != before
    do(page, "restart", lambda: page.select_option("#f-target", "worker") and None)
    watched.noticed("Restarted worker")
    do(page, "kill", lambda: page.select_option("#f-name", "lb-1") and None)
    watched.noticed("SIGKILL sent to lb-1")
    agree(watched, cluster)
    assert watched.complaints == []


def test_a_bad_file_is_refused_in_the_page_too(watched: Watched, cluster: TestCluster) -> None:
    cluster.write(failure=700)
    try:
        do(watched.page, "reload")
        expect(watched.page.locator("#ask-wrong, #notices [data-level='bad']").locator("visible=true")).to_contain_text(
            "failure"
        )
    finally:
        cluster.write(failure=0)


def test_without_javascript_the_list_is_there(cluster: TestCluster, browser: Browser) -> None:
    with opened(browser, home=home(cluster), java_script_enabled=False) as watched:
        page = watched.page
        assert "JavaScript" in page.inner_text("noscript")
        agree(watched, cluster, reload=True)
        expect(page.locator("#flow")).to_be_hidden()
        watched.shoot("no-script-wide-light")


def test_a_dead_supervisor_is_told_and_its_successor_obeyed(watched: Watched, cluster: TestCluster) -> None:
    page = watched.page
    os.kill(cluster.supervisor_pid(), signal.SIGKILL)
    expect(page.locator("#lost")).to_contain_text("The supervisor does not answer")
    wait_until(lambda: not cluster.ps()["supervisor"]["running"])
    cluster.start()
    expect(page.locator("#lost")).to_be_hidden()
    agree(watched, cluster)
    do(page, "kill", lambda: page.select_option("#f-name", "lb-0") and None)
    watched.noticed("SIGKILL sent to lb-0")


def test_a_stopped_supervisor_is_no_living_one(watched: Watched, cluster: TestCluster) -> None:
    pid = cluster.supervisor_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        expect(watched.page.locator("#lost")).to_contain_text(f"The supervisor is stopped (PID {pid}).")
        expect(watched.page.locator("#lost code")).to_have_text(f"kill -CONT {pid}")
        expect(watched.page.locator('.tools [data-do="scale"]')).to_be_disabled()
    finally:
        os.kill(pid, signal.SIGCONT)
    expect(watched.page.locator("#lost")).to_be_hidden()


def test_the_page_stops_the_cluster(watched: Watched, cluster: TestCluster) -> None:
    do(watched.page, "stop")
    expect(watched.page.locator("#lost")).to_contain_text("The cluster was stopped.")
    wait_until(lambda: cluster.comet("ps").returncode == 0 and not cluster.ps()["supervisor"]["running"], 60)
    assert cluster.replicas() == {}


def test_the_panel_shows_what_the_command_prints(watched: Watched, cluster: TestCluster) -> None:
    report = Report(cluster, "lb-0", "worker-0")
    page = watched.page
    page.click("#inspect-open")
    expect(page.locator("#inspect-state")).to_contain_text("differ (≠)")
    for key in ("kind", "tree", "pid", "inside_pid", "user", "capabilities", "seccomp", "namespace_mnt", "cgroup",
                "memory_limit", "layers", "image", "binds", "way", "nat"):  # fmt: skip
        shown = page.locator(f'#inspect-body [data-row="{key}"] > *').all_inner_texts()
        row = report.row(key)
        mark = "\N{NOT EQUAL TO}" if row["differs"] else ""
        assert shown == [mark, row["heading"], row["meaning"], *(value["text"] for value in row["values"])]
    page.click("#inspect-close")
