"""The engine beside the chat: live figures, a budget to drag, the key, errors in its words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.browser import Visit, chromium, visiting
from support.projector import write_projector
from support.served import Served, serving
from support.tiny_model import TinyModel

if TYPE_CHECKING:
    from playwright.sync_api import Browser

MIB = 1 << 20
KEY = "a key with spaces and ключ"
NEVER_ENDING = {"prompt": [3, 4, 5], "n_predict": 3000, "ignore_eos": True}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tiny_model: TinyModel) -> Iterator[Served]:
    sizes = ("--memory", "200MiB", "--slots", 2, "--ctx", 2048)
    with serving(tiny_model("tiny-moe", "q4_0"), *sizes) as served:
        yield served


@pytest.fixture
def visit(browser: Browser, server: Served) -> Iterator[Visit]:
    with visiting(browser, server) as visit:
        visit.begun()
        visit.page.locator("#slots li").first.wait_for()
        yield visit


def wait_for_text(visit: Visit, place: str, text: str) -> None:
    visit.page.locator(place, has_text=text).wait_for()


def test_figures_follow_what_runs(visit: Visit, server: Served) -> None:
    wait_for_text(visit, "#rate", "Idle")
    wait_for_text(visit, "#queue", "0 of 2 busy, nobody waiting.")
    with server.stream("/completion", NEVER_ENDING):
        wait_for_text(visit, "#rate-unit", "tokens/s")
        wait_for_text(visit, "#queue", "1 of 2 busy")
        wait_for_text(visit, "#slots li.busy", "writes token")
        assert "tokens/s" in visit.page.locator("#bound").inner_text()
        with server.stream("/completion", NEVER_ENDING), server.stream("/completion", NEVER_ENDING):
            wait_for_text(visit, "#queue", "2 of 2 busy, 1 waiting.")
    wait_for_text(visit, "#queue", "0 of 2 busy, nobody waiting.")
    visit.page.get_by_text("By tensor").click()
    rows = visit.page.locator("#kinds tbody tr").all_inner_texts()
    assert any(row.startswith("ffn_up_exps") for row in rows)
    assert any(row.startswith("attn_q") for row in rows)


def test_nothing_is_asked_while_nobody_can_see_it(visit: Visit) -> None:
    def turn(state: str) -> None:
        visit.page.evaluate(
            "state => { Object.defineProperty(document, 'visibilityState', { value: state, "
            "configurable: true }); document.dispatchEvent(new Event('visibilitychange')); }",
            state,
        )

    turn("hidden")
    visit.page.wait_for_timeout(500)  # what was asked before is answered
    before = len(visit.addresses)
    visit.page.wait_for_timeout(3000)
    assert len(visit.addresses) == before
    turn("visible")
    visit.until(lambda: len(visit.addresses) > before)


def test_where_weights_are_is_asked_only_as_they_move(visit: Visit, server: Served) -> None:
    def asked(what: str) -> int:
        return sum(address.endswith(f"/engine/{what}") for address in visit.addresses)

    server.complete(**NEVER_ENDING | {"n_predict": 2})
    looks = asked("stats")
    visit.until(lambda: asked("stats") > looks + 1)  # by then it knows where they are
    before, looks = asked("tensors"), asked("stats")
    visit.until(lambda: asked("stats") > looks + 2)
    assert asked("tensors") == before > 0
    server.post("/engine/release", {})
    visit.until(lambda: asked("tensors") > before)


def test_what_drafts_bring_is_shown(browser: Browser, tiny_model: TinyModel) -> None:
    model = tiny_model("tiny-llama", "q4_0")
    sizes = (model, "--memory", "200MiB", "--slots", 1, "--ctx", 2048)
    by_model = ("-md", model, "--spec-type", "draft-simple", "--spec-draft-n-max", 5)
    with serving(*sizes, "--", *by_model) as served, visiting(browser, served) as visit:
        visit.begun()
        with served.stream("/completion", {**NEVER_ENDING, "temperature": 0}):
            wait_for_text(visit, "#bound", "tokens a pass")
        visit.until(lambda: said_of(served.stats["drafts"]) in text_of(visit, "#bound"))
        assert served.stats["drafts"]["accepted"] > 0
        assert "model that drafts" in text_of(visit, "#memory-parts")


def said_of(drafts: dict[str, int]) -> str:
    return f"{drafts['accepted']} of {drafts['drafted']} drafted tokens accepted"


def text_of(visit: Visit, place: str) -> str:
    return str(visit.page.locator(place).inner_text())


def test_the_slider_changes_the_budget_of_the_server(visit: Visit, server: Served) -> None:
    assert visit.page.locator("#budget-value").inner_text() == "200 MiB"
    slider = visit.page.get_by_role("slider", name="Budget")
    slider.focus()
    for _ in range(3):
        visit.page.keyboard.press("ArrowLeft")
    visit.until(lambda: server.stats["memory"]["budget"] == 197 * MIB)
    assert slider.evaluate("node => node === document.activeElement")
    assert slider.get_attribute("aria-valuetext") == "197 MiB"
    # Another program changes it, too.
    server.post("/engine/memory", {"memory": "200MiB"})
    wait_for_text(visit, "#budget-value", "200 MiB")


def test_what_the_server_says_of_a_budget_is_shown(visit: Visit, server: Served) -> None:
    slider = visit.page.get_by_role("slider", name="Budget")
    slider.evaluate("node => { node.min = 1; }")
    slider.focus()
    visit.page.keyboard.press("Home")
    wait_for_text(visit, "#budget-said", "give a larger memory budget")
    assert server.stats["memory"]["budget"] == 200 * MIB
    wait_for_text(visit, "#budget-value", "200 MiB")


def test_weights_are_given_back(visit: Visit, server: Served) -> None:
    server.complete(prompt=[3, 4, 5], n_predict=4, ignore_eos=True)
    assert sum(server.get("/engine/tensors")[1]["locked"]) > 0
    visit.page.get_by_role("button", name="Release weights").click()
    wait_for_text(visit, "#budget-said", "given back")
    assert sum(server.get("/engine/tensors")[1]["locked"]) == 0


def test_a_prompt_that_does_not_fit_is_refused_in_the_server_s_words(visit: Visit) -> None:
    visit.ask("one two " * 3000)
    visit.wait()
    trouble = visit.page.locator(".message:last-child").get_by_role("alert")
    assert "context size" in trouble.inner_text()
    assert visit.page.get_by_role("button", name="Regenerate").is_visible()


def test_long_words_of_the_engine_are_shown_whole(visit: Visit) -> None:
    words = f"/models/{'long' * 40}.gguf: reading 4096 bytes failed; look at the drive"
    error = json.dumps({"error": {"message": words}})
    visit.page.route("**/engine/stats", lambda route: route.fulfill(status=500, body=error))
    wait_for_text(visit, "#state", words)
    for width in (1440, 700, 360):
        visit.page.set_viewport_size({"width": width, "height": 740})
        box = visit.page.locator("#state").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert not visit.page.locator("#state").evaluate(
            "node => node.scrollWidth > node.clientWidth || node.scrollHeight > node.clientHeight"
        )
        assert visit.page.evaluate("document.documentElement.scrollWidth") == width


def test_a_file_that_fails_is_told_in_the_engine_s_words(
    browser: Browser, tiny_model: TinyModel, tmp_path: Path
) -> None:
    path = tmp_path / "gone.gguf"
    shutil.copy(tiny_model("tiny-llama", "q4_0"), path)
    with serving(path, "--weight-memory", "1MiB", "--ctx", 512) as served:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)
        with visiting(browser, served) as visit:
            visit.begun()
            visit.ask("one")
            visit.wait()
            words = visit.page.locator(".message:last-child").get_by_role("alert").inner_text()
            assert str(path) in words
            assert visit.page.locator("#budget").is_disabled()


def test_the_key_is_asked_for_once(browser: Browser, tiny_model: TinyModel) -> None:
    model = tiny_model("tiny-llama", "q4_0")
    with (
        serving(model, "--memory", "400MiB", "--ctx", 512, "--api-key", KEY) as served,
        visiting(browser, served) as visit,
    ):
        dialog = visit.page.get_by_role("dialog", name="This server wants a key")
        dialog.wait_for()
        field = dialog.get_by_label("Key")
        field.fill("another")
        visit.page.keyboard.press("Enter")
        dialog.get_by_text("Invalid API Key").wait_for()
        field.fill(KEY)
        visit.page.keyboard.press("Enter")
        visit.begun()
        visit.page.locator("#slots li").first.wait_for()
        visit.ask("one")
        visit.stop_early()
        visit.page.reload()
        visit.begun()
        visit.page.locator("#slots li").first.wait_for()
        assert not dialog.is_visible()
        visit.page.get_by_role("button", name="Forget key").click()
        dialog.wait_for()
        visit.page.keyboard.press("Escape")
        wait_for_text(visit, "#state", "Invalid API Key")
        visit.page.get_by_role("button", name="Enter key").click()
        dialog.wait_for()


def test_a_server_that_is_gone_is_told(browser: Browser, tiny_model: TinyModel) -> None:
    with (
        serving(tiny_model("tiny-llama", "q4_0"), "--memory", "400MiB", "--ctx", 512) as served,
        visiting(browser, served) as visit,
    ):
        visit.begun()
        served.end()
        wait_for_text(visit, "#state", "The server does not answer")
        visit.ask("one")
        visit.wait()
        words = visit.page.locator(".message:last-child").get_by_role("alert").inner_text()
        assert words.startswith("The server does not answer")


def test_images_are_sent_to_a_model_that_sees(
    browser: Browser, tiny_model: TinyModel, tmp_path: Path
) -> None:
    from PIL import Image

    projector = write_projector(tmp_path / "mmproj.gguf", 256)
    picture = tmp_path / "sky.png"
    Image.new("RGB", (2000, 1000), (30, 90, 160)).save(picture)
    sizes = ("--memory", "900MiB", "--ctx", 1024, "--mmproj", projector)
    template = ("--", "--chat-template", "chatml")
    with (
        serving(tiny_model("tiny-llama", "q4_0"), *sizes, *template) as served,
        visiting(browser, served) as visit,
    ):
        visit.begun()
        visit.page.locator("#file").set_input_files([picture, picture])
        visit.page.get_by_role("button", name="Remove image 2").click()
        visit.page.get_by_role("button", name="Remove image 1").wait_for()
        visit.ask("what is this?")
        assert visit.stop_early()
        (sent,) = json.loads(visit.bodies[0][1])["messages"]
        kinds = [part["type"] for part in sent["content"]]
        assert kinds == ["image_url", "text"]
        assert sent["content"][0]["image_url"]["url"].startswith("data:image/jpeg;base64,")
        width = visit.page.locator(".message img").evaluate("image => image.naturalWidth")
        assert width == 1280
        assert not visit.page.get_by_role("button", name="Remove image 1").is_visible()


def test_a_model_without_a_template_writes_on(
    browser: Browser, tiny_model: TinyModel, tmp_path: Path
) -> None:
    model = tmp_path / "plain.gguf"
    content = tiny_model("tiny-llama", "q4_0").read_bytes()
    model.write_bytes(content.replace(b"tokenizer.chat_template", b"tokenizer.chat_nothing0"))
    with (
        serving(model, "--memory", "400MiB", "--ctx", 1024) as served,
        visiting(browser, served) as visit,
    ):
        visit.begun()
        visit.ask("one")
        visit.wait()
        assert "256 tokens" in visit.page.locator(".message:last-child .note").inner_text()
        path, body = visit.bodies[0]
        assert (path, json.loads(body)["prompt"]) == ("/completion", "one\n")
        visit.page.get_by_role("button", name="Continue").click()
        visit.until(lambda: len(visit.bodies) == 2)
        visit.wait()
        prompt = json.loads(visit.bodies[1][1])["prompt"]
        assert prompt.startswith("one\n")
        assert len(prompt) > len("one\n")
        assert len(visit.texts) == 2


def test_a_server_of_vectors_offers_no_chat(browser: Browser, tiny_model: TinyModel) -> None:
    model = tiny_model("tiny-llama", "q4_0")
    with (
        serving(model, "--memory", "400MiB", "--ctx", 512, "--embeddings") as served,
        visiting(browser, served) as visit,
    ):
        visit.begun()
        wait_for_text(visit, "#about", "embeddings")
        assert visit.page.locator("#prompt").is_disabled()
        visit.page.locator("#slots li").first.wait_for()
