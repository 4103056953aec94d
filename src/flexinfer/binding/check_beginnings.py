"""How the rules of a grammar begin: with themselves never, and in a bounded number of ways.

llama.cpp keeps a stack for each way in which a text may begin, compares each with all before it,
and looks for rules that begin with themselves along every path. Source: ``src/llama-grammar.cpp``
(ggml 0.25.3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from flexinfer.errors import RequestError

# How deep parentheses, and rules that begin with rules, may be nested: llama.cpp recurses.
MAX_DEPTH = 500
# So many stacks take a second of comparing.
_MAX_WAYS = 20_000


@dataclass
class Item:
    """Something that a sequence consists of: characters, or what `rule` stands for.

    Attributes:
        optional: it may be left out.
        times: how often it may at most be repeated, 1 where that has no end.
    """

    rule: str | None
    line: int
    optional: bool = False
    times: int = 1


@dataclass
class Rule:
    """A rule, or a group in parentheses: alternatives of sequences."""

    line: int
    choices: list[list[Item]] = field(default_factory=lambda: [[]])


def check_beginnings(rules: dict[str, Rule]) -> None:
    """Look at the beginning of each rule, directly or through others.

    Raises:
        RequestError: one begins with itself, too deep in others, or in too many ways.
    """
    empty = _empty(rules)
    begins = {name: list(_beginnings(rule, empty)) for name, rule in rules.items()}
    ways: dict[str, int] = {}
    for start in rules:
        path, on_path = [(start, iter(begins[start]))], {start}
        while path:
            item = next(path[-1][1], None)
            if item is None:
                name, _ = path.pop()
                on_path.discard(name)
                ways[name] = _ways(begins[name], ways, empty)
                if ways[name] > _MAX_WAYS:
                    raise mistake(
                        rules[name].line,
                        f"{_named(name)} begins in more than {_MAX_WAYS:,} ways; have its "
                        "alternatives begin differently",
                    )
            elif item.rule in on_path:
                raise mistake(
                    item.line, f"{_named(item.rule)} begins with itself, which never ends"
                )
            elif item.rule is not None and item.rule not in ways:
                if len(path) > MAX_DEPTH:
                    raise mistake(item.line, f"rules begin with rules, deeper than {MAX_DEPTH}")
                path.append((item.rule, iter(begins[item.rule])))
                on_path.add(item.rule)


def mistake(line: int, what: str) -> RequestError:
    """The error of a grammar with a mistake in that line."""
    return RequestError(f"the grammar does not parse, line {line}: {what}")


def _named(name: str | None) -> str:
    return name if name and name[0] != "(" else "a group"


def _ways(begins: list[Item], ways: dict[str, int], empty: set[str]) -> int:
    """In how many ways a rule with these beginnings begins, at most."""
    found = 1
    for item in begins:
        # Each of its repetitions may be the first that stands for anything.
        times = item.times if item.rule in empty else 1
        found += times * (1 if item.rule is None else ways[item.rule])
    return found


def _beginnings(rule: Rule, empty: set[str]) -> Iterator[Item]:
    for sequence in rule.choices:
        for item in sequence:
            yield item
            if not (item.optional or item.rule in empty):
                break


def _empty(rules: dict[str, Rule]) -> set[str]:
    """Rules that can stand for nothing at all."""
    empty: set[str] = set()
    while True:
        found = {
            name
            for name, rule in rules.items()
            if any(all(i.optional or i.rule in empty for i in seq) for seq in rule.choices)
        }
        if found == empty:
            return empty
        empty = found
