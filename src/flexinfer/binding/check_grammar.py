"""A grammar in llama.cpp's GBNF, read for its mistakes only: each is named with its line.

llama.cpp returns nothing for a grammar that it does not take, and recurses as deep as its
parentheses and its rules are nested (``src/llama-grammar.cpp``, ggml 0.25.3).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from flexinfer.binding.check_beginnings import MAX_DEPTH, Item, Rule, check_beginnings, mistake

_MAX_BYTES = 4 << 20
_MAX_REPEAT = 2000
_TOKENS = re.compile(
    r"""(?P<space>[ \t]+|\#[^\r\n]*)
    |(?P<line>\r\n?|\n)
    |(?P<text>"(?:[^"\\]|\\.)*")
    |(?P<set>\[(?:[^\]\\]|\\.)*\])
    |(?P<define>::=)
    |(?P<name>[A-Za-z0-9-]+)
    |(?P<repeat>[*+?]|\{[ \t]*\d+[ \t]*(?:,[ \t]*\d*[ \t]*)?\})
    |(?P<token>!?<[^<>\r\n]*>)
    |(?P<any>\.)
    |(?P<open>\()
    |(?P<close>\))
    |(?P<or>\|)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = re.compile(
    r"\\(x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|[tnr\\\"\[\]]|(?P<bad>.))", re.DOTALL
)
_UNCLOSED = {'"': "a text is not closed", "[": "a set of characters is not closed"}


def check_grammar(text: str, root: str = "root") -> None:
    """Raise for a grammar that llama.cpp would not take, or would not come back from.

    An empty text constrains nothing.

    Raises:
        RequestError: the line and what is wrong in it.
    """
    if not text:
        return
    half = re.search("[\ud800-\udfff]", text)
    if half is not None:
        line = text.count("\n", 0, half.start()) + 1
        raise mistake(line, f"half a character ({half.group()!r}) is no text")
    if len(text) > _MAX_BYTES:
        raise mistake(1, f"it has {len(text)} characters; at most {_MAX_BYTES} are read")
    reading = _Reading()
    for kind, found, line in _tokens(text):
        reading.take(kind, found, line)
    reading.end()
    rules = reading.rules
    if root not in rules:
        raise mistake(1, f"there is no rule named {root}")
    for item in _items(rules.values()):
        if item.rule is not None and item.rule not in rules:
            raise mistake(item.line, f"there is no rule named {item.rule}")
    check_beginnings(rules)


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    at, line = 0, 1
    while at < len(text):
        match = _TOKENS.match(text, at)
        if match is None:
            raise mistake(line, _UNCLOSED.get(text[at], f"{text[at]!r} has no meaning here"))
        found, kind = match.group(), match.lastgroup or ""
        if kind in ("text", "set"):
            _check_characters(found, line)
        if kind != "space":
            yield kind, found, line
        line += found.count("\n") or (kind == "line")
        at = match.end()


def _check_characters(found: str, line: int) -> None:
    if "\0" in found:
        raise mistake(line, "a zero byte ends the grammar; write \\x00")
    for escape in _ESCAPES.finditer(found, 1, len(found) - 1):
        if escape["bad"] is not None:
            raise mistake(line, f"{escape.group()!r} is no escape")


class _Reading:
    """Rules from tokens, with a stack instead of recursion."""

    def __init__(self) -> None:
        self.rules: dict[str, Rule] = {}
        self._open: list[Rule] = []
        self._name: str | None = None
        self._line = 1
        self._goes_on = False

    def take(self, kind: str, found: str, line: int) -> None:
        self._line = line
        if not self._open:
            self._begin(kind, found, line)
        elif kind == "line":
            if len(self._open) == 1 and not self._goes_on:
                self._open.clear()
        else:
            self._goes_on = kind == "or"
            self._body(kind, found, line)

    def end(self) -> None:
        if len(self._open) > 1:
            raise mistake(self._open[-1].line, "a parenthesis is not closed")
        if self._name is not None:
            raise mistake(self._line, f"'::=' is missing after {self._name}")

    def _begin(self, kind: str, found: str, line: int) -> None:
        if kind == "line" and self._name is None:
            return
        if self._name is None and kind == "name":
            self._name = found
        elif self._name is not None and kind == "define":
            rule = Rule(line)
            self.rules[self._name] = rule
            self._open, self._name, self._goes_on = [rule], None, True
        else:
            wanted = "a name of a rule" if self._name is None else f"'::=' after {self._name}"
            before = repr(found[:20]) if found.strip() else "the line ends"
            raise mistake(line, f"{wanted} is missing before {before}")

    def _body(self, kind: str, found: str, line: int) -> None:
        sequence = self._open[-1].choices[-1]
        if kind == "or":
            self._open[-1].choices.append([])
        elif kind == "open":
            self._group(sequence, line)
        elif kind == "close":
            if len(self._open) == 1:
                raise mistake(line, "a parenthesis is closed that was not opened")
            self._open.pop()
        elif kind == "repeat":
            self._repeat(sequence, found, line)
        elif kind == "define":
            raise mistake(line, "'::=' is in the middle of a rule; begin each rule on a new line")
        else:
            empty = kind == "text" and found == '""'
            sequence.append(Item(found if kind == "name" else None, line, optional=empty))

    def _group(self, sequence: list[Item], line: int) -> None:
        if len(self._open) > MAX_DEPTH:
            raise mistake(line, f"parentheses are nested deeper than {MAX_DEPTH}")
        # No name in a grammar has a parenthesis.
        name, group = f"({len(self.rules)}", Rule(line)
        self.rules[name] = group
        sequence.append(Item(name, line))
        self._open.append(group)

    def _repeat(self, sequence: list[Item], found: str, line: int) -> None:
        if not sequence:
            raise mistake(line, f"nothing stands before {found} to be repeated")
        counts = [int(number) for number in re.findall(r"\d+", found)]
        # Beyond it llama.cpp takes the larger of two for no bound at all.
        if counts and counts[0] > _MAX_REPEAT:
            raise mistake(line, f"{found} repeats more than {_MAX_REPEAT} times")
        if len(counts) == 2 and counts[0] > counts[1]:
            raise mistake(line, f"{found} ends before it begins")
        item = sequence[-1]
        item.times *= max([*counts, 1])
        item.optional |= found in ("*", "?") or counts[:1] == [0]


def _items(rules: Iterable[Rule]) -> Iterator[Item]:
    return (item for rule in rules for sequence in rule.choices for item in sequence)
