"""Advice in plain sentences: which words speak for which answer.

This model writes its own advice in one form, "When the note mentions 'a' or 'b', choose crew 'x'." (`Rule`). It follows
any advice in the instructions that names an answer, whoever wrote it (`read_advice`).

Guarantees: pure functions; a sentence that names no answer is no advice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from .text import content_words

__all__ = ["Advice", "Rule", "read_advice", "read_rule"]

_MAX_CHARS, _MAX_WORDS = 190, 32
_RULE = re.compile(r"When the ([\w ]+?) mentions ('.+?'), choose (?:(\w+) )?'([^']+)'\.")
_QUOTED = re.compile(r"(?<![\w'])'([^'\n]{1,80})'(?!\w)|\"([^\"\n]{1,160})\"|`([^`\n]{1,160})`")
_ID = re.compile(r"^\s*\[(\w+)(?: \| [^\]]*)?\]\s*")
_NEGATION = re.compile(r"\b(?:not|never|avoid|rather than|instead of|don't)\b[^'\"`;,]*$", re.IGNORECASE)
_FRAMING = "answer choose contain contains input label mention mentioned mentions pick reply select"
_FRAME = frozenset(_FRAMING.split())
"""Words that hold a condition and a decision together and are neither."""


@dataclass(frozen=True)
class Rule:
    """One piece of advice as this model writes it."""

    subject: str
    """What the program is given, such as `note`."""
    cues: tuple[str, ...]
    """Words that make it apply, most telling first."""
    field: str
    """The output field it is about; may be empty."""
    value: str
    """The answer it speaks for."""

    def fitted(self, cues: Iterable[str]) -> Rule:
        """The rule with as many of these cues as the bounds of an entry allow; maybe none."""
        kept = list(cues)
        while kept and (len(str(replace(self, cues=tuple(kept)))) > _MAX_CHARS or len(kept) > _MAX_WORDS - 10):
            kept.pop()
        return replace(self, cues=tuple(kept))

    def __str__(self) -> str:
        quoted = [f"'{cue}'" for cue in self.cues]
        listed = " or ".join(filter(None, [", ".join(quoted[:-1]), *quoted[-1:]]))
        return " ".join(f"When the {self.subject} mentions {listed}, choose {self.field} '{self.value}'.".split())


def read_rule(text: str) -> Rule | None:
    """A sentence that this model may have written; None for others."""
    found = _RULE.fullmatch(text.strip())
    return Rule(found[1], tuple(re.findall(r"'([^']+)'", found[2])), found[3] or "", found[4]) if found else None


@dataclass(frozen=True)
class Advice:
    """What one clause of any text says about answers."""

    cues: tuple[str, ...]
    """Words or phrases that make it apply, most telling first."""
    quoted: bool
    """Whether the cues stood in quotation marks; else they are the content words of the clause."""
    values: Mapping[str, bool]
    """Answers it names, with whether it speaks for them."""
    id: str
    """The id its line begins with, such as `E7`; may be empty."""


def read_advice(text: str, values: Sequence[str], name: str, fields: Sequence[str]) -> list[Advice]:
    """All advice in a text about the allowed values of an output; advice that names another output does not count."""
    known = {value.casefold(): value for value in values}
    mention, output = _any_of(sorted(values, key=len, reverse=True)), _any_of(fields)
    found = []
    for line in text.split("\n"):
        head = _ID.match(line)
        for clause in re.split(r"(?<=[.!?])\s+(?=[A-Z\[\"'])|;", line[head.end() if head else 0 :]):
            quotes = [next(filter(None, quote.groups())).casefold() for quote in _QUOTED.finditer(clause)]
            cues = [quote for quote in quotes if quote not in known]
            bare = _QUOTED.sub(lambda quote: quote[0] if quote[0][1:-1].casefold() in known else "", clause)
            named = {known[m[0].casefold()]: not _negated(bare[: m.start()]) for m in mention.finditer(bare)}
            about = output.findall(bare)
            if named and (not about or name in about):
                skip = {*_FRAME, *content_words(" ".join([*named, *fields]).replace("_", " "))}
                words = cues or [word for word in content_words(bare) if word not in skip]
                found.append(Advice(tuple(dict.fromkeys(words)), bool(cues), named, head[1] if head else ""))
    return found


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, texts)) or '(?!)'})(?![\w-])", re.IGNORECASE)


def _negated(before: str) -> bool:
    return _NEGATION.search(before.rstrip("'\"`")) is not None
