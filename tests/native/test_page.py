"""The page at `/` in a real browser: a conversation with a model, as people have it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from support.browser import Visit, chromium, visiting
from support.served import Served, serving
from support.tiny_model import TinyModel

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SMALL = ("--ubatch", 32, "--", "--chat-template", "chatml")
# When the conversation that was changed last was changed.
CHANGED = """Math.max(...Object.entries(localStorage)
    .filter(([name]) => name.startsWith("flexinfer.conversation."))
    .map(([, text]) => JSON.parse(text).changed))"""
# All the room that is left, a power of two after the other.
FILL = """(() => {
    let text = "";
    for (let size = 1 << 23; size; size >>= 1) {
        try {
            localStorage.setItem("fill", text + "x".repeat(size));
            text += "x".repeat(size);
        } catch {}
    }
})()"""
DENIED = """Object.defineProperty(window, "localStorage", {
    get() { throw new DOMException("denied", "SecurityError"); },
});"""
# As of a host that is neither this machine nor encrypted.
LOCKLESS = "Object.defineProperty(navigator, 'locks', { value: undefined });"
# By how many pixels each line of a node begins after its left end, and ends before its right one.
ENDS = """node => {
    const text = node.firstChild, box = node.getBoundingClientRect();
    let from = 0;
    return text.data.split("\\n").map((line) => {
        const range = document.createRange();
        range.setStart(text, from);
        range.setEnd(text, from + line.length);
        from += line.length + 1;
        const shown = range.getBoundingClientRect();
        return [shown.left - box.left, box.right - shown.right];
    });
}"""
MARKUP = '<img src=x onerror="document.title=1"><b>bold</b> & <script>alert(1)</script>'


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tiny_model: TinyModel) -> Iterator[Served]:
    """Its random weights never end an answer by themselves."""
    with serving(
        *(tiny_model("tiny-llama", "q4_0"), "--memory", "400MiB", "--ctx", 4096, *SMALL)
    ) as served:
        yield served


def share_of(visit: Visit) -> float:
    """How much of the prompt was read, as the last message shows it."""
    return float(
        visit.page.evaluate("document.querySelector('.message:last-child progress').value")
    )


@pytest.fixture
def visit(browser: Browser, server: Served) -> Iterator[Visit]:
    with visiting(browser, server) as visit:
        visit.begun()
        yield visit


def test_it_is_painted_before_its_scripts_run(visit: Visit) -> None:
    painted = visit.page.evaluate(
        "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    )
    first = visit.page.evaluate(
        "Math.min(...performance.getEntriesByType('resource').map((entry) => entry.startTime))"
    )
    assert 0 < painted <= first


def test_an_answer_is_streamed_and_stopped(visit: Visit, server: Served) -> None:
    visit.ask("one two")
    visit.page.locator("#stop").wait_for()
    visit.until(lambda: bool(visit.texts[-1]))
    first = visit.texts[-1]
    visit.until(lambda: len(visit.texts[-1]) > len(first))
    visit.page.locator("#stop").click()
    visit.wait()
    assert visit.texts[-1].startswith(first)
    assert "Stopped" in visit.page.locator(".message:last-child .note").inner_text()
    assert visit.texts[0] == "one two"
    visit.until(lambda: server.get("/slots")[1][0]["is_processing"] is False)
    path, body = visit.bodies[0]
    assert path == "/v1/chat/completions"
    assert json.loads(body)["messages"] == [{"role": "user", "content": "one two"}]


def test_a_long_prompt_shows_how_far_it_is_read(visit: Visit, server: Served) -> None:
    words = "one two three "
    each = len(server.post("/tokenize", {"content": words})[1]["tokens"])
    visit.ask(words * (3000 // each))
    said = visit.page.locator(".message:last-child .reading-said", has_text="Reading the prompt")
    said.wait_for()
    bar = visit.page.get_by_role("progressbar", name="Reading the prompt")
    assert bar.is_visible()
    first = share_of(visit)
    visit.until(lambda: share_of(visit) > first)
    assert 0 <= first < share_of(visit) <= 1
    visit.stop_early()
    assert not said.is_visible()


def test_regenerate_and_edit_replace_what_followed(visit: Visit) -> None:
    visit.ask("first")
    visit.stop_early()
    visit.ask("second")
    visit.stop_early()
    visit.page.get_by_role("button", name="Regenerate").click()
    visit.stop_early()
    asked = [json.loads(body)["messages"] for _, body in visit.bodies]
    assert asked[2] == asked[1]
    assert [one["content"] for one in asked[1] if one["role"] == "user"] == ["first", "second"]
    assert asked[1][1]["role"] == "assistant"
    assert asked[1][1]["content"]
    visit.page.get_by_role("button", name="Edit").first.click()
    visit.page.get_by_role("textbox", name="Edit message").fill("another")
    visit.page.keyboard.press("Enter")
    visit.stop_early()
    assert len(visit.texts) == 2
    assert visit.texts[0] == "another"
    assert json.loads(visit.bodies[-1][1])["messages"] == [{"role": "user", "content": "another"}]


def test_leaving_an_edit_changes_nothing(visit: Visit) -> None:
    visit.ask("stays")
    before = visit.stop_early()
    visit.page.get_by_role("button", name="Edit").click()
    visit.page.get_by_role("textbox", name="Edit message").fill("never")
    visit.page.keyboard.press("Escape")
    assert visit.texts == ["stays", before]
    assert len(visit.bodies) == 1


def test_a_system_message_goes_before_the_conversation(visit: Visit) -> None:
    visit.page.get_by_text("System message").first.click()
    visit.page.get_by_role("textbox", name="System message").fill("be brief")
    visit.ask("one")
    visit.stop_early()
    assert json.loads(visit.bodies[0][1])["messages"][0] == {
        "role": "system",
        "content": "be brief",
    }


def test_conversations_outlive_a_reload_and_are_deleted(visit: Visit) -> None:
    visit.ask("the first one")
    answer = visit.stop_early()
    visit.page.reload()
    visit.begun()
    assert visit.texts == ["the first one", answer]
    visit.page.get_by_role("button", name="New conversation").click()
    assert visit.texts == []
    visit.ask("the second one")
    visit.stop_early()
    listed = visit.page.get_by_role("navigation").locator(".entry")
    assert listed.all_inner_texts() == ["the second one", "the first one"]
    listed.nth(1).click()
    assert visit.texts == ["the first one", answer]
    visit.page.on("dialog", lambda dialog: dialog.accept())
    visit.page.get_by_role("button", name="Delete: the first one").click()
    assert listed.all_inner_texts() == ["the second one"]
    visit.page.reload()
    visit.begun()
    assert visit.texts[0] == "the second one"
    assert listed.all_inner_texts() == ["the second one"]


def test_an_answer_that_is_under_way_is_kept_as_far_as_it_came(visit: Visit) -> None:
    visit.ask("one")
    visit.until(
        lambda: visit.page.evaluate(
            "Object.entries(localStorage).some(([name, text]) => name.startsWith('flexinfer.conv')"
            " && JSON.parse(text).messages[1]?.content)"
        )
    )
    visit.page.reload()
    visit.begun()
    assert visit.texts[-1]
    assert visit.texts[0] == "one"


def test_what_is_kept_and_spoiled_is_left_out(visit: Visit) -> None:
    visit.ask("sound")
    visit.stop_early()
    visit.page.evaluate(
        "['{', 'null', '{\"id\": 1}', '{\"id\": \"x\", \"messages\": [null, {}]}'].forEach("
        "(text, at) => localStorage.setItem(`flexinfer.conversation.${at}`, text))"
    )
    visit.page.reload()
    visit.begun()
    assert "sound" in visit.page.locator(".entry").all_inner_texts()
    assert visit.texts[0] == "sound"


def test_markup_stays_text_wherever_it_comes_from(visit: Visit) -> None:
    title = visit.page.title()
    kept = {
        "id": "m",
        "changed": 9e12,
        "system": MARKUP,
        "messages": [
            {"role": "user", "content": MARKUP},
            {"role": "assistant", "content": f"{MARKUP}\n```js\n{MARKUP}\n```\n`{MARKUP}`"},
        ],
    }
    visit.page.evaluate(
        "kept => localStorage.setItem('flexinfer.conversation.m', JSON.stringify(kept))", kept
    )
    visit.page.reload()
    visit.begun()
    assert visit.texts[0] == MARKUP
    assert visit.page.locator(".message .code code").inner_text() == MARKUP
    assert visit.page.locator(".message .text code").inner_text() == MARKUP
    assert visit.page.locator("#messages img, #messages b, #list b, #list img").count() == 0
    assert visit.page.locator(".entry").first.inner_text() == MARKUP
    assert visit.page.title() == title


def test_two_tabs_keep_conversations_of_their_own(visit: Visit) -> None:
    other = visit.page.context.new_page()
    other.goto(visit.page.url)
    other.locator("#model:not(:empty)").wait_for()
    visit.ask("from the first tab")
    visit.stop_early()
    other.locator(".entry", has_text="from the first tab").wait_for()
    other.locator("#prompt").fill("from the second tab")
    other.keyboard.press("Enter")
    visit.page.locator(".entry", has_text="from the second tab").wait_for()
    other.keyboard.press("Escape")
    assert visit.page.locator(".entry").count() == 2
    other.close()


def test_a_conversation_is_answered_by_one_tab_at_a_time(visit: Visit) -> None:
    visit.ask("from the first tab")
    visit.until(lambda: bool(visit.texts[-1]))
    other = visit.page.context.new_page()
    other.goto(visit.page.url)
    other.locator("#model:not(:empty)").wait_for()
    other.locator("#prompt").fill("from the second tab")
    other.keyboard.press("Enter")
    other.locator("#trouble", has_text="Another tab").wait_for()
    assert other.locator("#prompt").input_value() == "from the second tab"
    visit.stop_early()
    other.locator(".message .note", has_text="Stopped").wait_for()
    other.locator("#prompt").press("Enter")
    other.locator("#stop").click()
    other.locator("#send").wait_for()
    asked = ["from the first tab", "from the second tab"]
    assert other.locator(".message.user .body").all_inner_texts() == asked
    visit.until(lambda: visit.texts[::2] == asked)
    other.close()


@pytest.mark.parametrize("script", ["", LOCKLESS], ids=["locks", "no locks"])
def test_sending_twice_sends_once(browser: Browser, server: Served, script: str) -> None:
    twice = "[0, 1].forEach(() => document.getElementById('composer').requestSubmit())"
    with visiting(browser, server, script=script) as visit:
        visit.begun().locator("#prompt").fill("once")
        visit.page.evaluate(twice)
        visit.stop_early()
        assert visit.texts[::2] == ["once"]
        assert not visit.page.locator("#trouble").is_visible()
        assert len(visit.bodies) == 1


def test_what_has_the_focus_keeps_it_while_an_answer_is_kept(visit: Visit) -> None:
    visit.ask("first")
    visit.stop_early()
    visit.page.get_by_role("button", name="New conversation").click()
    visit.ask("second")
    visit.page.locator(".entry", has_text="second").wait_for()
    entry = visit.page.locator(".entry", has_text="first")
    entry.focus()
    before = visit.page.evaluate(CHANGED)
    visit.until(lambda: visit.page.evaluate(CHANGED) > before)
    assert entry.evaluate("node => node === document.activeElement")
    visit.page.keyboard.press("Enter")
    assert visit.texts[0] == "first"


def test_a_browser_without_room_is_told_and_kept_for_again(visit: Visit) -> None:
    visit.page.evaluate(FILL)
    visit.ask("too much")
    visit.stop_early()
    trouble = visit.page.locator("#trouble")
    assert "no room left" in trouble.inner_text()
    assert visit.page.locator(".entry").all_inner_texts() == ["too much"]
    visit.page.evaluate("localStorage.removeItem('fill')")
    visit.ask("now")
    answer = visit.stop_early()
    assert not trouble.is_visible()
    visit.page.reload()
    visit.begun()
    assert visit.texts[::2] == ["too much", "now"]
    assert visit.texts[-1] == answer


def test_a_browser_that_keeps_nothing_is_told(browser: Browser, server: Served) -> None:
    with visiting(browser, server, script=DENIED) as visit:
        visit.begun()
        visit.ask("one")
        assert visit.stop_early()
        assert "keeps nothing" in visit.page.locator("#trouble").inner_text()
        assert visit.page.locator(".entry").all_inner_texts() == ["one"]


def test_each_line_runs_as_its_letters_do(visit: Visit) -> None:
    lines = "to the right\nמימין לשמאל\nand the longest of the three lines"
    visit.ask(lines)
    visit.stop_early()
    left, right, _ = visit.page.locator(".message.user .text").evaluate(ENDS)
    assert left[0] < 1 < left[1]
    assert right[0] > 1 > right[1]
    assert visit.texts[0] == lines
