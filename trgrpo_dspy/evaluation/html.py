"""Small pieces of HTML for notebooks: every text is escaped, and colours are the page's own, light or dark."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

__all__ = ["details", "page", "table"]

_CELL = "padding:2px 10px 2px 0;text-align:left;vertical-align:top;border-bottom:1px solid rgba(128,128,128,.3)"
_LONGEST = 300


def page(title: str, parts: Iterable[str]) -> str:
    """A headline and the parts below it."""
    return f'<div style="font-size:90%"><p><b>{_text(title, 1000)}</b></p>{"".join(parts)}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; long texts are cut."""
    top = "".join(f'<th style="{_CELL}">{_text(name)}</th>' for name in head)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{_text(cell)}</td>' for cell in row) + "</tr>" for row in rows
    )
    return f'<table style="border-collapse:collapse"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def details(summary: str, lines: Iterable[str]) -> str:
    """Lines that are shown when the summary is clicked."""
    items = "".join(f"<li>{_text(line, 1000)}</li>" for line in lines)
    return f"<details><summary>{_text(summary)}</summary><ul>{items}</ul></details>"


def _text(value: object, longest: int = _LONGEST) -> str:
    text = "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in str(value))
    return html.escape(text if len(text) <= longest else f"{text[:longest]}...")
