"""A real Chromium, Debian's, and the page of a server in it; skips where there is none."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.served import Served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# A page that does not do what it should is not waited for any longer.
_MILLISECONDS = 60_000


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser; it ends with the context."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    if find_spec("playwright") is None:
        pytest.skip("there is no playwright: pip install playwright")
    from playwright.sync_api import sync_playwright

    # Chromium's sandbox does not work for root.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=options)
        try:
            yield browser
        finally:
            browser.close()


def axe() -> str:
    """The script that finds what people cannot use who see, hear or point otherwise."""
    spec = find_spec("axe_playwright_python")
    if spec is None or spec.origin is None:
        pytest.skip("there is no axe: pip install axe-playwright-python")
    return Path(spec.origin).with_name("axe.min.js").read_text("utf-8")


class Visit:
    """One visitor's page: what was asked and said, and which addresses it asked for.

    `problems` are errors of its scripts and what its policy refused.
    """

    def __init__(self, browser: Browser, server: Served, script: str = "", **options: Any) -> None:
        self.server = server
        self.problems: list[str] = []
        self.addresses: list[str] = []
        self.bodies: list[tuple[str, str]] = []
        self._context = browser.new_context(**options)
        self._context.set_default_timeout(_MILLISECONDS)
        if script:
            self._context.add_init_script(script)
        self.page = self._context.new_page()
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self._heard)
        self.page.on("request", self._asked)
        self.page.goto(server.ready["address"] + "/")

    def _heard(self, message: Any) -> None:
        # A status that is no success is written there as well; the page tells what it means.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.problems.append(message.text)

    def _asked(self, request: Any) -> None:
        self.addresses.append(request.url)
        if request.method == "POST":
            path = request.url.removeprefix(self.server.ready["address"])
            self.bodies.append((path, request.post_data or ""))

    def begun(self) -> Page:
        """The page once it knows the model."""
        self.page.locator("#model:not(:empty)").wait_for()
        return self.page

    def ask(self, text: str) -> None:
        """Write a message and send it as people do."""
        self.page.locator("#prompt").fill(text)
        self.page.keyboard.press("Enter")
        # The browser is asked first whether another tab has this conversation answered.
        self.until(lambda: not self.page.locator("#prompt").input_value())

    def wait(self) -> None:
        """Until nothing is being answered."""
        self.page.locator("#send").wait_for()

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what no selector says; the page's policy forbids to have it wait by itself."""
        deadline = time.monotonic() + _MILLISECONDS / 1000
        while not condition():
            assert time.monotonic() < deadline, "that never came"
            self.page.wait_for_timeout(30)

    def stop_early(self) -> str:
        """Stop the answer once some of it is there; what was there."""
        self.page.locator("#stop").wait_for()
        self.until(lambda: bool(self.texts[-1]))
        self.page.keyboard.press("Escape")
        self.wait()
        return self.texts[-1]

    @property
    def texts(self) -> list[str]:
        """The messages as they are shown."""
        return self.page.locator(".message .body").all_inner_texts()

    def close(self) -> None:
        self._context.close()


@contextmanager
def visiting(browser: Browser, server: Served, **options: Any) -> Iterator[Visit]:
    """A visitor with nothing kept; at the end its scripts must have had no error.

    A `script` of the test's own runs before those of the page.
    """
    visit = Visit(browser, server, **options)
    try:
        yield visit
        assert visit.problems == []
    finally:
        visit.close()
