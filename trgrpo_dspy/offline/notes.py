"""Reads the texts that reflection prompts show: tasks, attempts, numbered lessons and proposals, libraries.

Guarantees: pure functions; what does not have the expected form is left out, never guessed.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from dataclasses import dataclass

from .advice import Advice, read_sentence

__all__ = [
    "Attempt",
    "Entry",
    "Proposal",
    "majority",
    "read_attempts",
    "read_entries",
    "read_fields",
    "read_items",
    "read_proposals",
]

_FIELD = re.compile(r"^(\w[\w ]{0,40}):(?: (.*))?$")
_HEAD = re.compile(r"^Attempt (\d+) \(([^)\n]*)\)$", re.MULTILINE)
_PART = re.compile(r"^(Answer|Feedback|Failure|Summary|Transcript):(?: |$)", re.MULTILINE)
_FOR = re.compile(r" \(for: ([^()]*)\)$")


@dataclass(frozen=True)
class Attempt:
    """One attempt as a comparison shows it."""

    score: float | None
    """Its score, if the prompt gives one."""
    answer: dict[str, str]
    """Its output fields."""


@dataclass(frozen=True)
class Entry:
    """One experience of a library."""

    id: str
    """Such as `E7`."""
    targets: tuple[str, ...]
    """Predictors it is for; empty for all."""
    text: str
    """Its sentence."""
    advice: Advice | None
    """What it says, if it has quoted cues and speaks for one answer."""


@dataclass(frozen=True)
class Proposal:
    """One proposed edit."""

    number: str
    """Its number in the prompt."""
    operation: str
    """ADD, MODIFY or DELETE."""
    id: str
    """The entry it is about; empty for ADD."""
    entry: Entry
    """Its text, read as an entry."""


def read_fields(text: str) -> dict[str, str]:
    """`name: value` lines; indented lines belong to the value before."""
    fields: dict[str, str] = {}
    name = ""
    for line in text.split("\n"):
        if found := _FIELD.match(line):
            name = found.group(1)
            fields[name] = (found.group(2) or "").strip()
        elif name and line[:1] == " ":
            fields[name] = f"{fields[name]}\n{line.strip()}".strip()
    return fields


def read_attempts(text: str) -> list[Attempt]:
    """All attempts of a comparison, in order."""
    heads = list(_HEAD.finditer(text))
    ends = [h.start() for h in heads[1:]] + [len(text)]
    return [_attempt(h.group(2), text[h.end() : end]) for h, end in zip(heads, ends, strict=False)]


def _attempt(remark: str, body: str) -> Attempt:
    score = re.search(r"score (-?[\d.]+(?:e[-+]?\d+)?)", remark)
    parts = list(_PART.finditer(body))
    ends = [p.start() for p in parts[1:]] + [len(body)]
    answer = next((body[p.end() : e] for p, e in zip(parts, ends, strict=False) if p.group(1) == "Answer"), "")
    return Attempt(float(score.group(1)) if score else None, read_fields(textwrap.dedent(answer.strip("\n")).strip()))


def read_entries(text: str) -> list[Entry]:
    """The lines `[E1] text` or `[E1 | a, b] text` of a library."""
    found = re.findall(r"^\[(E\d+)(?: \| ([^\]]*))?\] (.+)$", text, re.MULTILINE)
    return [_entry(id, targets, body) for id, targets, body in found]


def _entry(id: str, targets: str, body: str) -> Entry:
    clauses = read_sentence(body, id=id)
    plain = len(clauses) == 1 and clauses[0].quoted and len(clauses[0].values) == 1
    names = tuple(name.strip() for name in targets.split(",") if name.strip())
    return Entry(id, names, body.strip(), clauses[0] if plain else None)


def read_items(text: str) -> list[tuple[str, Entry]]:
    """Numbered lines `1. text (for: name)`."""
    items = re.findall(r"^(\d+)\. (.+)$", text, re.MULTILINE)
    return [(number, _aimed(body)) for number, body in items]


def _aimed(body: str) -> Entry:
    found = _FOR.search(body)
    return _entry("", found.group(1) if found else "", _FOR.sub("", body))


def read_proposals(text: str) -> list[Proposal]:
    """Lines `P1. ADD: text`, `P2. MODIFY E3: text`, `P3. DELETE E4`."""
    found = re.findall(r"^P(\d+)\. (ADD|MODIFY|DELETE)(?: (E\d+))?(?:: (.+))?$", text, re.MULTILINE)
    return [Proposal(number, operation, id, _aimed(body)) for number, operation, id, body in found]


def majority(values: list[str]) -> str:
    """The most frequent value; the first of equals."""
    return Counter(values).most_common(1)[0][0] if values else ""
