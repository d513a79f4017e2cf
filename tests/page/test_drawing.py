"""The page over recorded clusters, in a real browser: what it shows, to whom, at which size, and that it asks nobody
else.
"""

import itertools
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from comet.common.figures import figure, milliseconds
from tests.page import scenes
from tests.page.stage import NARROW, STILL, WIDE, Backstage, Watched, eventually, opened

SCENES = {"calm": scenes.calm, "trouble": scenes.trouble, "crowd": scenes.crowd, "beginning": scenes.beginning}
SIZES = {"wide": WIDE, "narrow": NARROW}

OVERLAPS = """() => {
  const figures = [...document.querySelectorAll("#figures > div")];
  const wide = figures.filter((each) => each.scrollWidth > each.clientWidth + 1);
  const rows = [...document.querySelectorAll("#timeline g.row")];
  const box = (row, part) => row.querySelector(part).getBoundingClientRect();
  const over = rows.filter((row) => box(row, "text").right > box(row, ".rail").left);
  return [...wide, ...over].map((each) => each.textContent);
}"""
"""Figures that run into the next one, and names on the time line that run into their bars."""


LABELS = """() => {
  const shown = [...document.querySelectorAll("#timeline g.mark text")].filter((each) => each.textContent);
  return shown.map((each) => [each.textContent, each.getBoundingClientRect()]);
}"""
"""The words next to marks of the time line, with their places."""


def drawn(watched: Watched) -> Page:
    expect(watched.page.locator("#rows tr").first).to_be_visible()
    return watched.page


def cells(page: Page) -> dict[str, list[str]]:
    """The list of replicas as shown, by name."""
    rows = page.eval_on_selector_all(
        "#rows tr", "rows => rows.map(row => [...row.children].map(cell => cell.innerText.trim()))"
    )
    return {row[0]: row for row in rows}


@pytest.mark.parametrize("scene", SCENES)
def test_every_scene_is_sound_at_every_size_and_in_both_themes(browser: Browser, scene: str) -> None:
    with opened(browser, WIDE, "light", Backstage(SCENES[scene]().as_dict())) as watched:
        page = drawn(watched)
        for name, size in SIZES.items():
            page.set_viewport_size({"width": size[0], "height": size[1]})
            page.emulate_media(color_scheme="light")
            watched.shoot(f"{scene}-{name}-light", whole=name == "narrow")
            assert watched.flaws() == []
            page.emulate_media(color_scheme="dark")
            watched.shoot(f"{scene}-{name}-dark", whole=name == "narrow")
            if scene != "crowd":  # It has no colours that the others lack, and many elements.
                assert watched.flaws("color-contrast") == []
            assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
            assert page.evaluate(OVERLAPS) == []
        assert watched.complaints == []
        assert watched.foreign() == []


def test_the_list_shows_what_the_snapshot_says(browser: Browser) -> None:
    scene = scenes.trouble()
    with opened(browser, behind=Backstage(scene.as_dict())) as watched:
        shown = cells(drawn(watched))
        assert list(shown) == list(scene.rows)
        for name, row in scene.rows.items():
            assert shown[name][1:5] == [row["kind"], row["id"], row["state"], str(row["port"])]
            assert shown[name][14] == str(row["restarts"])
        assert shown["lb-0"][15] == "SIGKILL"


@pytest.mark.parametrize("dropped", [("/app.js", "/style.css", "/theme.js"), ("/flow.js",)], ids=["all", "a module"])
def test_a_page_that_did_not_come_whole_is_loaded_again(browser: Browser, dropped: tuple[str, ...]) -> None:
    behind = Backstage(scenes.calm().as_dict())
    behind.drops = set(dropped)
    with opened(browser, behind=behind) as watched:
        expect(watched.page.locator("#pulse")).to_have_text("live")
        assert cells(drawn(watched))


PAUSES = """
const later = window.setTimeout;
window.setTimeout = (act, pause, ...rest) => {
    if (act.name !== "retry") return later(act, pause, ...rest);
    sessionStorage.pauses = `${sessionStorage.pauses ?? ""} ${pause}`;
    return sessionStorage.pauses.split(" ").length > 4 ? 0 : later(act, pause / 10, ...rest);
};
"""
"""Keep the pauses that the page makes before it loads itself again, and make the first three of them shorter."""


def test_an_incomplete_page_reloads_less_and_less_often(browser: Browser) -> None:
    """As where something in the browser keeps a file away: to ask for it succeeds, to load it does not."""
    with opened(browser, behind=Backstage(scenes.calm().as_dict())) as watched:
        expect(watched.page.locator("#pulse")).to_have_text("live")
        watched.page.add_init_script(PAUSES)
        watched.page.route(
            "**/theme.js", lambda route: route.abort() if route.request.resource_type == "script" else route.fallback()
        )
        loads: list[str] = []
        watched.page.on("framenavigated", lambda frame: loads.append(frame.url))
        watched.page.reload()
        eventually(watched.page, lambda: len(loads) >= 4, "the page has loaded itself three times")
        pauses = [float(pause) for pause in watched.page.evaluate("sessionStorage.pauses").split()]
        watched.page.evaluate("sessionStorage.clear()")
    assert pauses == sorted(pauses)
    assert pauses[2] > 2 * pauses[0]


def test_commands_are_disabled_before_the_first_snapshot(browser: Browser) -> None:
    behind = Backstage(None)
    with opened(browser, behind=behind) as watched:
        buttons = watched.page.locator("[data-do]")
        for each in buttons.all():
            expect(each).to_be_disabled()
        behind.answer = scenes.calm().as_dict()
        for each in buttons.all():
            expect(each).to_be_enabled()


def test_the_summary_names_what_is_unhealthy_and_why(browser: Browser) -> None:
    with opened(browser, behind=Backstage(scenes.trouble().as_dict())) as watched:
        summary = drawn(watched).inner_text("#verdict")
        assert "2 of 6 are not ready: worker-2, worker-3" in summary
        assert "no answer within 2 s" in summary


def test_a_pause_is_told_next_to_what_is_unhealthy(browser: Browser) -> None:
    answer = scenes.trouble().as_dict()
    answer["total"] = {**answer["total"], "paused": True, "paused_s": 7.1, "queued": 1}
    with opened(browser, behind=Backstage(answer)) as watched:
        summary = drawn(watched).inner_text("#verdict")
        assert "2 of 6 are not ready: worker-2, worker-3" in summary
        assert "no answer within 2 s" in summary
        assert "paused, 7.1 s left: 1 request waits in the load balancers" in summary


def test_every_replica_of_a_crowd_has_a_tile_of_its_own(browser: Browser) -> None:
    with opened(browser, behind=Backstage(scenes.crowd().as_dict())) as watched:
        page = drawn(watched)
        page.evaluate(STILL)
        boxes = page.eval_on_selector_all(".flow .node", "all => all.map(one => one.getBoundingClientRect().toJSON())")
        assert len(boxes) == 54
        for index, one in enumerate(boxes):
            assert one["height"] >= 24  # Large enough to be hit (WCAG 2.5.8).
            for other in boxes[:index]:
                assert not overlap(one, other)
        names = page.eval_on_selector_all(
            ".flow .node .name", "all => all.map(one => [one.scrollWidth, one.clientWidth])"
        )
        assert all(needed <= given + 1 for needed, given in names if given)


def overlap(one: Any, other: Any) -> bool:
    apart_x = one["x"] + one["width"] <= other["x"] or other["x"] + other["width"] <= one["x"]
    apart_y = one["y"] + one["height"] <= other["y"] or other["y"] + other["height"] <= one["y"]
    return not (apart_x or apart_y)


def test_a_crowds_timeline_shows_eventful_replicas_or_all(browser: Browser) -> None:
    with opened(browser, behind=Backstage(scenes.crowd().as_dict())) as watched:
        page = drawn(watched)
        names = page.locator(".timeline .lines text")
        assert {"worker-17", "worker-29", "lb-2"} <= set(names.all_text_contents())
        assert "worker-40" not in names.all_text_contents()
        page.get_by_role("button", name="Show all replicas").click()
        assert "worker-40" in names.all_text_contents()


def test_no_step_of_a_recovery_ends_before_it_begins(browser: Browser) -> None:
    """That it is ready may be heard of later than its first answer came; the answer's own timeline knows."""
    scene = scenes.trouble()
    scene.events = [each for each in scene.events if each.get("replica") != "lb-0"]
    steps = {"noticed": 0.0, "decided": 1.0, "started": 8.0, "listening": 10.0, "ready": 30.0}
    scene.event(60.0, "replica_exited", "lb-0", code=-9, signal="SIGKILL", oom=False)
    scene.event(59.97, "replica_ready", "lb-0", start_ms=29.0, timeline_ms=steps)
    scene.event(59.96, "first_answer", "lb-0", timeline_ms={**steps, "ready": 22.0, "first answer": 22.0})
    with opened(browser, behind=Backstage(scene.as_dict())) as watched:
        page = drawn(watched)
        page.locator('.mark.back[aria-label*="lb-0"]').first.hover()
        expect(page.locator("#tip")).to_contain_text("ready+22.0 ms")
        expect(page.locator("#tip")).to_contain_text("first answer+22.0 ms")


def test_the_words_of_neighboring_marks_do_not_touch(browser: Browser) -> None:
    """One stands after its mark and the other one before its own: at every distance there is room for both, or none."""
    scene = scenes.Scene(workers=12)
    for number in range(12):
        scene.death(54 + 1.5 * number, f"worker-{number}", 2.6)
        scene.death(9, f"worker-{number}", 2.11)
    with opened(browser, (1280, 900), behind=Backstage(scene.as_dict())) as watched:
        page = drawn(watched)
        page.evaluate(STILL)
        rows: dict[float, list[Any]] = {}
        for words, box in page.evaluate(LABELS):
            rows.setdefault(box["top"], []).append((box["left"], box["right"], words))
        pairs = [pair for row in rows.values() for pair in itertools.pairwise(sorted(row))]
        assert {(one[2], other[2]) for one, other in pairs} == {("1.16 s", "943 ms")}
        assert all(one[1] <= other[0] for one, other in pairs)
        watched.shoot("neighbors")


def test_a_recovery_tells_its_steps_to_pointer_and_keyboard(browser: Browser) -> None:
    with opened(browser, behind=Backstage(scenes.trouble().as_dict())) as watched:
        page = drawn(watched)
        page.locator(".mark.back").first.hover()
        expect(page.locator("#tip")).to_contain_text("crashed (SIGKILL)")
        expect(page.locator("#tip")).to_contain_text("noticed+1.90 ms")
        expect(page.locator("#tip")).to_contain_text("first answer+19.0 ms")
        page.mouse.move(5, 5)
        expect(page.locator("#tip")).to_be_hidden()
        page.locator('.marks [tabindex="0"]').focus()
        page.keyboard.press("Home")
        told = [page.evaluate("document.activeElement.getAttribute('aria-label')")]
        for _ in range(5):
            page.keyboard.press("ArrowRight")
            told.append(page.evaluate("document.activeElement.getAttribute('aria-label')"))
        assert len(set(told)) == 6
        assert any("lb-0 ready" in each for each in told)
        expect(page.locator("#tip")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#tip")).to_be_hidden()


def test_a_worker_is_compared_in_both_forms_an_lb_apart(browser: Browser) -> None:
    with opened(browser, behind=Backstage(scenes.mixed().as_dict())) as watched:
        page = drawn(watched)
        width = {
            group: page.eval_on_selector(
                f'[data-group="{group}"] .bar',
                "bar => [...bar.children].reduce((sum, one) => sum + one.offsetWidth, 0)",
            )
            for group in ("worker-process", "worker-container")
        }
        assert width["worker-process"] > 0
        assert width["worker-container"] > 0
        process, container, balancer = (
            page.inner_text(f'[data-group="{group}"]') for group in ("worker-process", "worker-container", "lb")
        )
        assert process.startswith("Worker as process")
        assert "190 ms from death to ready, median of 4" in process  # 169, 188, 192 and 207: the backoff is left out.
        assert container.startswith("Worker as container")
        assert "447 ms from death to ready, median of 3" in container
        assert balancer.startswith("Load balancer (warm spare)")
        assert "12.8 ms from death to ready, on a scale of its own" in balancer
        expect(page.locator('[data-group="worker-process"] .step.backoff')).to_have_count(1)
        expect(page.locator('[data-group="worker-task"]')).to_be_hidden()
        assert watched.complaints == []
        watched.shoot("recoveries-wide-light")


BARS = """() => Object.fromEntries([...document.querySelectorAll(".recoveries li")].map((row) => {
  const [bar, tick] = [row.querySelector(".bar"), row.querySelector(".tick")];
  const box = bar.getBoundingClientRect();
  const share = (each) => (each.getBoundingClientRect().right - box.left) / box.width;
  const ends = [...bar.querySelectorAll(".step")].map(share);
  return [row.querySelector("b").textContent, {
    end: Math.max(...ends), cut: [...bar.querySelectorAll(".cut")].map((each) => each.className),
    backoff: bar.querySelectorAll(".backoff").length,
    tick: (tick.getBoundingClientRect().left - box.left) / box.width,
  }];
}))"""
"""By the number above it: where each recovery's bar ends and its tick is, as shares of the bar's width."""


def test_bar_and_number_end_at_ready_and_backoff_stands_apart(browser: Browser) -> None:
    scene = scenes.calm()
    scene.death(200, "worker-0")
    scene.death(150, "worker-1")
    scene.death(100, "worker-2", backoff=6000)
    scene.death(50, "lb-0")
    with opened(browser, behind=Backstage(scene.as_dict())) as watched:
        page = drawn(watched)
        assert "447 ms from death to ready, median of 3" in page.inner_text('[data-group="worker-container"]')
        bars = page.evaluate(BARS)
        assert set(bars) == {"447 ms", "447 ms + 6.00 s backoff", "12.8 ms"}
        usual, waited, process = bars["447 ms"], bars["447 ms + 6.00 s backoff"], bars["12.8 ms"]
        # The wait is cut, so that the others keep their lengths: two medians fill the bar.
        assert usual["end"] == pytest.approx(0.5, abs=0.02)
        assert process["end"] == pytest.approx(12.8 / 19, abs=0.02)  # A load balancer has a scale of its own.
        assert waited["end"] == pytest.approx(1, abs=0.01)
        assert (waited["backoff"], len(waited["cut"]), usual["cut"]) == (1, 1, [])
        assert "backoff" in waited["cut"][0]
        assert process["tick"] == pytest.approx(1, abs=0.02)


def test_the_page_and_the_command_line_format_alike(browser: Browser) -> None:
    with opened(browser, behind=Backstage(scenes.calm().as_dict())) as watched:
        values = [0, 0.0004, 0.04, 0.512, 1, 1.919, 9.999, 14.26, 99.96, 447.4, 999.4, 999.6, 1240.2, 12345, 21873]
        shown = watched.page.evaluate(
            "async values => { const f = await import('/format.js'); return values.map(v => [f.figure(v), f.ms(v)]); }",
            values,
        )
        assert shown == [[figure(each), milliseconds(each)] for each in values]


def test_a_state_is_shown_by_shape_and_word_beside_color(browser: Browser) -> None:
    with opened(browser, behind=Backstage(scenes.trouble().as_dict())) as watched:
        page = drawn(watched)
        shapes = {
            name: page.eval_on_selector(f'.node[data-key="{name}"] .health use', "use => use.getAttribute('href')")
            for name in ("worker-0", "worker-2", "worker-3")
        }
        assert len(set(shapes.values())) == 3
        assert "unhealthy" in page.inner_text('.node[data-key="worker-2"] .health')
        assert "backoff, 2.9 s" in page.inner_text('.node[data-key="worker-3"] .health')


def test_the_keyboard_reaches_every_replica_and_every_control(browser: Browser) -> None:
    with opened(browser, behind=Backstage(scenes.calm().as_dict())) as watched:
        page = drawn(watched)
        met = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            met.add(page.evaluate("document.activeElement.innerText?.split('\\n')[0].trim() ?? ''"))
        assert {
            "Scale…",
            "Restart…",
            "Faults…",
            "Kill…",
            "Reload…",
            "Stop…",
            "lb-0",
            "lb-1",
            "worker-0",
            "worker-1",
            "worker-2",
        } <= met


def test_the_theme_follows_the_system_until_chosen_and_is_kept(browser: Browser) -> None:
    with opened(browser, theme="dark", behind=Backstage(scenes.calm().as_dict())) as watched:
        page = drawn(watched)
        paper = "getComputedStyle(document.body).backgroundColor"
        dark = page.evaluate(paper)
        page.click("#theme")
        light = page.evaluate(paper)
        assert light != dark
        page.reload()
        drawn(watched)
        assert page.evaluate(paper) == light
        page.click("#theme")
        assert page.evaluate(paper) == dark


def test_nothing_that_a_replica_says_becomes_part_of_the_page(browser: Browser) -> None:
    scene = scenes.calm()
    scene.unhealthy(
        "worker-1", "unhealthy", '<img src="http://elsewhere.example/x" onerror="document.title=1"><b>bold</b>', 3
    )
    with opened(browser, behind=Backstage(scene.as_dict())) as watched:
        page = drawn(watched)
        assert "<b>bold</b>" in page.inner_text("#verdict")
        assert page.locator("main b:has-text('bold'), main img").count() == 0
        assert watched.foreign() == []


def test_silence_is_told_and_ends_by_itself(browser: Browser) -> None:
    behind = Backstage(scenes.calm().as_dict())
    with opened(browser, behind=behind) as watched:
        page = drawn(watched)
        told, behind.answer = behind.answer, None
        expect(page.get_by_role("alert").first).to_contain_text("The supervisor does not answer")
        expect(page.locator("#pulse")).to_have_text("no answer")
        watched.shoot("lost-wide-light")
        assert watched.flaws() == []
        behind.answer = told
        expect(page.locator("#lost")).to_be_hidden()
        expect(page.locator("#pulse")).to_have_text("live")
        watched.noticed("The supervisor answers again")


def test_a_stop_on_purpose_is_no_death(browser: Browser) -> None:
    answer = scenes.calm().as_dict()
    behind = Backstage(answer)
    with opened(browser, behind=behind) as watched:
        page = drawn(watched)
        behind.answer = {**answer, "stopping": True}
        expect(page.locator("#verdict")).to_contain_text("The cluster is being stopped")
        behind.answer = None
        lost = page.locator("#lost")
        expect(lost).to_contain_text("The cluster was stopped.")
        expect(lost.locator("code")).to_have_text("python supervisor.py run")
        assert "keep serving" not in lost.inner_text()
        expect(page.locator("#pulse")).to_have_text("stopped")
        assert {row[3] for row in cells(page).values()} == {"stopped"}
        assert "ready" not in page.inner_text("#flow")
        watched.shoot("stopped-wide-light")
        assert watched.flaws() == []
        behind.answer = answer
        expect(page.locator("#pulse")).to_have_text("live")
        assert {row[3] for row in cells(page).values()} == {"ready"}


SLEEP = """() => {
    const now = Date.now;
    let slept = 0;
    Date.now = () => now() + slept;
    window.fetch = async (path) => {
        if (path === "/api/v1/cluster") slept = 60000;
        throw new TypeError("Failed to fetch");
    };
}"""
"""Puts a minute between the last answer and the next question, which gets none. One on its way is the last answer."""


def test_a_page_that_slept_through_the_end_claims_no_death(browser: Browser) -> None:
    behind = Backstage(scenes.calm().as_dict())
    with opened(browser, behind=behind) as watched:
        page = drawn(watched)
        page.evaluate(SLEEP)
        expect(page.locator("#lost")).to_contain_text("it has ended, or the cluster was stopped")
        assert "keep serving" not in page.inner_text("#lost")


class Broken(Backstage):
    """The first answer for one of the page's files breaks off."""

    def __init__(self, answer: dict[str, Any], file: str) -> None:
        super().__init__(answer)
        self._file: str | None = file

    def handle(self, route: Route) -> None:
        if self._file is not None and route.request.url.endswith(self._file):
            self._file = None
            route.abort("connectionreset")
        else:
            super().handle(route)


@pytest.mark.parametrize("file", ["/app.js", "/model.js"])
def test_a_page_whose_files_did_not_all_come_begins_again(browser: Browser, file: str) -> None:
    with opened(browser, behind=Broken(scenes.calm().as_dict(), file)) as watched:
        drawn(watched)
        expect(watched.page.locator("#pulse")).to_have_text("live")
        assert any("ERR_CONNECTION_RESET" in each for each in watched.complaints)
