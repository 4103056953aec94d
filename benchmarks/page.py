"""What the page of `flexinfer serve` costs: its first paint, and the rate while it is watched.

    python benchmarks/page.py MODEL --memory 2GiB

First paint is Chromium's own figure, from the start of the navigation in a window that is open, by
a visitor of whom nothing is kept, while nothing is answered and while an answer is computed. Beside
it is that of a document of one word, from the same server. The rate is that of one answer, in
rounds of blank page, live view, routes alone, live view, blank page, on the same machine as the
browser; "routes" asks at the page's pace without a browser that draws. The figure is the median of
the per-round ratios to the blank page. What the rounds cannot tell from noise is counted: the
seconds of processor that the server takes for the page's questions and nothing else, and those that
all processes of the browser take during an answer while somebody looks at the page, beyond those
while nobody does; both over those that the machine has. Needs chromium and playwright.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
import httpx

from flexinfer.bench.processor_time import below, share
from flexinfer.bench.served import serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_EVERY_SECONDS = 2.0
_ROUTES = ("engine/stats", "engine/tensors", "slots")
_FIRST_PAINT = "performance.getEntriesByName('first-contentful-paint')"
_TURN = """state => {
    Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""
# A new window starts processes of its own, which are no part of any page.
_WINDOW_MS = 700
_PROMPT = {"prompt": [3, 4, 5], "ignore_eos": True, "cache_prompt": False}


@contextmanager
def browsing() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    if path is None:
        raise click.ClickException("there is no chromium: apt-get install chromium")
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()


def rate(address: str, tokens: int) -> float:
    """Tokens a second of one answer."""
    answer = httpx.post(f"{address}/completion", json=_PROMPT | {"n_predict": tokens}, timeout=600)
    return float(answer.raise_for_status().json()["timings"]["predicted_per_second"])


def first_paints(browser: Browser, address: str, times: int) -> list[float]:
    """Milliseconds from navigation to the first content, of as many visitors."""
    found = []
    for _ in range(times):
        context = browser.new_context()
        page = context.new_page()
        page.wait_for_timeout(_WINDOW_MS)
        page.goto(address)
        # The page's policy does not let Playwright wait for an expression.
        while not page.evaluate(f"{_FIRST_PAINT}.length"):
            page.wait_for_timeout(20)
        found.append(float(page.evaluate(f"{_FIRST_PAINT}[0].startTime")))
        context.close()
    return found


@contextmanager
def watching(browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto(f"{address}/")
    page.locator("#slots li").first.wait_for()
    yield page
    context.close()


@contextmanager
def asking(address: str) -> Iterator[None]:
    """Ask what the page asks, as often."""
    over = threading.Event()

    def ask() -> None:
        with httpx.Client() as client:
            while not over.wait(_EVERY_SECONDS):
                for route in _ROUTES:
                    client.get(f"{address}/{route}").raise_for_status()

    thread = threading.Thread(target=ask)
    thread.start()
    yield
    over.set()
    thread.join()


@contextmanager
def answering(address: str) -> Iterator[None]:
    """While entered, an answer is computed."""
    asked = _PROMPT | {"n_predict": -1, "stream": True}
    with httpx.stream("POST", f"{address}/completion", json=asked, timeout=600) as answer:
        next(answer.iter_lines())
        yield


def share_of_questions(address: str, pid: int, seconds: float) -> float:
    """What answering the page's questions takes a server that does nothing else."""
    without = share(lambda: (pid,), seconds)
    with asking(address):
        return share(lambda: (pid,), seconds) - without


def browser_processes() -> list[int]:
    """All of them: of its windows, its network, its drawing."""
    return below(os.getpid(), "chromium")


def shares_of_drawing(browser: Browser, address: str, seconds: float) -> tuple[float, float]:
    """What the browser takes during an answer: nobody sees the page, and somebody does."""
    found: dict[str, list[float]] = {"hidden": [], "visible": []}
    with watching(browser, address) as page, answering(address):
        for state in ("hidden", "visible", "visible", "hidden"):
            page.evaluate(_TURN, state)
            page.wait_for_timeout(2500)  # what was asked before is answered and drawn
            found[state].append(share(browser_processes, seconds / 2))
    return statistics.mean(found["hidden"]), statistics.mean(found["visible"])


def one_round(browser: Browser, address: str, tokens: int) -> tuple[float, float]:
    """Rates while watched and while asked, over that of a blank page."""
    before = rate(address, tokens)
    with watching(browser, address):
        first = rate(address, tokens)
    with asking(address):
        routes = rate(address, tokens)
    with watching(browser, address):
        second = rate(address, tokens)
    blank = statistics.mean((before, rate(address, tokens)))
    click.echo(f"| {blank:.3f} | {statistics.mean((first, second)):.3f} | {routes:.3f} |")
    return statistics.mean((first, second)) / blank, routes / blank


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.option("--memory", default="2GiB", show_default=True)
@click.option("--tokens", default=32, show_default=True, help="Of each answer; 0: no rates.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--seconds", default=60.0, show_default=True, help="Of counting what it takes.")
@click.option("--visitors", default=10, show_default=True, help="To be painted for; 0: none.")
def main(model: str, memory: str, tokens: int, rounds: int, seconds: float, visitors: int) -> None:
    command = [sys.executable, "-m", "flexinfer", "serve", model, "--memory", memory]
    command += ["--ctx", "2048", "--port", "0", "--json", "--", "--context-shift", "-lv", "1"]
    with serving(command) as served, browsing() as browser:
        address = served.address
        rate(address, 8)
        if visitors:
            paints(browser, address, visitors)
        time.sleep(1)
        asked = share_of_questions(address, served.pid, seconds)
        click.echo(f"\nits questions take the server {asked:.3%} of the machine's processor time\n")
        click.echo("| the browser during an answer: nobody looks | live view | difference |")
        click.echo("|---|---|---|")
        drawn = [drawing(browser, address, seconds) for _ in range(rounds)]
        click.echo(f"the live view takes the browser {statistics.median(drawn):.3%}")
        if not tokens:
            return
        blank = browser.new_page()
        click.echo("\n| blank page tokens/s | live view | routes alone |\n|---|---|---|")
        ratios = [one_round(browser, address, tokens) for _ in range(rounds)]
        blank.close()
    for name, found in zip(("live view", "routes alone"), zip(*ratios, strict=True), strict=True):
        spread = f"({min(found):.4f}-{max(found):.4f})"
        click.echo(f"{name}: {statistics.median(found):.4f} {spread} of the rate")


def paints(browser: Browser, address: str, visitors: int) -> None:
    """Print first paints of the page, and of one word."""
    click.echo("| first paint | median ms | min-max |\n|---|---|---|")
    for _ in range(2):
        _paints("one word, idle", first_paints(browser, f"{address}/health", visitors))
        _paints("the page, idle", first_paints(browser, address, visitors))
    with answering(address):
        _paints("the page, during an answer", first_paints(browser, address, visitors))


def drawing(browser: Browser, address: str, seconds: float) -> float:
    """One round of `shares_of_drawing`, printed; their difference."""
    hidden, visible = shares_of_drawing(browser, address, seconds)
    click.echo(f"| {hidden:.3%} | {visible:.3%} | {visible - hidden:.3%} |")
    return visible - hidden


def _paints(when: str, found: list[float]) -> None:
    click.echo(f"| {when} | {statistics.median(found):.0f} | {min(found):.0f}-{max(found):.0f} |")


if __name__ == "__main__":
    main()
