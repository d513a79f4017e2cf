"""What the page asks of the supervisor, and how it tells what became of it; the supervisor's part is played."""

from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.page import scenes
from tests.page.stage import NARROW, Backstage, opened

pytestmark = pytest.mark.slow


@pytest.fixture
def behind() -> Backstage:
    return Backstage(scenes.trouble().as_dict())


def press(page: Page, what: str) -> None:
    page.locator(f'.tools [data-do="{what}"]').click()


def sent(page: Page, behind: Backstage) -> list[tuple[str, dict[str, Any]]]:
    page.click("#ask-yes")
    expect(page.locator("#ask")).to_be_hidden()
    return behind.posts


def test_scale_sends_both_numbers(browser: Browser, behind: Backstage) -> None:
    behind.respond = lambda name, body: (200, {"done": name, "result": body})
    with opened(browser, behind=behind) as watched:
        page = watched.page
        press(page, "scale")
        assert page.input_value("#f-worker") == "4"
        page.fill("#f-worker", "6")
        assert sent(page, behind) == [("scale", {"worker": 6, "pool": 2})]
        expect(page.locator("#notices")).to_contain_text("Scaled to 6 workers and 2 load balancers")


def test_what_dies_is_asked_for_first_and_cancelling_sends_nothing(browser: Browser, behind: Backstage) -> None:
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
        assert sent(page, behind) == [("kill", {"name": "worker-1", "signal": "TERM"})]
        page.locator("tr", has_text="lb-1").get_by_role("button", name="restart lb-1").click()
        assert sent(page, behind)[1:] == [("restart", {"target": "lb-1"})]


def test_one_of_each_kind_dies_together_to_be_compared(browser: Browser, behind: Backstage) -> None:
    with opened(browser, behind=behind) as watched:
        watched.page.locator('[data-do="race"]').click()
        posts = sent(watched.page, behind)
        assert posts == [("kill", {"name": "lb-0", "signal": "KILL"}), ("kill", {"name": "worker-0", "signal": "KILL"})]


def test_faults_send_what_was_filled_in_and_nothing_else(browser: Browser, behind: Backstage) -> None:
    with opened(browser, behind=behind) as watched:
        page = watched.page
        press(page, "faults")
        page.select_option("#f-target", "worker-2")
        page.fill("#f-failure", "12.5")
        assert sent(page, behind) == [("faults", {"target": "worker-2", "failure": 12.5, "for": 30})]
        press(page, "faults")
        page.check('[name="clear"]')
        assert sent(page, behind)[1:] == [("faults", {"target": "all", "clear": True})]


def test_a_refusal_stands_in_the_dialog_and_what_was_typed_stays(browser: Browser, behind: Backstage) -> None:
    behind.respond = lambda name, body: (409, {"error": "worker-6: port 6006 is taken by nginx (PID 4242); nothing was changed"})
    with opened(browser, NARROW, behind=behind) as watched:
        page = watched.page
        press(page, "scale")
        page.fill("#f-worker", "7")
        page.click("#ask-yes")
        expect(page.locator("#ask-wrong")).to_have_text("worker-6: port 6006 is taken by nginx (PID 4242); nothing was changed")
        assert page.input_value("#f-worker") == "7"
        assert watched.flaws() == []
        watched.shoot("refused-narrow-light")


def test_a_session_that_ended_is_renewed_once(browser: Browser, behind: Backstage) -> None:
    answers = [(401, {"error": "no session"}), (200, {"done": "reload", "result": {"changed": []}})]
    behind.respond = lambda name, body: answers.pop(0)
    with opened(browser, behind=behind) as watched:
        press(watched.page, "reload")
        assert sent(watched.page, behind) == [("reload", {}), ("reload", {})]
        expect(watched.page.locator("#notices")).to_contain_text("nothing had changed")


def test_every_dialog_is_usable_by_all(browser: Browser, behind: Backstage) -> None:
    with opened(browser, NARROW, "dark", behind) as watched:
        for what in ("scale", "restart", "kill", "faults", "reload", "stop"):
            press(watched.page, what)
            expect(watched.page.locator("#ask")).to_be_visible()
            watched.shoot(f"dialog-{what}-narrow-dark")
            assert watched.flaws() == [], what
            watched.page.keyboard.press("Escape")
        assert watched.complaints == []
