"""A Markdown document as blocks of advice under headings, and a library written back into one.

Guarantees: a block that the library still holds keeps its lines as they are; headings, comments, rules and front matter
stay; what the library does not hold any more goes, what is new is added to its section.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from trgrpo_dspy.library.entries import clean_entry
from trgrpo_dspy.library.experience import Experience

__all__ = ["PROTECTED", "Block", "Document", "parse_document", "write_into"]

PROTECTED = ("<!-- SLOW_UPDATE_START -->", "<!-- SLOW_UPDATE_END -->")
"""SkillOpt's region that its own edits must not touch."""

_ITEM = re.compile(r"(\s*)(?:[-*+•]|\d{1,9}[.)])\s+(?=\S)")
_HEADING = re.compile(r"#{1,6}\s+(.*?)\s*#*\s*")
_RULE = re.compile(r"\s*([-*_])(?:\s*\1){2,}\s*")
_FENCE = re.compile(r"\s*(```|~~~)")


@dataclass
class Block:
    """A list item, a paragraph, a table or a code fence with what belongs to it."""

    start: int
    """Its first line, from 0."""
    end: int
    """The line after its last."""
    lines: list[str]
    """Its lines without the mark of a list."""
    section: str
    """The heading above it; empty under the title."""
    protected: bool = False
    """Whether it stands in the protected region."""
    item: bool = False
    """Whether it is an item of a list."""

    @property
    def text(self) -> str:
        """Its lines as the text of an entry."""
        return clean_entry("\n".join(self.lines))


@dataclass
class Document:
    """What a text holds beside its lines."""

    lines: list[str]
    """All lines."""
    blocks: list[Block] = field(default_factory=list)
    """The advice in it, in order."""
    ends: dict[str, int] = field(default_factory=dict)
    """For each section the line after its last block, or after its heading."""
    region: int | None = None
    """The line that closes the protected region."""


def parse_document(text: str) -> Document:
    """Find the blocks of a document."""
    document = Document(text.removeprefix("\ufeff").splitlines())
    number = _front_matter(document.lines)
    section, titled, protected = "", False, False
    document.ends[section] = number
    while number < len(document.lines):
        line = document.lines[number]
        if heading := _HEADING.fullmatch(line):
            section, titled = ("", True) if line.startswith("# ") and not titled else (heading[1], titled)
            number += 1
            if not protected:
                document.ends[section] = number
        elif not line.strip() or _RULE.fullmatch(line):
            number += 1
        elif line.lstrip().startswith("<!--"):
            protected = PROTECTED[0] in line if PROTECTED[0] in line or PROTECTED[1] in line else protected
            document.region = number if PROTECTED[1] in line else document.region
            number = _after_comment(document.lines, number)
        else:
            number = _add_block(document, number, section, protected)
    return document


def _front_matter(lines: list[str]) -> int:
    if lines[:1] == ["---"] and "---" in lines[1:]:
        return lines.index("---", 1) + 1
    return 0


def _after_comment(lines: list[str], number: int) -> int:
    return next((i + 1 for i in range(number, len(lines)) if "-->" in lines[i]), number + 1)


def _add_block(document: Document, number: int, section: str, protected: bool) -> int:
    """Take the block that begins at a line; returns the line after it."""
    lines, item = document.lines, _ITEM.match(document.lines[number])
    end = _after_fence(lines, number) if _FENCE.match(lines[number]) else number + 1
    while end < len(lines) and _goes_on(lines, number, end, item):
        end = _after_fence(lines, end) if _FENCE.match(lines[end]) else end + 1
    while not lines[end - 1].strip():
        end -= 1
    first = lines[number][item.end() :] if item else lines[number]
    block = Block(number, end, [first, *lines[number + 1 : end]], section, protected, item is not None)
    before = document.blocks[-1] if document.blocks else None
    if _FENCE.match(lines[number]) and before and (before.section, before.protected) == (section, protected):
        before.end, before.lines = end, [*before.lines, *block.lines]  # code belongs to the text that introduces it
    else:
        document.blocks.append(block)
    if not protected:
        document.ends[section] = end
    return end


def _goes_on(lines: list[str], start: int, number: int, item: re.Match[str] | None) -> bool:
    """Whether a line belongs to the block that began at `start`."""
    line = lines[number]
    if _FENCE.match(lines[start]) and not item:
        return False
    if item is None:
        structure = _HEADING.fullmatch(line) or _RULE.fullmatch(line) or _FENCE.match(line) or line.startswith("<!--")
        table = lines[start].lstrip().startswith("|") != line.lstrip().startswith("|")
        return bool(line.strip()) and not structure and not _ITEM.match(line) and not table
    deeper = len(line) - len(line.lstrip()) > len(item[1])
    if not line.strip():
        return any(_deeper(rest, item) for rest in lines[number + 1 : number + 2])
    if deeper:
        return True
    return bool(lines[number - 1].strip()) and not (
        _ITEM.match(line) or _HEADING.fullmatch(line) or _RULE.fullmatch(line) or line.startswith("<!--")
    )


def _deeper(line: str, item: re.Match[str]) -> bool:
    return bool(line.strip()) and len(line) - len(line.lstrip()) > len(item[1])


def _after_fence(lines: list[str], number: int) -> int:
    mark = _FENCE.match(lines[number])
    close = mark[1] if mark else ""
    return next((i + 1 for i in range(number + 1, len(lines)) if lines[i].strip().startswith(close)), len(lines))


def write_into(document: Document, entries: Iterable[Experience], line: Callable[[Experience], str]) -> str:
    """The document with these entries as its advice; new ones are written as `line` says."""
    new = list(entries)
    dropped: set[int] = set()
    for block in document.blocks:
        same = next((e for e in new if (e.text, e.pinned) == (block.text, block.protected)), None)
        if same:
            new.remove(same)
        elif block.text:
            dropped |= set(range(block.start, block.end))
    added: dict[int, list[str]] = {}
    below: dict[str, list[str]] = {}  # under headings that the document does not have yet
    for entry in new:
        line_number = document.region if entry.pinned else document.ends.get(entry.section)
        if line_number is not None:
            added.setdefault(line_number, []).append(line(entry))
        else:
            below.setdefault(PROTECTED[0] if entry.pinned else f"## {entry.section}", []).append(line(entry))
    lines: list[str] = []
    for number, old in enumerate([*document.lines, None]):
        lines += added.get(number, ())
        if old is not None and number not in dropped:
            lines.append(old)
    for heading, texts in below.items():
        lines += ["", heading, *texts, *(PROTECTED[1:] if heading == PROTECTED[0] else ())]
    return "\n".join(lines).rstrip() + "\n"
