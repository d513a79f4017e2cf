"""The race on the page: both forms killed together, drawn on one axis, bounded, and only for those who may write."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.page import scenes
from tests.page.stage import BOUND, NARROW, Backstage, opened
from tests.support.cluster import TestCluster, open_cluster


def behind(scene: scenes.Scene) -> Backstage:
    """A cluster that brings both workers back after each round."""
    made = Backstage({**scene.as_dict(), "config": {"worker": 4, "pool": 2, "restart-stable": 0}})

    def respond(name: str, body: dict[str, object]) -> tuple[int, dict[str, object]]:
        before = made.answer or {}
        number = len([post for post in made.posts if post[1] == body])
        scene.death(30 - 3 * number, str(body["name"]), 1 + number / 20)
        # Numbers follow the times: only both deaths of a round together follow what the page knows.
        if len(made.posts) % 2 == 0:
            made.answer = {**scene.as_dict(), "config": before["config"]}
        return 200, {"done": name, "result": {"name": body["name"], "signal": "SIGKILL"}}

    made.respond = respond
    return made


def test_both_forms_are_raced_and_drawn_on_one_axis(browser: Browser) -> None:
    made = behind(scenes.mixed())
    with opened(browser, behind=made) as watched:
        page = watched.page
        page.click("#race-open")
        page.fill("#race-rounds", "2")
        page.click("#race-begin")
        expect(page.locator("#race-state")).to_contain_text("Done. As container it took")
        names = [body["name"] for name, body in made.posts]
        assert sorted(names[:2]) == sorted(names[2:]) == ["worker-0", "worker-1"]
        assert {(name, body["signal"]) for name, body in made.posts} == {("kill", "KILL")}
        told = [each.replace("\n", " ") for each in page.locator("#race-body [data-form]").all_inner_texts()]
        assert told == [
            "Worker as process worker-1 202 ms (197 ms to 207 ms)",
            "Worker as container worker-0 481 ms (469 ms to 492 ms)",
        ]
        width = [
            page.locator("#race .bar")
            .nth(index)
            .evaluate("bar => [...bar.children].reduce((sum, one) => sum + one.offsetWidth, 0) / bar.offsetWidth")
            for index in (0, 1)
        ]
        assert width == pytest.approx([202 / 492, 481 / 492], abs=0.03)
        expect(page.locator("#race .race-dot")).to_have_count(4)
        assert watched.complaints == []
        assert watched.flaws() == []
        watched.shoot("race-wide-light")


def test_it_says_what_it_needs_and_is_bounded(browser: Browser) -> None:
    with opened(browser, NARROW, "dark", Backstage(scenes.calm().as_dict())) as watched:
        page = watched.page
        page.click("#race-open")
        expect(page.locator("#race-state")).to_contain_text("runtime: mixed")
        expect(page.locator("#race-begin")).to_be_disabled()
        assert watched.flaws() == []
    made = behind(scenes.mixed())
    with opened(browser, behind=made) as watched:
        page = watched.page
        page.click("#race-open")
        page.fill("#race-rounds", "21")
        page.click("#race-begin")
        assert page.locator("#race-rounds").evaluate("input => input.validity.rangeOverflow")
        assert made.posts == []


def test_who_may_not_write_does_not_race(browser: Browser) -> None:
    made = Backstage({**scenes.mixed().as_dict(), "writable": False})
    with opened(browser, behind=made) as watched:
        expect(watched.page.locator("#pulse")).to_have_text("live")
        expect(watched.page.locator("#race-open")).to_be_disabled()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[TestCluster]:
    with open_cluster(tmp_path, runtime="mixed", worker=2, pool=1, restart_stable=0.5, admin_port="auto") as made:
        made.start()
        yield made
        made.stop()
        made.assert_nothing_left()


@pytest.mark.docker
def test_a_real_cluster_is_raced_from_the_page(browser: Browser, cluster: TestCluster) -> None:
    home = f"http://127.0.0.1:{cluster.ps()['supervisor']['admin_port']}/"
    with opened(browser, home=home) as watched:
        page = watched.page
        page.click("#race-open")
        page.fill("#race-rounds", "2")
        expect(page.locator("#race-begin")).to_be_enabled()
        page.click("#race-begin")
        expect(page.locator("#race-state")).to_contain_text("Done. ", timeout=4000 * BOUND)
        page.screenshot(path="build/page/race-real.png")
    for name in ("worker-0", "worker-1"):
        assert [event["signal"] for event in cluster.events("replica_exited", name)] == ["SIGKILL"] * 2
    assert cluster.events("backoff_entered") == []
