"""A browser and the page in it: Debian's Chromium driven by Playwright, and what the page asks for answered from a
scene or a cluster.

The page is watched all the while: what it writes to the console, what its security policy refuses, and every address it
asks for.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Error, Page, Playwright, Route, expect

from comet.admin import html_table
from comet.admin.access.request_guard import HEADERS, page_policy
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "comet/admin/page"
SHOTS = ROOT / "build/page"
"""Where screenshots are kept; git does not see it."""

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html; charset=utf-8"}
HOME = "http://127.0.0.1:5040/"

WATCH = """name => {
    window.seenAt = null;
    const news = document.getElementById("news");
    const known = new Set(news.children);
    const died = item => item.dataset.event === "replica_exited" && item.innerText.includes(name) && !known.has(item);
    window.deaths?.disconnect();
    window.deaths = new MutationObserver(() => { if ([...news.children].some(died)) window.seenAt ??= Date.now(); });
    window.deaths.observe(news, {childList: true});
}"""
"""Note in the page when it first shows a death of a replica that it does not show yet."""

WIDE, NARROW = (1920, 1080), (360, 780)

BOUND = 30.0 * PATIENCE
"""Seconds after which a wait for the page is given up, as `wait_until` does."""

UNHURRIED = """
const timeout = AbortSignal.timeout;
AbortSignal.timeout = (pause) => timeout.call(AbortSignal, 100 * pause);
addEventListener("DOMContentLoaded", () => {
    const notices = document.getElementById("notices");
    window.noticed = new Set();
    if (notices) new MutationObserver(() => {
        for (const each of notices.children) window.noticed.add(each.firstElementChild.textContent);
    }).observe(notices, {childList: true, subtree: true});
});
"""
"""What a busy machine must not decide: an answer that is slow here is no silence of the supervisor, and a notice that
is gone after some seconds was there (`Watched.noticed`).
"""

STILL = """() => new Promise((done) => {
    let last = "";
    const look = () => {
        const boxes = [...document.querySelectorAll("main *")].map((each) => each.getBoundingClientRect());
        const now = JSON.stringify(boxes.map((box) => [box.left, box.top, box.width, box.height]));
        if (now === last) return done();
        last = now;
        return requestAnimationFrame(() => requestAnimationFrame(look));
    };
    look();
})"""
"""Wait until the page, which draws again when its parts have got their sizes, has its places."""


expect.set_options(timeout=1000 * BOUND)


def launch(playwright: Playwright) -> Browser:
    """A headless Chromium with an empty profile of its own."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    assert path, "no Chromium is installed: scripts/test.sh installs one"
    return playwright.chromium.launch(executable_path=path, args=list(FLAGS))


NETWORK_CHANGED = "net::ERR_NETWORK_CHANGED"
"""What Chromium says of a request that it dropped because an interface came or went, as each container of the machine
makes one do. The page asks again; it is no fault of the page.
"""


class Watched:
    """A page, and what went wrong on it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.asked: list[str] = []
        page.on("console", self._told)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def _told(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and NETWORK_CHANGED not in message.text:
            self.complaints.append(message.text)

    def noticed(self, words: str) -> None:
        """Wait until a notice has said this, as an outcome: that of what is under way ends with an ellipsis."""

        def said() -> bool:
            return any(words in each and not each.endswith("…") for each in self.page.evaluate("[...window.noticed]"))

        eventually(self.page, said, f"the notice {words!r}")

    def settled(self) -> None:
        """Wait until every order has been answered: a dialog closes sooner where the answer takes long."""
        expect(self.page.locator('#notices [data-level="wait"]')).to_have_count(0)

    def foreign(self, home: str = HOME) -> list[str]:
        """Addresses outside the page's own server that were asked for."""
        return [url for url in self.asked if not url.startswith(home)]

    def flaws(self, *rules: str) -> list[str]:
        """What axe finds wrong (by these rules, or by all of them), with the elements that it means."""
        chosen: dict[str, Any] = {"resultTypes": ["violations"]}
        if rules:
            chosen["runOnly"] = {"type": "rule", "values": list(rules)}
        found = Axe().run(self.page, options=chosen).response["violations"]
        return [f"{flaw['id']}: {[node['html'][:120] for node in flaw['nodes'][:3]]}" for flaw in found]

    def shoot(self, name: str, whole: bool = False) -> None:
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png", full_page=whole)


class Backstage:
    """Answers in the supervisor's place. `answer` is what `/api/v1/cluster` tells (None: nothing listens); `posts` what
    was asked for.

    `inspected` has the names of each inspection that was asked for, and `inspect` answers it. `logs` is what each
    replica printed.

    The files named in `drops` are dropped the first time they are asked for, as a browser does when the machine's
    network changes.
    """

    def __init__(self, answer: dict[str, Any] | None) -> None:
        self.answer = answer
        self.drops: set[str] = set()
        self.posts: list[tuple[str, dict[str, Any]]] = []
        self.respond: Callable[[str, dict[str, Any]], tuple[int, dict[str, Any]]] = lambda name, body: (
            200,
            {"done": name, "result": {}},
        )
        self.logs: dict[str, str] = {}
        self.inspected: list[list[str]] = []
        self.inspect: Callable[[list[str]], tuple[int, dict[str, Any]]] = lambda names: (404, {"error": "none runs"})

    def handle(self, route: Route) -> None:
        request = route.request
        path = "/" + request.url.split("//")[1].partition("/")[2]
        if path in self.drops:
            self.drops.remove(path)
            route.abort("internetdisconnected")
        elif self.answer is None and path.startswith("/api"):
            route.abort("connectionrefused")
        elif path == "/api/v1/cluster":
            route.fulfill(body=json.dumps(self.answer), content_type="application/json")
        elif path.startswith("/api/v1/events"):
            events = (self.answer or {})["events"]
            route.fulfill(body=json.dumps({"events": events, "last": len(events)}), content_type="application/json")
        elif path.startswith("/api/v1/logs?"):
            asked = parse_qs(path.partition("?")[2])["name"]
            told = {"logs": [{"name": name, "text": self.logs.get(name, "")} for name in asked]}
            route.fulfill(body=json.dumps(told), content_type="application/json")
        elif path.startswith("/api/v1/inspect?"):
            names = parse_qs(path.partition("?")[2])["name"]
            self.inspected.append(names)
            status, told = self.inspect(names)
            route.fulfill(status=status, body=json.dumps(told), content_type="application/json")
        elif request.method == "POST":
            name, body = path.removeprefix("/api/v1/"), request.post_data_json
            self.posts.append((name, body))
            status, told = self.respond(name, body)
            route.fulfill(status=status, body=json.dumps(told), content_type="application/json")
        else:
            file = FILES / ("index.html" if path == "/" else path.removeprefix("/"))
            content = file.read_text()
            policy = {"Content-Security-Policy": page_policy(content)} if path == "/" else {}
            content = html_table.fill(content, ()) if path == "/" else content
            route.fulfill(body=content, content_type=TYPES[file.suffix], headers=HEADERS | policy)


def eventually(page: Page, condition: Callable[[], object], what: str) -> None:
    """Wait until this is true, while the page and its requests are served."""
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline, f"not within {BOUND:g} s: {what}"
        page.wait_for_timeout(20)


def _go(page: Page, home: str) -> None:
    try:
        page.goto(home)
    except Error as error:
        if NETWORK_CHANGED not in error.message:
            raise
        page.goto(home)


@contextmanager
def opened(
    browser: Browser,
    size: tuple[int, int] = WIDE,
    theme: str = "light",
    behind: Backstage | None = None,
    home: str = HOME,
    **more: Any,
) -> Iterator[Watched]:
    """The page at this size and in these colours; with a `Backstage`, no server is needed.

    A context and a process of its own cost more than the page: where the test asks nothing more of it, the tests share
    a context, which each leaves without cookies and storage, and the former page is closed only now, so that its
    process serves this one.
    """
    shared = not more
    context = browser.contexts[0] if shared and browser.contexts else browser.new_context(**more)
    former = context.pages
    page = context.new_page()
    page.set_default_timeout(1000 * BOUND)
    page.add_init_script(UNHURRIED)
    try:
        page.set_viewport_size({"width": size[0], "height": size[1]})
        page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
        watched = Watched(page)
        if behind is not None:
            watched.page.route("**/*", behind.handle)
        _go(watched.page, home)
        for each in former:
            each.close()
        yield watched
    finally:
        if shared:
            with suppress(Error):  # It shows no page of ours.
                page.evaluate("localStorage.clear()")
            context.clear_cookies()
        else:
            context.close()
