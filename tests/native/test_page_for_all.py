"""The page for everybody: keyboard, phone, dark, names, and a document that asks nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.browser import Visit, axe, chromium, visiting
from support.served import Served, serving

import flexinfer

if TYPE_CHECKING:
    from playwright.sync_api import Browser

MODEL = Path(flexinfer.__file__).parent / "data" / "shakespeare.gguf"
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving(MODEL, "--memory", "128MiB", "--slots", 2) as served:
        yield served


@pytest.fixture
def visit(browser: Browser, server: Served) -> Iterator[Visit]:
    with visiting(browser, server) as visit:
        visit.begun()
        yield visit


def overflow(visit: Visit) -> int:
    """By how many pixels the page is wider than its window."""
    return int(visit.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


def ground(visit: Visit) -> float:
    """How light the page's ground is, from 0 to 1."""
    colour = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    red, green, blue = (int(part) for part in colour[4:-1].split(","))
    return (red + green + blue) / (3 * 255)


def test_nothing_is_asked_of_any_other_host(visit: Visit, server: Served) -> None:
    visit.ask("JULIET:")
    visit.wait()
    visit.page.locator("#slots li").first.wait_for()
    assert len(visit.addresses) > 5
    assert {url.split("/")[2] for url in visit.addresses} == {
        server.ready["address"].removeprefix("http://")
    }


def test_the_keyboard_alone_does(visit: Visit) -> None:
    page = visit.page
    page.locator("#slots li").first.wait_for()
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "(node => node.id || node.className || node.tagName)(document.activeElement)"
            )
        )
    assert {"begin", "theme", "prompt", "send", "budget", "release", "SUMMARY"} <= set(reached)
    assert reached[reached.index("skip") + 1] == "theme"
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "prompt"
    page.locator("#prompt").focus()
    page.keyboard.type("HAMLET:")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("To be")
    page.keyboard.press("Enter")
    visit.wait()
    assert visit.texts[0] == "HAMLET:\nTo be"
    assert page.evaluate("document.activeElement.id") == "prompt"


def test_a_phone_shows_it_without_scrolling_sideways(browser: Browser, server: Served) -> None:
    with visiting(browser, server, **PHONE) as visit:
        page = visit.begun()
        visit.ask("O" + "o" * 300)
        visit.wait()
        assert overflow(visit) == 0
        assert not page.locator("#engine").is_visible()
        asked = len(visit.addresses)
        page.wait_for_timeout(2500)
        assert len(visit.addresses) == asked, "asks for figures that nobody sees"
        page.get_by_role("button", name="Engine").click()
        page.locator("#slots li").first.wait_for()
        assert overflow(visit) == 0
        assert page.locator("#chat").evaluate("node => node.inert")
        page.keyboard.press("Escape")
        assert not page.locator("#engine").is_visible()
        page.get_by_role("button", name="Conversations").click()
        assert page.get_by_role("button", name="New conversation").is_visible()
        assert overflow(visit) == 0
        page.get_by_role("button", name="New conversation").click()
        assert not page.locator("#conversations").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_until_they_are_chosen(
    browser: Browser, server: Served, scheme: str
) -> None:
    with visiting(browser, server, color_scheme=scheme) as visit:
        page = visit.begun()
        assert (ground(visit) > 0.5) == (scheme == "light")
        page.get_by_role("button", name="Colours").click()
        assert ground(visit) > 0.5
        page.get_by_role("button", name="Colours: light").click()
        assert ground(visit) < 0.5
        page.reload()
        visit.begun()
        assert ground(visit) < 0.5


@pytest.mark.parametrize("options", [{}, {"color_scheme": "dark"}, PHONE])
def test_names_roles_and_contrast(
    browser: Browser, server: Served, options: dict[str, object]
) -> None:
    script = axe()
    with visiting(browser, server, **options) as visit:
        page = visit.begun()
        visit.ask("ROMEO:")
        visit.wait()
        if page.get_by_role("button", name="Engine").is_visible():
            page.get_by_role("button", name="Engine").click()
        page.locator("#slots li").first.wait_for()
        page.evaluate(script)
        found = page.evaluate("axe.run()")
        assert len(found["passes"]) > 20
        assert [
            (one["id"], node["html"]) for one in found["violations"] for node in one["nodes"]
        ] == []


def test_it_refuses_to_be_part_of_another_page(browser: Browser, server: Served) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.set_content(f'<iframe src="{server.ready["address"]}/"></iframe>')
    page.wait_for_timeout(1000)
    framed = page.frames[-1]
    assert framed.locator("#model").count() == 0 or not framed.locator("#model").inner_text()
    context.close()
