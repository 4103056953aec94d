"""Passes that real text takes with n-grams, by an instruct model that streams most of itself.

    python benchmarks/draft_texts.py MODEL --share 25 --drive 500MB/s

Three questions through the model's chat template: a passage of 300 tokens is copied, a file of code
is edited, and a story is told, in which next to nothing comes again. Each is answered by `flexinfer
run` without drafts, with `--draft ngram`, and without again; answers have to be the same. Weights
have `--share` of their bytes. The figures are passes without drafts over those with, and the rate
with drafts over the mean of its neighbours. A story is drawn with a seed, the others are greedy.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import click

from flexinfer.bench.cases import parse_rate
from flexinfer.bench.in_group import run_in_group
from flexinfer.bench.running import drop_cache
from flexinfer.gguf.catalogue import read_catalogue
from flexinfer.sizes import format_size

_FEWER = 3.0
_LEAST_PLAIN = 0.98

PASSAGE = """\
The lighthouse stands on a ledge of dark rock at the end of the bay. Its lamp was lit for the first
time in the autumn of 1868, after two ships had been lost within a month. The keeper and his family
lived in three round rooms below the gallery, and everything they needed came by boat: flour, oil,
coal, letters, and once a year a new pair of boots for each of the children. In winter the sea kept
the boat away for weeks, and then they ate fish and the potatoes from the small garden behind the
wall. The daughter of the last keeper wrote down the weather every morning for forty years. Her
books are kept in the library of the town. They tell of storms that broke the windows of the
gallery, of fogs that lasted nine days, and of one night in March when the whole sky was green.
In 1971 an engine took over the turning of the lens, and in 1989 the last keeper left. The lamp
still burns, but nobody trims it any more. Visitors climb the one hundred and forty steps in summer
to look at the islands, and on clear days they can see the mountains on the other side of the water.
At the foot of the stairs hangs a bell that was rung in fog. It can be heard three miles away.
"""

CODE = '''\
class Stock:
    """Goods of a shop, by name."""

    def __init__(self):
        self.counts = {}
        self.prices = {}

    def add(self, name, count, price):
        """Put so many of an item on the shelf."""
        if count <= 0:
            raise ValueError("count must be positive")
        self.counts[name] = self.counts.get(name, 0) + count
        self.prices[name] = price

    def remove(self, name, count):
        """Take so many of an item off the shelf."""
        if self.counts.get(name, 0) < count:
            raise ValueError("not enough on the shelf")
        self.counts[name] -= count
        if self.counts[name] == 0:
            del self.counts[name]
            del self.prices[name]

    def value(self):
        """What all goods are worth together."""
        return sum(self.counts[name] * self.prices[name] for name in self.counts)
'''


class Text(NamedTuple):
    """What is asked, of how many tokens the answer is, and how they are chosen."""

    question: str
    tokens: int
    options: tuple[str, ...] = ("--temp", "0")


TEXTS = {
    "copying": Text(f"Repeat this text word for word:\n\n{PASSAGE}", 300),
    "editing": Text(
        f"Write this file again, with the class named Shelf instead of Stock:\n\n{CODE}", 230
    ),
    "telling": Text("Tell a story of a fox and a clock.", 200, ("--temp", "1.2", "--seed", "7")),
}


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.option("--share", default=25, show_default=True, help="Of the weights in memory, %.")
@click.option("--drive", help="Throttle of the drive, as 500MB/s.")
@click.option("texts", "--text", type=click.Choice([*TEXTS]), multiple=True, default=[*TEXTS])
@click.option("--rounds", default=1, show_default=True)
def main(model: str, share: int, drive: str | None, texts: tuple[str, ...], rounds: int) -> None:
    catalogue = read_catalogue(model)
    nbytes = catalogue.nbytes * share // 100
    rate = parse_rate(drive) if drive else None
    click.echo(f"{model}: {format_size(nbytes)} for weights, drive {drive or 'as it is'}")
    click.echo("| text | tokens | passes without | with | fewer | accepted | rate of plain |")
    click.echo(f"|{7 * '---|'}")
    for name in texts:
        ratios = []
        for _ in range(rounds):
            first, drafted, last = (
                _answered(name, model, nbytes, rate, way) for way in ("off", "ngram", "off")
            )
            if len({tuple(each["token_ids"]) for each in (first, drafted, last)}) > 1:
                raise click.ClickException(f"{name}: the answer is another one with drafts")
            plain = statistics.mean(each["speed"]["decode_tok_s"] for each in (first, last))
            ratios.append(drafted["speed"]["decode_tok_s"] / plain)
        tokens, found = drafted["generated_tokens"], drafted["drafts"]
        # The first token comes of the prompt.
        fewer = (tokens - 1) / found["passes"]
        click.echo(
            f"| {name} | {tokens} | {tokens - 1} | {found['passes']} | {fewer:.2f} "
            f"| {found['accepted']} of {found['drafted']} | {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f}) |"
        )
    click.echo(f"asked: {_FEWER:.0f} times fewer passes; {_LEAST_PLAIN} of plain where new")


def _answered(name: str, model: str, nbytes: int, rate: int | None, draft: str) -> dict[str, Any]:
    text = TEXTS[name]
    drop_cache([model])
    command = [sys.executable, "-m", "flexinfer", "run", model, "--chat", "--json", "-n"]
    command += [str(text.tokens), "--weight-memory", str(nbytes), "--ctx", "1024", *text.options]
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder) / "question.txt"
        asked.write_text(text.question)
        command += ["-f", str(asked), "--draft", draft]
        return run_in_group(command, model, None, rate).document


if __name__ == "__main__":
    main()
