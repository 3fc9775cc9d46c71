"""Figures and tables as text; a dash is what was not measured, a question mark what is not known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["counted", "dollars", "escaped", "number", "percent", "table", "without_empty"]

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
          **{c: f"\\{c}" for c in "&%$#_{}"}}  # fmt: skip


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with columns of equal width."""
    cells = [[c.replace("|", "\\|") for c in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def without_empty(head: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Leave out the columns of the paper's figures and of tool calls which hold nothing but dashes."""
    optional = [name.startswith("paper") or "tool calls" in name for name in head]
    kept = [i for i, may_go in enumerate(optional) if not may_go or any(row[i] != "-" for row in rows)]
    return [head[i] for i in kept], [[row[i] for i in kept] for row in rows]


def percent(value: float | None, low: float | None = None, high: float | None = None, *, sign: str = "") -> str:
    """A figure in percent with the ends of its interval: '50.0 [41.2, 58.8]'."""
    if value is None:
        return "-"
    text = f"{value:{sign}.1f}"
    return text if low is None or high is None else f"{text} [{low:{sign}.1f}, {high:{sign}.1f}]"


def number(value: float | None, digits: int = 0) -> str:
    """A number with thousands set apart."""
    return "?" if value is None else f"{value:,.{digits}f}"


def counted(value: int, noun: str) -> str:
    """A number with its noun: '1 epoch', '3 epochs'."""
    return f"{value:,} {noun}" + ("" if value == 1 else "s")


def dollars(value: float | None, digits: int = 2) -> str:
    """An amount without its unit."""
    return "?" if value is None else f"{value:,.{digits}f}"


def escaped(text: str) -> str:
    """The text as LaTeX prints it."""
    return "".join(_LATEX.get(c, c) for c in text)
