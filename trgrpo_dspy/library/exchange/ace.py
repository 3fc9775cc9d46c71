"""ACE's playbook: bullets `[slug-00007] helpful=3 harmful=0 :: text` under headings.

Guarantees: the number of a bullet is the number of the entry, its counters and heading are kept; a text of several
lines is one entry. The format has no targets, steps or pins.
"""

from __future__ import annotations

import re
from dataclasses import replace

from trgrpo_dspy.library.entries import as_written
from trgrpo_dspy.library.experience import Experience
from trgrpo_dspy.library.library import ExperienceLibrary, numbered

from .document import Block, Document, write_into

__all__ = ["read_playbook", "write_playbook"]

_BULLET = re.compile(r"\s*(?:[-*]\s+)?\[([^\]\s]+)\]\s*(?:helpful=(\d+)\s+harmful=(\d+)\s*)?::\s?(.*)")
_SLUGS = {
    "financial_strategies_and_insights": "fin",
    "formulas_and_calculations": "calc",
    "code_snippets_and_templates": "code",
    "common_mistakes_to_avoid": "err",
    "problem_solving_heuristics": "prob",
    "context_clues_and_indicators": "ctx",
    "meta_strategies": "meta",
    "others": "misc",
}
_OTHERS = "OTHERS"


def read_playbook(text: str) -> ExperienceLibrary:
    """The bullets of a playbook; numbers that repeat or are no ids give way to the next ones."""
    document = _parse(text)
    found = []
    for block in document.blocks:
        id, helpful, harmful, _ = _bullet(document, block)
        number = re.search(r"(\d{1,9})$", id)
        counts = {"helpful": int(helpful or 0), "harmful": int(harmful or 0)}
        found.append((int(number[1]) if number else 0, block.text, {"section": block.section, **counts}))
    return numbered(found)


def write_playbook(library: ExperienceLibrary, base: str = "") -> str:
    """The library as a playbook, or written into one; counted support is added to the counters."""
    entries = [replace(e, section=e.section or _OTHERS, pinned=False) for e in library]
    document = _parse(base) if base.strip() else Document([])
    changed = {e.text: e for e in entries}
    for block in document.blocks:  # a bullet that stays shows the counters of its entry
        if entry := changed.get(block.text):
            id, _, _, text = _bullet(document, block)
            document.lines[block.start] = _line(entry, id, text)
    others = "" if _OTHERS in document.ends or any(e.section == _OTHERS for e in entries) else f"\n\n## {_OTHERS}\n"
    text = write_into(document, entries, _line)
    return (text.rstrip() + others if others else text).lstrip()


def _parse(text: str) -> Document:
    document, section = Document(text.removeprefix("\ufeff").splitlines()), ""
    last: Block | None = None
    for number, line in enumerate(document.lines):
        if line.lstrip().startswith("#"):
            section, last = (line.strip("# \t") if line.lstrip().startswith("##") else section), None
            document.ends[section] = number + 1
        elif bullet := _BULLET.match(line):
            last = Block(number, number + 1, [bullet[4]], section)
            document.blocks.append(last)
            document.ends[section] = number + 1
        elif line.strip() and last:
            last.lines += [*document.lines[last.end : number], line]
            last.end = document.ends[section] = number + 1
    return document


def _bullet(document: Document, block: Block) -> tuple[str, str | None, str | None, str]:
    """Id, counters and first line of a block's bullet."""
    found = _BULLET.match(document.lines[block.start])
    assert found is not None  # `_parse` begins a block there
    return found[1], found[2], found[3], found[4]


def _line(entry: Experience, id: str = "", text: str | None = None) -> str:
    id = id or f"{_slug(entry.section)}-{int(entry.id[1:]):05d}"
    helpful, harmful = entry.helpful + len(entry.support), entry.harmful + len(entry.against)
    return f"[{id}] helpful={helpful} harmful={harmful} :: {as_written(entry.text) if text is None else text}"


def _slug(section: str) -> str:
    name = re.sub(r"[\s-]+", "_", section.lower().replace("&", "and"))
    words = [word for word in name.split("_") if word]
    return _SLUGS.get(name) or (words[0][:4] if len(words) == 1 else "".join(w[0] for w in words[:5])) or "misc"
