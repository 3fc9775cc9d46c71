"""What a command shows: results on standard output, everything else on standard error.

Guarantees: text of programs, models and files is data, so markup and control characters in it show as text; nothing is
cut, and without a terminal there is no colour.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from trgrpo_dspy.library.entries import as_written
from trgrpo_dspy.library.experience import Experience

__all__ = ["column_table", "experiences", "library_table", "line", "logged", "note", "printable", "show", "show_json"]

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, and what turns the direction of text; all but the tab and the line's end."""
_NUMBER = re.compile(r"[-\d.,/ *~+]*")


def printable(text: str) -> str:
    """The text with control characters written out, so that no terminal obeys them."""
    return _UNPRINTABLE.sub(lambda m: f"\\u{ord(m[0]):04x}" if ord(m[0]) > 255 else f"\\x{ord(m[0]):02x}", text)


def show(*parts: RenderableType) -> None:
    """Write results; a plain string is data, not markup."""
    console = Console(highlight=False, markup=False, emoji=False)
    for part in parts:
        console.print(Text(printable(part)) if isinstance(part, str) else part)


def line(text: str) -> None:
    """Write one line as it is, for scripts and files: no wrapping."""
    sys.stdout.write(printable(text) + "\n")


def note(text: str) -> None:
    """Say something beside the results, on standard error."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    console.print(Text(printable(text)), soft_wrap=not console.is_terminal)


def show_json(data: Any) -> None:
    """Write results for a script."""
    sys.stdout.write(json.dumps(data, indent=2, default=str) + "\n")


def column_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, wide: Sequence[int] = ()) -> Table:
    """Rows under a head; the columns `wide` take what width is left, all others are no wider than what they hold."""
    rows = list(rows)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for number, name in enumerate(head):
        if number in wide:
            table.add_column(Text(name), overflow="fold", ratio=1)
        else:
            side: Any = "right" if all(_NUMBER.fullmatch(cells[number]) for cells in rows) else "left"
            table.add_column(Text(name), overflow="fold", no_wrap=True, justify=side)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def experiences(count: int) -> str:
    """So many experiences, in words."""
    return f"{count} experience{'' if count == 1 else 's'}"


def library_table(library: Sequence[Experience]) -> Table:
    """The entries with what is known of them; a column that says nothing of any entry is left out."""
    votes = [(e.helpful + len(e.support), e.harmful + len(e.against)) for e in library]
    steps = [dict.fromkeys(filter(None, (e.created_step, max(e.created_step, e.updated_step)))) for e in library]
    columns = {
        "for": [", ".join(e.targets) for e in library],
        "right/wrong": [f"{right}/{wrong}" if right or wrong else "" for right, wrong in votes],
        "from": [f"{len(e.sources)} ex." if e.sources else "" for e in library],
        "step": [", ".join(map(str, found)) for found in steps],
    }
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    texts = [as_written(e.text) + (" (pinned)" if e.pinned else "") for e in library]
    rows = zip([e.id for e in library], texts, *columns.values(), strict=True)
    return column_table(["id", "experience", *columns], rows, wide=(1,))


@contextmanager
def logged() -> Iterator[set[str]]:
    """The package's log lines, and what programs print, on standard error; gives the set of lines to leave out."""
    handler = _OnStandardError()
    logger = logging.getLogger("trgrpo_dspy")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with redirect_stdout(sys.stderr):  # standard output is for results alone
            yield handler.left_out
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


class _OnStandardError(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.left_out: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        if (text := record.getMessage()) not in self.left_out:
            note(text)
