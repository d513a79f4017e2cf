"""What the page asks of the supervisor, and how it tells what became of it; the supervisor's part is played."""

from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from comet.admin import html_table
from comet.commands import forms
from comet.commands.command import Command, Field, words_field
from comet.commands.table import COMMANDS
from fault_rules import NETWORK, WORKER, Fault
from tests.page import scenes
from tests.page.stage import FILES, HOME, NARROW, Backstage, Watched, eventually, opened


@pytest.fixture
def behind() -> Backstage:
    return Backstage(scenes.trouble().as_dict())


def press(page: Page, what: str) -> None:
    page.locator(f'.tools [data-do="{what}"]').click()


def sent(watched: Watched, behind: Backstage) -> list[tuple[str, dict[str, Any]]]:
    watched.page.click("#ask-yes")
    expect(watched.page.locator("#ask")).to_be_hidden()
    watched.settled()
    return behind.posts


def test_scale_sends_both_numbers(browser: Browser, behind: Backstage) -> None:
    behind.respond = lambda name, body: (200, {"done": name, "result": body})
    with opened(browser, behind=behind) as watched:
        page = watched.page
        press(page, "scale")
        assert page.input_value("#f-worker") == "4"
        page.fill("#f-worker", "6")
        assert sent(watched, behind) == [("scale", {"worker": 6, "pool": 2})]
        watched.noticed("Scaled to 6 workers and 2 load balancers")


def test_a_command_or_fault_that_is_declared_can_be_given(
    browser: Browser, behind: Backstage, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {
        "name": words_field("a worker's name", input=forms.WORKER),
        "loudly": Field({"type": "boolean"}),
        "times": Field({"type": "integer", "minimum": 1, "default": 2}),
        "word": Field({"type": "string"}),
    }
    monkeypatch.setitem(COMMANDS, "greet", Command("greet", "greet a worker", fields=fields, over_http=True))
    monkeypatch.setattr(html_table, "WORKER", (*WORKER, Fault("freeze", "share of requests that wait for a minute")))
    with opened(browser, behind=behind) as watched:
        page = watched.page
        press(page, "greet")
        expect(page.locator("#ask-why")).to_have_text("Greet a worker.")
        page.select_option("#f-name", "worker-2")
        page.check('[name="loudly"]')
        assert sent(watched, behind) == [("greet", {"name": "worker-2", "loudly": True, "times": 2})]
        watched.noticed("Greet: done")
        page.click('.node[data-key="worker-1"]')
        page.get_by_role("dialog").get_by_role("button", name="Greet…").click()
        assert page.input_value("#f-name") == "worker-1"
        page.keyboard.press("Escape")
        press(page, "faults")
        page.select_option("#f-target", "worker-2")
        page.fill("#f-freeze", "7")
        assert sent(watched, behind)[1:] == [("faults", {"target": "worker-2", "freeze": 7, "for": 30})]


def test_a_late_answer_closes_no_other_dialog(browser: Browser, behind: Backstage) -> None:
    with opened(browser, behind=behind) as watched:
        page, held = watched.page, list[Route]()

        def hold(route: Route) -> None:
            held.append(route)

        page.route("**/api/v1/scale", hold)
        press(page, "scale")
        page.click("#ask-yes")
        expect(page.locator("#ask")).to_be_hidden()
        press(page, "faults")
        page.fill("#f-failure", "12.5")
        eventually(page, lambda: held, "the order to scale")
        held[0].fulfill(json={"done": "scale", "result": {"worker": 4, "pool": 2}})
        watched.noticed("Scaled to 4 workers and 2 load balancers")
        assert page.input_value("#f-failure") == "12.5"
        assert page.locator("#ask").is_visible()


def test_kill_asks_first_and_cancel_sends_nothing(browser: Browser, behind: Backstage) -> None:
    with opened(browser, behind=behind) as watched:
        page = watched.page
        for what in ("kill", "stop"):
            press(page, what)
            expect(page.locator("#ask-no")).to_be_focused()
            page.keyboard.press("Enter")
            expect(page.locator("#ask")).to_be_hidden()
        press(page, "kill")
        page.keyboard.press("Escape")
        assert behind.posts == []


def test_a_card_leads_to_its_own_commands(browser: Browser, behind: Backstage) -> None:
    with opened(browser, behind=behind) as watched:
        page = watched.page
        page.click('.node[data-key="worker-1"]')
        expect(page.locator("#about")).to_contain_text("fdbaa57c0001")
        expect(page.locator("#about")).to_contain_text("lb-0 → worker-1")
        page.get_by_role("dialog").get_by_role("button", name="Kill…").click()
        page.select_option("#f-signal", "TERM")
        assert sent(watched, behind) == [("kill", {"name": "worker-1", "signal": "TERM"})]
        page.locator("tr", has_text="lb-1").get_by_role("button", name="restart lb-1").click()
        assert sent(watched, behind)[1:] == [("restart", {"target": "lb-1"})]


def test_one_of_each_kind_dies_together_to_be_compared(browser: Browser, behind: Backstage) -> None:
    with opened(browser, behind=behind) as watched:
        watched.page.locator("[data-both]").click()
        posts = sent(watched, behind)
        assert posts == [("kill", {"name": "lb-0", "signal": "KILL"}), ("kill", {"name": "worker-0", "signal": "KILL"})]


def test_a_cluster_of_one_kind_has_nothing_to_compare(browser: Browser) -> None:
    scene = scenes.calm()
    for row in scene.rows.values():
        row["kind"] = "process"
    behind = Backstage(scene.as_dict())
    with opened(browser, behind=behind) as watched:
        page = watched.page
        expect(page.locator('.tools [data-do="kill"]')).to_be_enabled()
        expect(page.locator("[data-both]")).to_be_disabled()
        assert "runtime: mixed" in (page.locator("[data-both]").get_attribute("title") or "")
        press(page, "kill")
        expect(page.locator('[name="both"]')).to_be_disabled()
        expect(page.locator("#ask-fields")).to_contain_text("no ready process and container")
        watched.shoot("kill-one-kind-wide-light")
        assert watched.flaws() == []
        assert sent(watched, behind) == [("kill", {"name": "lb-0", "signal": "KILL"})]


def test_without_a_ready_one_of_the_other_kind_nothing_dies(browser: Browser) -> None:
    scene = scenes.calm()
    for name in ("worker-1", "worker-2"):
        scene.rows[name]["kind"] = "process"
    behind = Backstage(scene.as_dict())
    with opened(browser, behind=behind) as watched:
        page = watched.page
        page.locator("[data-both]").click()
        page.select_option("#f-name", "worker-0")
        assert sent(watched, behind)[1] == ("kill", {"name": "lb-0", "signal": "KILL"})
        page.locator("[data-both]").click()
        scene.rows["worker-0"]["state"] = "starting"
        behind.answer = scene.as_dict()
        expect(page.locator('[data-key="worker-0"]').first).to_contain_text("starting")
        page.click("#ask-yes")
        expect(page.locator("#ask-wrong")).to_contain_text("No replica of another kind than lb-0 is ready.")
        assert len(behind.posts) == 2


def test_faults_send_what_was_filled_in_and_nothing_else(browser: Browser, behind: Backstage) -> None:
    with opened(browser, behind=behind) as watched:
        page = watched.page
        press(page, "faults")
        page.select_option("#f-target", "worker-2")
        page.fill("#f-failure", "12.5")
        assert sent(watched, behind) == [("faults", {"target": "worker-2", "failure": 12.5, "for": 30})]
        press(page, "faults")
        page.check('[name="clear"]')
        assert sent(watched, behind)[1:] == [("faults", {"target": "all", "clear": True})]


def test_faults_show_what_is_effective_and_need_a_change(browser: Browser) -> None:
    behind = Backstage(scenes.fault().as_dict())
    with opened(browser, behind=behind) as watched:
        page = watched.page
        press(page, "faults")
        assert page.get_attribute("#f-hang", "placeholder") == "differs"
        expect(page.locator("p.field", has=page.locator("#f-slow-body"))).to_contain_text("B/s (0: at once)")
        page.select_option("#f-target", "worker-2")
        assert (page.input_value("#f-hang"), page.input_value("#f-failure")) == ("100", "12")
        page.click("#ask-yes")
        expect(page.locator("#ask-wrong")).to_contain_text("Nothing would change")
        assert behind.posts == []
        page.fill("#f-slow-body", "64")
        page.select_option("#f-delay-distribution", "lognormal")
        page.fill("#f-for", "")
        page.fill("#f-count", "20")
        assert sent(watched, behind) == [
            ("faults", {"target": "worker-2", "slow-body": 64, "delay-distribution": "lognormal", "count": 20})
        ]


def test_faults_of_the_front_have_their_own_kinds(browser: Browser) -> None:
    scene = scenes.calm()
    scene.front_fault(12.0, reset=10.0)
    behind = Backstage(scene.as_dict())
    with opened(browser, behind=behind) as watched:
        page = watched.page
        press(page, "faults")
        page.select_option("#f-target", "front")
        expect(page.locator("#f-cpu")).to_have_count(0)
        assert (page.input_value("#f-reset"), page.input_value("#f-share")) == ("10", "100")
        page.fill("#f-failure", "25")
        page.fill("#f-status", "429")
        page.fill("#f-headers", "Retry-After: 2")
        page.fill("#f-path", "/api/*")
        page.fill("#f-for", "5")
        given = {"failure": 25, "status": 429, "headers": "Retry-After: 2", "path": "/api/*", "for": 5}
        assert sent(watched, behind) == [("faults", {"target": "front", **given})]
        press(page, "faults")
        page.select_option("#f-target", "front")
        page.select_option("#f-refuse", "true")
        assert sent(watched, behind)[1:] == [("faults", {"target": "front", "refuse": True, "for": 30})]
        assert watched.flaws() == []


def test_the_network_of_containers_fails_for_a_time(browser: Browser) -> None:
    scene = scenes.calm()
    scene.fault("worker-1", 12.0, partition=True, loss=5.0)
    behind = Backstage(scene.as_dict())
    with opened(browser, behind=behind) as watched:
        page = watched.page
        press(page, "faults")
        assert [name for name in (f"#f-{fault.name}" for fault in NETWORK) if page.locator(name).count() != 1] == []
        assert page.locator("#f-partition option:checked").inner_text() == "differs"
        page.select_option("#f-target", "worker-1")
        assert (page.input_value("#f-partition"), page.input_value("#f-loss")) == ("true", "5")
        page.select_option("#f-target", "worker-2")
        assert (page.input_value("#f-partition"), page.input_value("#f-network-delay")) == ("false", "0")
        page.select_option("#f-partition", "true")
        page.fill("#f-network-delay", "100")
        for limit, value in (("#f-for", ""), ("#f-count", "3")):
            former = page.input_value(limit)
            page.fill(limit, value)
            page.click("#ask-yes")
            expect(page.locator("#ask-wrong")).to_have_text("Partition, Network delay: give a time, and no count.")
            page.fill(limit, former)
        assert behind.posts == []
        given = {"partition": True, "network-delay": 100, "for": 30}
        assert sent(watched, behind) == [("faults", {"target": "worker-2", **given})]
        press(page, "faults")
        page.select_option("#f-target", "worker-1")
        page.select_option("#f-partition", "false")
        page.fill("#f-for", "")
        assert sent(watched, behind)[1:] == [("faults", {"target": "worker-1", "partition": False})]
        assert watched.flaws() == []


def test_only_containers_have_a_network_that_can_fail(browser: Browser) -> None:
    scene = scenes.calm()
    scene.rows["worker-1"]["kind"] = "process"
    behind = Backstage(scene.as_dict())
    with opened(browser, behind=behind) as watched:
        page = watched.page
        press(page, "faults")
        for target, possible in (("all", False), ("worker-1", False), ("worker-0", True)):
            page.select_option("#f-target", target)
            assert [page.is_enabled(f"#f-{fault.name}") for fault in NETWORK] == [possible] * len(NETWORK)
        page.fill("#f-loss", "5")
        assert sent(watched, behind) == [("faults", {"target": "worker-0", "loss": 5, "for": 30})]


DIALOG_STAYS = """() => {
    const later = window.setTimeout;
    window.setTimeout = (act, pause, ...rest) => later(act, pause === 700 ? 700_000 : pause, ...rest);
}"""
"""A dialog waits for its answer however busy the machine is; else what takes longer continues as a notice."""


def test_a_refusal_stands_in_the_dialog_and_what_was_typed_stays(browser: Browser, behind: Backstage) -> None:
    behind.respond = lambda name, body: (
        409,
        {"error": "worker-6: port 6006 is taken by nginx (PID 4242); nothing was changed"},
    )
    with opened(browser, NARROW, behind=behind) as watched:
        page = watched.page
        page.evaluate(DIALOG_STAYS)
        press(page, "scale")
        page.fill("#f-worker", "7")
        page.click("#ask-yes")
        expect(page.locator("#ask-wrong")).to_have_text(
            "worker-6: port 6006 is taken by nginx (PID 4242); nothing was changed"
        )
        assert page.input_value("#f-worker") == "7"
        assert watched.flaws() == []
        watched.shoot("refused-narrow-light")


def test_a_session_that_ended_is_renewed_once(browser: Browser, behind: Backstage) -> None:
    answers = [(401, {"error": "no session"}), (200, {"done": "reload", "result": {"changed": []}})]
    behind.respond = lambda name, body: answers.pop(0)
    with opened(browser, behind=behind) as watched:
        press(watched.page, "reload")
        assert sent(watched, behind) == [("reload", {}), ("reload", {})]
        watched.noticed("changed: nothing")


def test_every_dialog_is_usable_by_all(browser: Browser, behind: Backstage) -> None:
    with opened(browser, NARROW, "dark", behind) as watched:
        for what in ("scale", "restart", "kill", "faults", "reload", "stop"):
            press(watched.page, what)
            expect(watched.page.locator("#ask")).to_be_visible()
            watched.shoot(f"dialog-{what}-narrow-dark")
            assert watched.flaws() == [], what
            watched.page.keyboard.press("Escape")
        assert watched.complaints == []


def test_who_may_not_write_sees_it_and_why_and_can_press_nothing(browser: Browser) -> None:
    behind = Backstage({**scenes.trouble().as_dict(), "writable": False})
    with opened(browser, NARROW, behind=behind) as watched:
        page = watched.page
        expect(page.locator("#pulse")).to_have_text("live")
        expect(page.locator("#readonly")).to_contain_text("supervisor.py dashboard")
        assert {
            page.locator("[data-do]").nth(index).is_disabled() for index in range(page.locator("[data-do]").count())
        } == {True}
        expect(page.locator("td.acts button:enabled")).to_have_count(0)
        page.click('.node[data-key="worker-1"]')
        expect(page.locator("#about")).to_contain_text("fdbaa57c0001")
        expect(page.get_by_role("dialog").get_by_role("button", name="Kill…")).to_be_disabled()
        page.get_by_role("dialog").get_by_role("button", name="Close").click()
        assert watched.flaws() == []
        watched.shoot("read-only-narrow-light")
        assert behind.posts == []


def test_a_used_link_says_so_and_leaves_the_address(browser: Browser) -> None:
    behind = Backstage({**scenes.trouble().as_dict(), "writable": False})
    body = html_table.fill((FILES / "index.html").read_text(), ())
    with opened(browser, behind=behind) as watched:
        watched.page.route("**/?token=*", lambda route: route.fulfill(status=403, body=body, content_type="text/html"))
        watched.page.goto(f"{HOME}?token=spent")
        expect(watched.page.locator("#readonly")).to_contain_text("opened before or is older than 5 minutes")
        expect(watched.page).to_have_url(HOME)


def test_a_session_that_ends_is_asked_for_again_by_the_page(browser: Browser, behind: Backstage) -> None:
    told = scenes.trouble().as_dict()
    with opened(browser, behind=behind) as watched:
        expect(watched.page.locator('.tools [data-do="stop"]')).to_be_enabled()
        asked = watched.asked.count(HOME)
        behind.answer = {**told, "writable": False}
        expect(watched.page.locator("#readonly")).to_be_visible()
        expect(watched.page.locator('.tools [data-do="stop"]')).to_be_disabled()
        eventually(watched.page, lambda: watched.asked.count(HOME) > asked, "it asks for the page")
        assert watched.asked.count(HOME) == asked + 1
        behind.answer = told
        expect(watched.page.locator("#readonly")).to_be_hidden()
        expect(watched.page.locator('.tools [data-do="stop"]')).to_be_enabled()


def test_workers_are_drained_and_requests_paused(browser: Browser) -> None:
    answer = scenes.calm().as_dict()
    answer["replicas"][-1]["drained"] = True
    behind = Backstage(answer)
    result = {"name": "worker-0", "drained": True, "paused": True}
    behind.respond = lambda name, body: (200, {"done": name, "result": result})
    with opened(browser, behind=behind) as watched:
        page = watched.page
        press(page, "drain")
        assert sent(watched, behind) == [("drain", {"name": "worker-0"})]
        press(page, "pause")
        assert sent(watched, behind)[1:] == [("pause", {"for": 30})]
        expect(page.locator("body")).to_contain_text("ready, drained")
        figures = {"errors_per_s": 5.0, "injected_per_s": 5.0, "requests_per_s": 50.0}
        answer["total"] = {**answer["total"], **figures, "paused": True}
        behind.answer = answer
        expect(page.locator("#figures")).to_contain_text("10.0 % injected")
        expect(page.locator("#verdict")).to_contain_text("Paused")
        press(page, "pause")
        assert sent(watched, behind)[2:] == [("resume", {})]
