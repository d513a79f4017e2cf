"""The panel that shows replicas side by side: which are chosen, what is marked, and who gets to see it."""

from dataclasses import replace
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from comet.inspection import rows
from tests.page import scenes
from tests.page.stage import NARROW, Backstage, opened
from tests.unit.inspection.samples import MACHINE, balancer, worker


@pytest.fixture
def behind() -> Backstage:
    known = {"lb-0": balancer(), "worker-0": worker()}
    known["worker-1"] = replace(known["worker-0"], name="worker-1")
    made = Backstage(scenes.trouble().as_dict())
    made.inspect = lambda names: (200, rows.report([known[name] for name in names], MACHINE))
    return made


def cells(page: Page, key: str) -> list[str]:
    return page.locator(f'#inspect-body [data-row="{key}"] > *').all_inner_texts()


def test_a_process_and_a_container_are_shown_side_by_side(browser: Browser, behind: Backstage) -> None:
    with opened(browser, behind=behind) as watched:
        page = watched.page
        page.click("#inspect-open")
        expect(page.locator("#inspect-state")).to_contain_text("differ (≠)")
        assert behind.inspected == [["lb-0", "worker-0"]]
        assert cells(page, "seccomp") == ["≠", "Seccomp", "system calls it may make", "off", "filter (1 installed)"]
        assert cells(page, "user_map")[0] == ""
        every = page.locator("#inspect-body [data-row]").count()
        assert every == sum(map(len, rows.GROUPS.values()))
        assert page.locator("#inspect-body th.group").all_inner_texts() == list(rows.GROUPS)
        page.check("#inspect-differs")
        assert 0 < page.locator("#inspect-body [data-row]").count() < every
        expect(page.locator('#inspect-body [data-row="user_map"]')).to_have_count(0)
        assert watched.flaws() == []
        assert watched.complaints == []
        watched.shoot("inspect-wide-light")


def test_the_page_says_whose_namespaces_count_as_the_hosts(browser: Browser, behind: Backstage) -> None:
    known, machine = balancer(), replace(MACHINE, reference="this command")
    behind.inspect = lambda names: (200, rows.report([known], machine))
    with opened(browser, behind=behind) as watched:
        watched.page.click("#inspect-open")
        expect(watched.page.locator("#inspect-state")).to_contain_text("means: like this page")


def test_replicas_are_chosen_and_read_again(browser: Browser, behind: Backstage) -> None:
    with opened(browser, behind=behind) as watched:
        page = watched.page
        page.click('.node[data-key="worker-1"]')
        page.get_by_role("dialog").get_by_role("button", name="Inspect…").click()
        expect(page.locator('#inspect-body [data-row="kind"]')).to_be_visible()
        page.check('#inspect-names [name="worker-0"]')
        expect(page.locator("#inspect-body thead th")).to_have_count(4)
        with page.expect_response("**/api/v1/inspect?*"):
            page.click("#inspect-again")
        page.uncheck('#inspect-names [name="worker-1"]')
        expect(page.locator("#inspect-body thead th")).to_have_count(3)
        page.uncheck('#inspect-names [name="worker-0"]')
        expect(page.locator("#inspect-state")).to_have_text("Choose a replica.")
        both = ["worker-0", "worker-1"]
        assert behind.inspected == [["worker-1"], both, both, ["worker-0"]]
        page.click("#inspect-close")
        expect(page.locator("#inspect")).to_be_hidden()


def test_what_cannot_be_read_and_what_was_refused_are_said(browser: Browser, behind: Backstage) -> None:
    report = behind.inspect(["lb-0", "worker-0"])[1]
    row: dict[str, Any] = next(each for each in report["rows"] if each["key"] == "private")
    row["values"][0] = {"text": "not permitted (run as root)", "value": None, "missing": "x", "remedy": "run as root"}
    answers = [(200, report), (404, {"error": "lb-0: no such replica runs"})]
    behind.inspect = lambda names: answers.pop(0)
    with opened(browser, NARROW, "dark", behind) as watched:
        page = watched.page
        page.click("#inspect-open")
        expect(page.locator('[data-row="private"] td.unknown')).to_have_text("not permitted (run as root)")
        assert watched.flaws() == []
        watched.shoot("inspect-narrow-dark")
        page.click("#inspect-again")
        expect(page.locator("#inspect-state")).to_have_text("lb-0: no such replica runs")
        expect(page.locator("#inspect-body table")).to_have_count(0)


def test_a_session_that_ended_is_renewed_once(browser: Browser, behind: Backstage) -> None:
    report = behind.inspect(["lb-0", "worker-0"])[1]
    answers = [(401, {"error": "no session"}), (200, report)]
    behind.inspect = lambda names: answers.pop(0)
    with opened(browser, behind=behind) as watched:
        watched.page.click("#inspect-open")
        expect(watched.page.locator('#inspect-body [data-row="kind"]')).to_be_visible()
        assert len(behind.inspected) == 2


def test_who_may_not_write_gets_no_report(browser: Browser, behind: Backstage) -> None:
    behind.answer = {**scenes.trouble().as_dict(), "writable": False}
    with opened(browser, behind=behind) as watched:
        page = watched.page
        expect(page.locator("#pulse")).to_have_text("live")
        expect(page.locator("#inspect-open")).to_be_disabled()
        page.click('.node[data-key="worker-1"]')
        expect(page.get_by_role("dialog").get_by_role("button", name="Inspect…")).to_be_disabled()
        assert behind.inspected == []
