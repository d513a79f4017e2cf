"""What the page offers next to the picture: a beginning, active faults, logs, a list that can be searched; and what it
says without a supervisor.
"""

import re
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.page import scenes
from tests.page.stage import HOME, NARROW, STILL, Backstage, opened

SIZES = {"phone": NARROW, "tablet": (768, 1024), "laptop": (1440, 900)}


def names(page: Page) -> list[str]:
    return page.locator("#rows th").all_inner_texts()


def test_before_any_request_the_page_says_how_to_begin(browser: Browser) -> None:
    behind = Backstage(scenes.beginning().as_dict())
    with opened(browser, behind=behind) as watched:
        page = watched.page
        expect(page.locator("#curl")).to_have_text("curl http://127.0.0.1:5050/api/v1/hello")
        expect(page.locator("#begin-state")).to_contain_text("No request has come yet.")
        page.click("#send")
        watched.noticed("Sending 20 requests/s")
        behind.answer = scenes.load().as_dict()
        expect(page.locator("#begin-state")).to_have_text(re.compile("server sends 20.0 requests/s, 3 m 04 s left"))
        page.get_by_role("button", name="Stop sending").click()
        watched.noticed("Requests stopped")
        page.locator('[data-do="demo"]').click()
        page.click("#ask-yes")
        expect(page.locator("#ask")).to_be_hidden()
        watched.settled()
        assert behind.posts == [("load", {"rate": 20, "for": 300}), ("load", {"rate": 0}), ("demo", {})]
        assert watched.complaints == []


def test_active_faults_are_listed_named_as_cause_and_cleared(browser: Browser) -> None:
    behind = Backstage(scenes.fault().as_dict())
    with opened(browser, behind=behind) as watched:
        page = watched.page
        expect(page.locator("#verdict .more")).to_contain_text("hang 100 % is active, 31 s left")
        rows = page.locator("#active-faults li")
        expect(rows).to_have_count(2)
        expect(rows.nth(0)).to_contain_text("worker-0")
        expect(rows.nth(0)).to_contain_text("failure 60 %, status 503")
        page.get_by_role("button", name="Clear all faults of worker-2").click()
        watched.noticed("Faults of worker-2 cleared")
        assert behind.posts == [("faults", {"target": "worker-2", "clear": True})]
        assert watched.flaws() == []


def test_a_custom_service_has_no_faults_that_nobody_ordered(browser: Browser) -> None:
    scene = scenes.calm()
    for name in ("worker-0", "worker-1", "worker-2"):
        scene.rows[name]["faults"] = {"avg-delay": 0.0, "failure": 0.0}
    scene.fault("worker-1", 31.0, failure=100.0)
    with opened(browser, behind=Backstage(scene.as_dict())) as watched:
        expect(watched.page.locator("#active-faults li")).to_contain_text("failure 100 %")
        expect(watched.page.locator("#base-faults")).to_have_text("config.yaml sets none.")
        expect(watched.page.locator('.node[data-key="worker-1"]')).to_contain_text("faults: failure 100 %")
        expect(watched.page.locator('.node[data-key="worker-0"]')).not_to_contain_text("faults:")


def test_network_faults_are_listed_and_cleared(browser: Browser) -> None:
    scene = scenes.calm()
    scene.fault("worker-2", 12.0, **{"partition": True, "network-delay": 100.0, "network-jitter": 20.0})
    behind = Backstage(scene.as_dict())
    with opened(browser, behind=behind) as watched:
        row = watched.page.locator("#active-faults li")
        expect(row).to_have_count(1)
        expect(row).to_contain_text("worker-2")
        expect(row).to_contain_text("partition, network-delay 100 ms, network-jitter 20 ms")
        expect(row).to_contain_text("12 s left")
        watched.page.get_by_role("button", name="Clear all faults of worker-2").click()
        watched.settled()
        assert behind.posts == [("faults", {"target": "worker-2", "clear": True})]


def test_faults_of_the_front_are_listed_and_cleared(browser: Browser) -> None:
    scene = scenes.calm()
    scene.front_fault(12.0, reset=10.0)
    behind = Backstage(scene.as_dict())
    with opened(browser, behind=behind) as watched:
        rows = watched.page.locator("#active-faults li")
        expect(rows).to_have_count(1)
        expect(rows).to_contain_text("front")
        expect(rows).to_contain_text("reset 10 %")
        watched.page.get_by_role("button", name="Clear all faults of front").click()
        expect(watched.page.locator("#notices")).to_contain_text("Faults of front cleared")
        assert behind.posts == [("faults", {"target": "front", "clear": True})]


def test_what_is_left_of_counts_is_listed_for_all_their_workers(browser: Browser) -> None:
    scene = scenes.calm()
    for number, left in enumerate((3, 1, None)):
        scene.rows[f"worker-{number}"]["fault_orders"]["leases"] = [
            scenes.lease({"reset": 100.0}, None, 5, left),
            scenes.lease({"failure": 60.0}, 31.0, 2, 2),
        ]
    behind = Backstage(scene.as_dict())
    with opened(browser, behind=behind) as watched:
        rows = watched.page.locator("#active-faults li")
        expect(rows).to_have_count(2)
        expect(rows.nth(0)).to_contain_text("1 to 3 of 5 requests left of each")
        expect(rows.nth(1)).to_contain_text("2 of 2 requests left of each, 31 s left")
        for number in range(3):
            del scene.rows[f"worker-{number}"]["fault_orders"]["leases"][1]
            scene.rows[f"worker-{number}"]["fault_orders"]["leases"][0]["count"] = 1
            scene.rows[f"worker-{number}"]["fault_orders"]["leases"][0]["count_left"] = 1
        behind.answer = scene.as_dict()
        expect(rows).to_have_count(1)
        expect(rows).to_contain_text("1 of 1 request left of each")
        for number in range(3):
            scene.rows[f"worker-{number}"]["fault_orders"]["leases"][0]["count"] = 5
            scene.rows[f"worker-{number}"]["fault_orders"]["leases"][0]["count_left"] = None
        behind.answer = scene.as_dict()
        expect(rows).to_have_count(1)
        expect(rows).to_contain_text("the first 5 requests of each")


FAULT_BARS = """async events => {
    const { faultBars } = await import("/lives.js");
    const bars = faultBars(events.map((event, n) => ({ ...event, n })), 0, 100000);
    return bars.map(bar => [bar.name, bar.from, bar.to]);
}"""


@pytest.mark.parametrize(
    ("orders", "bars"),
    [
        ([(1, "worker-0", {"hang": 5}, {}), (2, "worker-0", {"cpu": 5}, {"for_s": 9}), (3, None, {}, {"clear": True})],
         [["worker-0", 1000, 3000], ["worker-0", 2000, 3000]]),
        ([(1, "worker-0", {"hang": 5}, {"for_s": 50}), (2, "worker-0", {}, {"clear": True, "scenario": "a"})],
         [["worker-0", 1000, 51000]]),
        ([(1, None, {"hang": 5}, {"for_s": 50, "scenario": "a"}), (2, None, {}, {"clear": True, "scenario": "a"})],
         [[None, 1000, 2000]]),
        ([(1, "worker-0", {"hang": 5}, {"for_s": 50}), (2, "worker-0", {"reset": 5}, {})],
         [["worker-0", 1000, 51000], ["worker-0", 2000, 100000]]),
        ([(1, "worker-0", {"hang": 5}, {"for_s": 50}), (2, "worker-0", {"hang": 6}, {})],
         [["worker-0", 1000, 2000], ["worker-0", 2000, 100000]]),
        ([(1, "front", {"hang": 5}, {}), (2, None, {"hang": 6}, {}), (3, None, {}, {"clear": True})],
         [["front", 1000, 3000], [None, 2000, 3000]]),
        ([(1, None, {"hang": 5}, {"count": 2})], [[None, 1000, 100000]]),
    ],
)  # fmt: skip
def test_the_bar_of_a_fault_lasts_as_long_as_the_fault(
    browser: Browser, orders: list[tuple[int, str | None, dict[str, float], dict[str, Any]]], bars: list[list[Any]]
) -> None:
    events: list[dict[str, Any]] = [
        {
            "event": "faults_changed",
            "time": 1000 * at,
            "settings": settings,
            **({"replica": name} if name else {}),
            **more,
        }
        for at, name, settings, more in orders
    ]
    with opened(browser, behind=Backstage(scenes.calm().as_dict())) as watched:
        assert watched.page.evaluate(FAULT_BARS, events) == bars
        ended = [{"event": "faults_ended", "time": 4000, "replica": "worker-1", "settings": orders[-1][2]}]
        if "count" in orders[-1][3]:
            assert watched.page.evaluate(FAULT_BARS, events + ended) == [[None, 1000, 4000]]
        stopped = watched.page.evaluate(FAULT_BARS, [*events, {"event": "supervisor_stopped", "time": 5000}])
        assert stopped == [[name, begun, min(end, 5000)] for name, begun, end in bars]


def test_logs_are_followed_and_never_become_part_of_the_page(browser: Browser) -> None:
    behind = Backstage(scenes.calm().as_dict())
    hostile, ended = "two <img src=http://elsewhere.example/x>", "-- worker-1 exited by SIGKILL at 1 --"
    behind.logs = {"worker-1": f"one\n{hostile}\n{ended}"}
    with opened(browser, behind=behind) as watched:
        page = watched.page
        page.click('.node[data-key="worker-1"]')
        page.get_by_role("dialog").get_by_role("button", name="Logs…").click()
        body = page.locator("#logs-body")
        expect(body).to_contain_text(hostile)
        expect(body.locator(".end")).to_have_count(1)
        behind.logs["worker-1"] = f"{hostile}\n{ended}\nthree"
        expect(body).to_contain_text("three")
        assert body.inner_text().split("\n")[:4] == ["one", hostile, ended, "three"]
        behind.logs["lb-0"] = "from the balancer"
        page.select_option("#logs-name", "all")
        expect(body).to_contain_text("lb-0     | from the balancer")
        expect(body).to_contain_text("worker-1 | three")
        assert watched.flaws() == []
        assert watched.foreign() == []
        assert page.locator("#logs-body img").count() == 0
        behind.answer = {**scenes.calm().as_dict(), "writable": False}
        expect(page.locator("#logs")).to_be_hidden()
        expect(page.locator("#logs-open")).to_be_disabled()


def test_the_list_keeps_its_place_when_filtered_and_sorted(browser: Browser) -> None:
    scene = scenes.forty()
    behind = Backstage(scene.as_dict())
    with opened(browser, behind=behind) as watched:
        page = watched.page
        expect(page.locator("#rows tr")).to_have_count(48)
        page.fill("#filter", "unhealthy")
        assert names(page) == ["worker-22"]
        expect(page.locator("#filter-count")).to_have_text("1 of 48")
        page.fill("#filter", "worker failure")
        assert names(page) == [f"worker-{number}" for number in range(5, 10)]
        page.fill("#filter", "worker")
        page.get_by_role("button", name="Restarts").click()
        assert names(page)[0] == "worker-17"
        expect(page.locator('thead th[aria-sort="descending"]')).to_have_text("Restarts")
        page.locator('tr[data-name="worker-17"]').hover()
        scene.rows["worker-30"]["restarts"] = 9
        behind.answer = scene.as_dict()
        expect(page.locator('tr[data-name="worker-30"] td.restarts')).to_have_text("9")
        assert names(page)[0] == "worker-17"
        page.mouse.move(2, 2)
        expect(page.locator("#rows tr").first).to_have_attribute("data-name", "worker-30")


def test_a_link_to_a_replica_can_be_kept(browser: Browser) -> None:
    with opened(browser, behind=Backstage(scenes.calm().as_dict())) as watched:
        page = watched.page
        page.locator("#rows").get_by_role("link", name="worker-1").click()
        expect(page).to_have_url(f"{HOME}#worker-1")
        page.reload()
        expect(page.locator("#about")).to_contain_text("fdbaa57c0001")
        page.get_by_role("dialog").get_by_role("button", name="Close").click()
        expect(page.locator("#about")).to_be_hidden()
        expect(page).to_have_url(HOME)


@pytest.mark.parametrize("size", SIZES)
def test_forty_workers_behind_eight_balancers_stay_readable(browser: Browser, size: str) -> None:
    scene = scenes.forty()
    with opened(browser, SIZES[size], behind=Backstage(scene.as_dict())) as watched:
        page = watched.page
        expect(page.locator(".flow .node")).to_have_count(48)
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
        for name in ("worker-5", "worker-22"):
            expect(page.locator(f'.node[data-key="{name}"] .signs svg')).to_be_visible()
        shown = set(page.locator(".timeline .lines text").all_text_contents())
        assert {each["replica"] for each in scene.events if each.get("replica")} <= shown
        assert {"worker-5", "worker-9"} <= shown
        if size != "phone":
            assert page.eval_on_selector(".scroll", "box => box.scrollWidth - box.clientWidth") <= 0
        page.evaluate(STILL)
        cells = page.eval_on_selector_all(".flow .name", "all => all.map(one => [one.scrollWidth, one.clientWidth])")
        assert all(needed <= given + 1 for needed, given in cells if given)


def test_a_phone_shows_every_cell_of_the_list(browser: Browser) -> None:
    with opened(browser, NARROW, behind=Backstage(scenes.trouble().as_dict())) as watched:
        page = watched.page
        expect(page.locator("#rows tr")).to_have_count(6)
        assert page.eval_on_selector(".scroll", "box => box.scrollWidth - box.clientWidth") <= 0
        assert page.eval_on_selector_all("#rows td", "all => all.every(one => one.scrollWidth <= one.clientWidth + 1)")


HUNG = {"problem": "not answering"}


@pytest.mark.parametrize(
    ("problem", "sentence", "remedy"),
    [
        ({}, "The supervisor is stopped (PID 4242).", "kill -CONT 4242"),
        (HUNG, "The supervisor is hung or gets no CPU (PID 4242).", "kill -9 4242 && python supervisor.py run"),
        (None, "The supervisor does not answer: it has ended.", "python supervisor.py run"),
    ],
    ids=["stopped", "hung", "dead"],
)
def test_without_a_supervisor_one_sentence_says_what_to_do(
    browser: Browser, problem: dict[str, Any] | None, sentence: str, remedy: str
) -> None:
    behind = Backstage(scenes.calm().as_dict())
    with opened(browser, behind=behind) as watched:
        page = watched.page
        expect(page.locator("#pulse")).to_have_text("live")
        places = "() => [...document.querySelectorAll('main > section')].map(each => each.getBoundingClientRect().top)"
        page.evaluate(STILL)
        before = page.evaluate(places)
        if problem is None:
            behind.answer = None
        else:
            state = scenes.stopped().as_dict()
            behind.answer = {**scenes.calm().as_dict(), "silent_s": 9.0}
            behind.answer["supervisor"] = {**state["supervisor"], **problem}
        alert = page.get_by_role("alert").first
        expect(alert.locator(".word")).to_have_text(sentence)
        expect(alert.locator("code")).to_have_text(remedy)
        assert page.evaluate(places) == before
        for each in page.locator("[data-do], #rows button, #send, #logs-open, #inspect-open").all():
            expect(each).to_be_disabled()
        assert watched.flaws() == []


def test_notices_and_badges_move_nothing(browser: Browser) -> None:
    behind = Backstage(scenes.calm().as_dict())
    with opened(browser, SIZES["laptop"], behind=behind) as watched:
        page = watched.page
        expect(page.locator("#pulse")).to_have_text("live")
        places = """() => [...document.querySelectorAll("main > section, .tools button, .node, .figures > div")]
            .map(each => each.getBoundingClientRect()).map(box => [box.left, box.top, box.width, box.height])"""
        page.evaluate(STILL)
        before = page.evaluate(places)
        scene = scenes.calm()
        scene.death(20, "worker-1")
        scene.death(10, "lb-0")
        scene.fault("worker-2", 31.0, hang=100.0, failure=50.0)
        scene.unhealthy("worker-2", "unhealthy", "lb-0: no answer within 2 s; " * 4, 2)
        scene.rows["worker-0"]["errors_per_s"] = 3.1
        behind.answer = scene.as_dict()
        page.locator('.tools [data-do="reload"]').click()
        page.click("#ask-yes")
        expect(page.locator("#notices .notice")).to_have_count(1)
        expect(page.locator("#verdict .word")).to_contain_text("worker-2")
        assert page.evaluate(places) == before


def test_a_recovery_shows_under_way_and_an_adoption_as_one(browser: Browser) -> None:
    scene = scenes.killed()
    scene.event(30, "supervisor_started", None)
    scene.event(29, "adopted", "lb-1")
    with opened(browser, behind=Backstage(scene.as_dict())) as watched:
        page = watched.page
        group = page.locator('[data-group="worker-container"]')
        expect(group).to_contain_text("so far")
        expect(group.locator(".step.running")).to_have_count(1)
        expect(page.locator('.mark.adopted[aria-label*="lb-1"]')).to_have_count(1)
        expect(page.locator("#news .begin-of-run")).to_contain_text("before this start")
