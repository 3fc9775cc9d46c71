"""SkillOpt's `best_skill.md`: a Markdown document; each item, paragraph, table or code of it is a piece of advice.

Guarantees: headings become sections; what stands in SkillOpt's protected region is pinned, and the other way round.
The format has no ids, steps or counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from trgrpo_dspy.library.entries import as_written
from trgrpo_dspy.library.experience import Experience
from trgrpo_dspy.library.library import ExperienceLibrary, numbered

from .document import PROTECTED, parse_document, write_into

__all__ = ["read_skill", "write_list", "write_skill"]


def read_skill(text: str) -> ExperienceLibrary:
    """The advice of a skill document, in order."""
    blocks = parse_document(text).blocks
    return numbered((0, block.text, {"pinned": block.protected, "section": block.section}) for block in blocks)


def write_skill(library: ExperienceLibrary, base: str = "") -> str:
    """The library as a skill document, or written into one."""
    if base.strip():
        return write_into(parse_document(base), library, _line)
    pinned = [_line(entry) for entry in library if entry.pinned]
    body = [*_sections([entry for entry in library if not entry.pinned]), "", PROTECTED[0], *pinned, PROTECTED[1]]
    return "\n".join(["# Skill", *body, ""])


def write_list(library: ExperienceLibrary, base: str = "") -> str:
    """The texts alone as a plain list under their headings, or written into a list."""
    if base.strip():
        document = parse_document(base)
        document.blocks = [replace(block, protected=False) for block in document.blocks if block.item]
        return write_into(document, [replace(e, pinned=False) for e in library], _line)
    return "\n".join([*_sections(list(library)), ""]).lstrip("\n")


def _sections(entries: list[Experience]) -> Iterator[str]:
    section = ""
    for entry in sorted(entries, key=lambda e: bool(e.section)):  # those without a heading come before all headings
        if entry.section != section:
            section = entry.section
            yield from ("", f"## {section}", "")
        yield _line(entry)


def _line(entry: Experience) -> str:
    return f"- {as_written(entry.text)}"
