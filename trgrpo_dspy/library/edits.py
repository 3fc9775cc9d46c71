"""An edit of a library, as a model proposed it: one boundary turns what was written into a record."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .entries import clean_entry, count_words, without_label

__all__ = ["Edit", "RejectedEdit", "overlong"]

_SYNONYMS = {"UPDATE": "MODIFY", "NONE": "KEEP", "REMOVE": "DELETE"}
_WRAP = r"[\s\[\](){}'\"`*#.:]*"
_WRITTEN_ID = re.compile(
    rf"{_WRAP}(?:id\W+)?(?:experience\s*)?E?\s*0*([1-9][0-9]{{0,8}}){_WRAP}", re.IGNORECASE | re.ASCII
)
"""One id and nothing else: 'P2' is a proposal, 'none of the 3' no id, 'E1, E2' two of them."""


@dataclass(frozen=True)
class Edit:
    """One operation on a library, as it was proposed. Build it with `Edit.parse` from anything a model wrote."""

    operation: str
    """ADD, MODIFY, DELETE or KEEP; anything else is rejected when applied."""
    id: str = ""
    """The entry it is about; empty for ADD."""
    text: str = ""
    """New text, for ADD and MODIFY."""
    targets: tuple[str, ...] = ()
    """Predictors the entry is for; empty means all (ADD) or as before (MODIFY)."""
    sources: tuple[int, ...] = ()
    """Indices of the training examples that speak for it."""

    @classmethod
    def parse(
        cls, operation: str, id: str, text: str, targets: Iterable[str] = (), sources: Iterable[int] = ()
    ) -> Edit:
        """Normalise what a model wrote: case, brackets round an id, a bullet before the text, UPDATE for MODIFY."""
        name = re.sub(r"[^A-Z]", "", operation.upper())
        found = _WRITTEN_ID.fullmatch(id)
        return cls(
            _SYNONYMS.get(name, name) or operation.strip(),
            f"E{found.group(1)}" if found else id.strip(),
            clean_entry(without_label(text)),
            tuple(dict.fromkeys(targets)),
            tuple(sorted(set(sources))),
        )


@dataclass(frozen=True)
class RejectedEdit:
    """An edit that was not applied, and why."""

    edit: Edit
    """The edit as proposed."""
    reason: str
    """One sentence."""


def overlong(edits: Iterable[Edit], max_words: int) -> tuple[Edit, ...]:
    """The additions and modifications whose text has more words than this, in order."""
    return tuple(e for e in edits if e.operation in ("ADD", "MODIFY") and count_words(e.text) > max_words)
