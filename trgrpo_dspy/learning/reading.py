"""From the records of a reply to edits and decisions: the one place where texts become operations. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trgrpo_dspy.library.edits import Edit

from .reflection import Decision

if TYPE_CHECKING:
    from .group import RolloutGroup

__all__ = [
    "checked_edits",
    "decisions_of",
    "edit_of",
    "examples_of",
    "items_of",
    "names_of",
    "origins_of",
    "text_of",
]


def checked_edits(edits: Any, examples: Sequence[int]) -> tuple[Edit, ...]:
    """The edits a step returned; those without sources come from all of these examples."""
    found = tuple(edits) if isinstance(edits, Iterable) else (edits,)
    if wrong := [edit for edit in found if not isinstance(edit, Edit)]:
        raise TypeError(f"the reflector must return edits, got a {type(wrong[0]).__name__}; see Edit.parse(...)")
    return tuple(edit if edit.sources else replace(edit, sources=tuple(sorted(examples))) for edit in found)


def items_of(reply: Any) -> Sequence[Any]:
    """The records of a reply; none where there is no list."""
    return getattr(reply, "root", None) or ()


def text_of(value: Any) -> str:
    """The text of a reply, stripped; empty where it is none."""
    return value.strip() if isinstance(value, str) else ""


def edit_of(item: Any, sources: Sequence[int]) -> Edit:
    """An edit as a reply wrote it."""
    return Edit.parse(item.operation, item.id, item.text, names_of(item.predictors), sources)


def names_of(text: str) -> tuple[str, ...]:
    """Names of predictors, separated by commas; none for all."""
    parts = (re.sub(r"(?i)^\W*predictors?(:|\s)\s*(?=\S)", "", part) for part in re.split(r"[,;\n]", text))
    names = [part.strip().strip("`'\"()") for part in parts]
    return tuple(name for name in names if name and name.casefold() not in ("all", "none", "any", "empty"))


def _numbers(text: str, before: str = "") -> list[int]:
    return [int(n) for n in re.findall(rf"(?<![\w.]){before}(\d{{1,6}})(?![\w])", text)]


def examples_of(text: str, groups: Sequence[RolloutGroup]) -> list[int]:
    """The examples a proposal names, of those that were compared."""
    known = {group.example for group in groups}
    return sorted(known & set(_numbers(text)))


def origins_of(item: Any, proposals: Sequence[Edit], known: Collection[int]) -> list[int]:
    """The examples behind a planned edit: those it names of the known, those of its proposals, else of some like it."""
    examples = set(known) & set(_numbers(item.sources))
    numbers = set(_numbers(item.sources, "[Pp]") or ([] if known else _numbers(item.sources)))
    named = [p for i, p in enumerate(proposals, 1) if i in numbers]
    if not named and not examples:
        words = set(item.text.casefold().split())
        shared = [len(words & set(p.text.casefold().split())) for p in proposals]
        best = max(shared, default=0)
        named = [p for p, n in zip(proposals, shared, strict=True) if n == best and best > 0]
    return sorted(examples.union(*(p.sources for p in named)))


def decisions_of(items: Iterable[Any]) -> tuple[Decision, ...]:
    """Decisions, one for each example and entry that a record names."""
    found = []
    for item in items:
        for example in _numbers(item.example) or _numbers(item.example, "Example "):
            found += [
                Decision(example, f"E{n}", text_of(item.decision)) for n in re.findall(r"[1-9]\d{0,8}", item.entry)
            ]
    return tuple(dict.fromkeys(found))
