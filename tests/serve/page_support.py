"""A real browser for the tests of the page: Debian's Chromium, headless, never downloaded."""

import contextlib
import shutil
from collections.abc import Iterator

import pytest

WIDE, PHONE = {"width": 1200, "height": 800}, {"width": 390, "height": 780}


@contextlib.contextmanager
def chromium() -> Iterator:
    """A running browser; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


class Visits:
    """Pages of one browser, each in a context of its own; `close` closes them and fails for any error that they logged.

    A refused request is logged by the browser itself: tests that want one say so with `errors_expected`.
    """

    def __init__(self, browser):
        self.browser, self.contexts, self.errors, self.errors_expected = browser, [], [], False

    def open(self, address: str, view: str = "", *, viewport=WIDE, before=None, **context):
        """A page at `address#view`; `before(page)` is called before it is loaded, for routes."""
        made = self.browser.new_context(viewport=viewport, accept_downloads=True, **context)
        self.contexts.append(made)
        page = made.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda fault: self.errors.append(str(fault)))
        page.on("console", lambda said: said.type == "error" and self.errors.append(said.text))
        if before:
            before(page)
        page.goto(f"{address}/#{view}" if view else f"{address}/")
        page.wait_for_selector("#results :first-child, #fault:not([hidden])")
        return page

    def close(self):
        for context in self.contexts:
            context.close()
        if not self.errors_expected:
            assert self.errors == []


def shown(page, column: int = 0) -> list[tuple[int, int]]:
    """(part, row) of the pairs in a column, in their order; waits until no search is under way."""
    settled(page)
    marked = page.locator(".column").nth(column).locator(".cell img").evaluate_all("all => all.map(one => one.src)")
    return [tuple(map(int, address.split("/api/pairs/")[1].split("/")[:2])) for address in marked]


def found(page, address: str, **search) -> list[tuple[int, int]]:
    """(part, row) of the hits that the API gives for a search."""
    answer = page.request.post(f"{address}/api/search", data={"k": 40, **search})
    assert answer.ok, answer.text()
    return [(hit["part"], hit["row"]) for hit in answer.json()["hits"]]


def settled(page) -> None:
    """Wait until what was typed or chosen has been searched for and is shown."""
    page.wait_for_selector("#results[aria-busy=false]")
