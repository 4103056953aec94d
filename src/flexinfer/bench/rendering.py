"""Sections as Markdown, and as one HTML page that needs no other file."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

from flexinfer.bench.report import sections
from flexinfer.bench.sections import Section, Table
from flexinfer.text import one_line

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto }
th, td { border: 1px solid #ddd; padding: 3px 8px; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
th { background: #f4f4f4 }
svg { max-width: 100%; height: auto }
"""


def markdown(document: dict[str, Any]) -> str:
    """The report without pictures."""
    return "\n\n".join(_markdown(section) for section in sections(document)) + "\n"


def page(document: dict[str, Any]) -> str:
    """The report with plots as inline SVG.

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    body = "\n".join(_html(section) for section in sections(document))
    head = f"<meta charset='utf-8'><title>flexinfer bench</title><style>{_STYLE}</style>"
    return f"<!doctype html>\n<html lang='en'><head>{head}</head>\n<body>\n{body}\n</body></html>\n"


def _markdown(section: Section) -> str:
    parts = [f"{'#' * section.level} {one_line(section.title)}", *section.text]
    if section.table is not None and section.table.rows:
        lines = [section.table.header, ["---"] * len(section.table.header), *section.table.rows]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts)


def _html(section: Section) -> str:
    parts = [f"<h{section.level}>{html.escape(section.title)}</h{section.level}>"]
    parts += [f"<p>{html.escape(line)}</p>" for line in section.text]
    if section.plot and section.summary is not None and section.setting is not None:
        from flexinfer.bench.plots import draw

        picture = draw(section.plot, section.summary, section.setting).decode()
        parts.append(picture[picture.index("<svg") :])
    if section.table is not None and section.table.rows:
        parts.append(_table(section.table))
    return "\n".join(parts)


def _table(table: Table) -> str:
    head = _row("th", table.header)
    return f"<table>{head}{''.join(_row('td', row) for row in table.rows)}</table>"


def _row(tag: str, cells: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
