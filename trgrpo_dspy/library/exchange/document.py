"""A Markdown document as blocks of advice under headings, and a library written back into one.

Guarantees: a block that the library still holds keeps its lines as they are; headings, comments, rules and front matter
stay; what the library does not hold any more goes, what is new is added to its section.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock

from trgrpo_dspy.library.entries import clean_entry
from trgrpo_dspy.library.experience import Experience

__all__ = ["PROTECTED", "Block", "Document", "parse_document", "write_into"]

PROTECTED = ("<!-- SLOW_UPDATE_START -->", "<!-- SLOW_UPDATE_END -->")
"""SkillOpt's region that its own edits must not touch."""

_MARK = re.compile(r"\s*(?:[-*+•]|\d{1,9}[.)])\s*")
_ADVICE = ("list_item_open", "paragraph_open", "fence", "table_open", "blockquote_open")


def _comment(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A rule for HTML comments alone; CommonMark's takes what follows a tag or an open comment for HTML too."""
    if not state.src.startswith("<!--", state.bMarks[start] + state.tShift[start]):
        return False
    if not silent:
        closed = (i + 1 for i in range(start, end) if "-->" in state.src[state.bMarks[i] : state.eMarks[i]])
        state.line = next(closed, start + 1)
        state.push("comment", "", 0).map = [start, state.line]
    return True


_MARKDOWN = MarkdownIt("zero").enable(["heading", "hr", "list", "fence", "table", "blockquote"])
_MARKDOWN.block.ruler.before("paragraph", "comment", _comment, {"alt": ["paragraph", "blockquote", "list"]})


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
    blocks: list[Block] = field(default_factory=list)
    """The advice in it, in order."""
    ends: dict[str, int] = field(default_factory=dict)
    """For each section the line after its last block, or after its heading."""
    region: int | None = None
    """The line that closes the protected region."""

    def add(self, block: Block, *, belongs: bool) -> None:
        """Take a block in; one that belongs to the text before it, such as code, becomes part of that."""
        while block.end > block.start + 1 and not self.lines[block.end - 1].strip():
            block.end, block.lines = block.end - 1, block.lines[:-1]
        before = self.blocks[-1] if self.blocks else None
        if belongs and before and (before.section, before.protected) == (block.section, block.protected):
            before.end, before.lines = block.end, [*before.lines, *block.lines]
        else:
            self.blocks.append(block)
        if not block.protected:
            self.ends[block.section] = block.end


def parse_document(text: str) -> Document:
    """Find the blocks of a document."""
    document = Document(text.removeprefix("\ufeff").splitlines())
    lines = document.lines
    front = lines.index("---", 1) + 1 if lines[:1] == ["---"] and "---" in lines[1:] else 0
    section, titled, protected = "", False, False
    document.ends[section] = front
    seen = ["" if i < front else re.sub(r"^(\s*)•(?=\s)", r"\1-", line) for i, line in enumerate(lines)]
    tokens = _MARKDOWN.parse("\n".join(seen))
    for index, token in enumerate(tokens):
        if token.map is None or token.level > (token.type == "list_item_open"):
            continue
        start, end = token.map
        item = token.type == "list_item_open"
        if token.type == "heading_open":
            heading = tokens[index + 1].content
            section, titled = ("", True) if token.tag == "h1" and not titled else (heading, titled)
            document.ends |= {} if protected else {section: end}
        elif token.type == "comment":
            for number in range(start, end):
                protected = PROTECTED[0] in lines[number] or (protected and PROTECTED[1] not in lines[number])
                document.region = number if PROTECTED[1] in lines[number] else document.region
        elif token.type in _ADVICE:
            first = _MARK.sub("", lines[start], count=1) if item else lines[start]
            block = Block(start, end, [first, *lines[start + 1 : end]], section, protected, item)
            document.add(block, belongs=token.type == "fence")
    return document


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
