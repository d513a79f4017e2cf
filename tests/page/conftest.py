"""One browser for all tests of the page.

It ends with this folder's last test: while Playwright's synchronous interface is in use, no other test could run an
event loop.
"""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.page.stage import launch


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()
