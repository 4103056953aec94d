"""The page as one document: everything of it inlined, and a policy that names just that."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import flexinfer.serve.document
from flexinfer.serve.document import page

FOLDER = Path(flexinfer.serve.document.__file__).with_name("page")
SCRIPTS = sorted(FOLDER.glob("*.js"))


def policy() -> dict[str, list[str]]:
    match = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page())
    assert match is not None
    parts = [part.split() for part in match[1].split("; ")]
    return {name: values for name, *values in parts}


def test_every_source_is_in_it_and_nothing_is_left_to_load() -> None:
    text = page()
    for source in FOLDER.iterdir():
        if source.name != "index.html":
            assert source.read_text("utf-8") in text, source.name
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', text) == []
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text
    assert "@import" not in text


def test_the_policy_allows_its_own_scripts_and_styles_only() -> None:
    text, rules = page(), policy()
    for kind in ("script", "style"):
        inlined = re.findall(f"<{kind}>(.*?)</{kind}>", text, flags=re.DOTALL)
        digests = [hashlib.sha256(part.encode()).digest() for part in inlined]
        assert inlined
        assert rules[f"{kind}-src"] == [
            f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests
        ]
    assert rules["default-src"] == ["'none'"]
    assert rules["connect-src"] == ["'self'"]
    assert rules["require-trusted-types-for"] == ["'script'"]
    # Before anything that it is about.
    assert text.index("Content-Security-Policy") < text.index("<style>") < text.index("<script>")


def test_nothing_runs_before_the_first_paint() -> None:
    text = page()
    scripts = re.findall("<script>(.*?)</script>", text, flags=re.DOTALL)
    assert [script.split("\n")[1] for script in scripts] == [
        "new PerformanceObserver((entries, observer) => {"
    ]
    assert text.index("</dialog>") < text.index("<script>")


def test_sources_survive_being_inlined() -> None:
    assert len(SCRIPTS) > 5
    for source in SCRIPTS:
        text = source.read_text("utf-8")
        assert "</script" not in text.lower(), source.name
        assert "<!--" not in text, source.name
    assert not re.search(r'\sstyle="|\son\w+="', (FOLDER / "index.html").read_text("utf-8"))


def test_no_script_reads_text_as_markup() -> None:
    reads = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|Function\("
    )
    for source in SCRIPTS:
        assert reads.findall(source.read_text("utf-8")) == [], source.name


def test_one_concept_a_file() -> None:
    for source in SCRIPTS:
        text = source.read_text("utf-8")
        assert text.startswith('"use strict";\n/* '), source.name
        assert text.count("\n") <= 250, source.name
