"""A library as a Markdown list that people read and edit.

Guarantees: what `render_markdown` writes, `parse_markdown` reads back, every field of it; a plain list of anybody's is
read too; a line that can't be read is named by its number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .entries import as_written, clean_entry
from .ids import ID_PATTERN, number_of

if TYPE_CHECKING:
    from .experience import Experience

__all__ = ["Item", "Read", "list_items", "parse_markdown", "render_markdown", "stray_line"]

_ITEM = re.compile(r"(?P<indent> *)(?:[-*+•]|\d{1,9}[.)])(?:[ \t]+(?P<text>.*)|)")
_ID = re.compile(rf"(?:\*\*)?\[?({ID_PATTERN})(?:\][:.]?(?:\*\*)?|[:.](?:\*\*)?|\*\*:?)(?:\s+|$)")


def _numbers(value: str) -> tuple[int, ...]:
    return tuple(int(number) for number in value.split(",") if number.strip())


def _joined(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def _names(value: str) -> tuple[str, ...]:
    return tuple(re.findall(r"`([^`]+)`", value) or filter(None, map(str.strip, value.split(","))))


_NOTES: dict[str, tuple[str, Callable[[Any], str], Callable[[str], Any]]] = {
    "for": ("targets", lambda names: ", ".join(f"`{name}`" for name in names), _names),
    "pinned": ("pinned", lambda _: "yes", lambda value: value.casefold() in ("yes", "true", "")),
    "sources": ("sources", _joined, _numbers),
    "support": ("support", _joined, _numbers),
    "against": ("against", _joined, _numbers),
    "section": ("section", str, str),
    "helpful": ("helpful", str, int),
    "harmful": ("harmful", str, int),
    "added in step": ("created_step", str, int),
    "changed in step": ("updated_step", str, int),
}
"""What stands below an entry: the field of each note, how the note is written and how it is read."""
_NOTE = re.compile(rf"({'|'.join(_NOTES)}): ?(.*)", re.IGNORECASE)
_NEXT = re.compile(rf"next id: ({ID_PATTERN})", re.IGNORECASE)
_FENCE = re.compile(r" *(```|~~~)")


@dataclass
class Item:
    """An item of a list."""

    line: int
    """Its number in the text, from 1."""
    text: str
    """All of its lines."""
    section: str
    """The heading above it; a title is none."""
    notes: list[tuple[int, str]] = field(default_factory=list)
    """Items below it, with their line numbers."""


Read = tuple[str, str, dict[str, Any]]
"""An entry as a list has it: id, text and other fields."""


def render_markdown(entries: Iterable[Experience], next_id: int, banned: Iterable[str]) -> str:
    """The entries as a list, each with what is known of it in a list below it."""
    lines = ["# Experiences", ""]
    for entry in entries:
        lines.append(f"- [{entry.id}] {as_written(entry.text)}")
        for name, (attribute, write, _) in _NOTES.items():
            value = getattr(entry, attribute)
            if value != (entry.created_step if attribute == "updated_step" else type(value)()):
                lines.append(f"  - {name}: {write(value)}")
    if texts := [f"- {as_written(text)}" for text in banned]:
        lines += ["", "## Banned", "", *texts]
    return "\n".join([*lines, "", f"Next id: E{next_id}", ""])


def parse_markdown(text: str) -> tuple[tuple[Read, ...], int, tuple[str, ...]]:
    """What a list has of a library: entries, next id, banned texts.

    Headings and paragraphs are no entries, a code fence belongs to the item before it.
    """
    stated = max((number_of(m[1]) for m in map(_NEXT.fullmatch, map(str.strip, text.splitlines())) if m), default=1)
    advice: list[Item] = []
    banned: list[Item] = []
    for item in list_items(text):
        (banned if item.section.casefold() == "banned" else advice).append(item)
    ids = [m[1] if (m := _ID.match(item.text)) else "" for item in advice]
    next_id = max([stated, *(number_of(id) + 1 for id in ids if id)])
    entries: dict[str, Read] = {}
    for item, id in zip(advice, ids, strict=True):
        if not id:
            id, next_id = f"E{next_id}", next_id + 1
        entry = _entry(item, id)
        if id in entries:
            raise ValueError(f"line {item.line}: the id {id} stands twice; give one of them another, or none")
        entries[id] = entry
    return tuple(entries.values()), next_id, tuple(filter(None, (clean_entry(item.text) for item in banned)))


def stray_line(text: str) -> int:
    """The number of the first line that is neither heading nor part of an item; 0 if there is none."""
    stray: list[int] = []
    list_items(text, stray)
    return min(stray, default=0)


def list_items(text: str, stray: list[int] | None = None) -> list[Item]:
    """The outermost items of all lists in a text; lines below an item that start none are part of it.

    The numbers of lines with text that are part of nothing are added to `stray`.
    """
    items: list[Item] = []
    section, fence, outer, blank = "", "", -1, True
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        line = line.expandtabs(4)
        mark = _FENCE.match(line)
        if not fence and _NEXT.fullmatch(line.strip()):  # also where the empty line before it went in editing
            outer = -1
            continue
        if mark and fence in ("", mark[1]):
            fence = "" if fence else mark[1]
        elif not fence and line.startswith("#"):
            section, outer = line.strip("# ") if line.startswith("##") else "", -1
            continue
        found = None if fence or mark else _ITEM.fullmatch(line)
        if found and (outer < 0 or len(found["indent"]) <= outer):
            outer = len(found["indent"])
            items.append(Item(number, found["text"] or "", section))
        elif found and _NOTE.fullmatch(found["text"] or ""):
            items[-1].notes.append((number, found["text"]))
        elif outer >= 0 and line.strip() and (fence or mark or not blank or len(line) - len(line.lstrip()) > outer):
            items[-1].text += "\n" + line
        elif stray is not None and line.strip():
            stray.append(number)
        blank = not line.strip()
    return items


def _entry(item: Item, id: str) -> Read:
    label = _ID.match(item.text)
    if not label and re.match(r"\[E\d+(?!\d*\])", item.text):
        raise ValueError(f"line {item.line}: {item.text[:20]!r} begins an id that is not closed; write '[E7] text'")
    text = clean_entry(item.text[label.end() :] if label else item.text)
    if not text:
        raise ValueError(f"line {item.line}: the entry has no text; write it after the id, or remove the line")
    changes: dict[str, Any] = {"section": item.section}
    for number, note in item.notes:
        name, value = _NOTE.fullmatch(note).groups()  # type: ignore[union-attr]
        try:
            attribute, _, read = _NOTES[name.casefold()]
            changes[attribute] = read(value.strip())
        except ValueError:
            raise ValueError(f"line {number}: {note[:60]!r} can't be read; write numbers with commas") from None
    changes.setdefault("updated_step", changes.get("created_step", 0))
    return id, text, changes
