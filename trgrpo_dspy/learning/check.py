"""Lessons are checked before they count: what the library decides for labelled examples, against the labels.

The reflection model applies the library to examples to the letter. Where the labels are a small set of values it does
not see them and the code compares; else it is shown the expected answer and says which entries lead there. Support
and contradictions are counted in code, per entry. Pure functions: no LM.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trgrpo_dspy.library.edits import Edit
from trgrpo_dspy.library.entries import count_tokens
from trgrpo_dspy.library.library import ExperienceLibrary

from .rendering import example_block

if TYPE_CHECKING:
    from .cases import Case
    from .reflection import Decision

__all__ = ["Findings", "Verified", "batches", "closed_labels", "count", "problems_text"]

_PER_CALL = 30
"""Examples of one call: the reply names each example at least once."""
_SHOWN = 4
"""Counter-examples of one entry that a repair is shown."""


_ByEntry = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Findings:
    """What a check found."""

    supported: Mapping[str, tuple[int, ...]]
    """Examples that each entry decided rightly, by id."""
    contradicted: Mapping[str, tuple[int, ...]]
    """Examples that each entry decided wrongly, by id."""
    uncovered: tuple[int, ...]
    """Examples that no entry decided."""
    disagreeing: tuple[tuple[str, str], ...]
    """Pairs of entries that decided an example differently."""
    decisions: Mapping[tuple[str, int], str]
    """What each entry decided for each example."""
    unclear: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Examples that do not tell whether each entry applies, by id."""

    def has_seen(self, entry: str) -> bool:
        """Whether an entry decided any example."""
        return entry in self.supported or entry in self.contradicted

    def updated(self, later: Findings, entries: Collection[str]) -> Findings:
        """These findings, with those of a later look at some entries in place of their own."""

        def mixed(mine: _ByEntry, other: _ByEntry) -> dict[str, tuple[int, ...]]:
            kept = {id: found for id, found in mine.items() if id not in entries}
            return kept | {id: found for id, found in other.items() if id in entries}

        decisions = {key: d for key, d in self.decisions.items() if key[0] not in entries}
        decisions |= {key: d for key, d in later.decisions.items() if key[0] in entries}
        return Findings(
            mixed(self.supported, later.supported),
            mixed(self.contradicted, later.contradicted),
            self.uncovered,
            self.disagreeing,
            decisions,
            mixed(self.unclear, later.unclear),
        )

    def is_unclear(self, entry: str) -> bool:
        """Whether it is unclear for more examples than it decides if an entry applies."""
        decided = len(self.supported.get(entry, ())) + len(self.contradicted.get(entry, ()))
        return len(self.unclear.get(entry, ())) > decided

    def is_wrong(self, entry: str) -> bool:
        """Whether an entry decided more examples wrongly than rightly."""
        return len(self.contradicted.get(entry, ())) > len(self.supported.get(entry, ()))


@dataclass(frozen=True)
class Verified:
    """What became of a draft."""

    draft: ExperienceLibrary
    """The draft after repairs."""
    findings: Findings
    """What the last check found."""
    repaired: tuple[Edit, ...] = ()
    """Repairs that took effect."""
    refused: tuple[tuple[str, str], ...] = ()
    """Ids of new or changed entries that must not count, with reasons."""
    lost: tuple[str, ...] = ()
    """Replies that could not be used."""


def closed_labels(labels: Sequence[str], allowed: Sequence[str] = ()) -> frozenset[str]:
    """The labels as a closed set of answers: few short values that recur; empty if they are no such set.

    Values that the program may answer (`allowed`) belong to the set, whether a label has them or not.
    """
    known = {_normal(label) for label in labels if label}
    if not known or len(known) > max(2, min(30, len(labels) // 2)) or any(len(label) > 60 for label in known):
        return frozenset()
    return frozenset(known.union(map(_normal, allowed)))


def batches(cases: Sequence[Case], max_tokens: int, blind: bool) -> list[tuple[tuple[Case, ...], str]]:
    """Cases cut into calls of at most `max_tokens` and `_PER_CALL` examples: those of each call, and their text."""
    found: list[tuple[tuple[Case, ...], str]] = []
    now: list[Case] = []
    texts: list[str] = []
    for case in cases:
        text = example_block(case.example, case.task, case.observed, "" if blind else case.expected)
        if now and (len(now) >= _PER_CALL or count_tokens("\n\n".join([*texts, text])) > max_tokens):
            found.append((tuple(now), "\n\n".join(texts)))
            now, texts = [], []
        now.append(case)
        texts.append(text)
    return [*found, (tuple(now), "\n\n".join(texts))] if now else found


def count(
    decisions: Iterable[Decision], cases: Sequence[Case], library: ExperienceLibrary, labels: frozenset[str]
) -> Findings:
    """Hold decisions against the labels.

    Args:
        decisions: What the entries were read to decide.
        cases: The examples that were shown.
        library: The library; decisions of other entries are dropped.
        labels: The closed set of answers; empty where decisions are 'supports', 'contradicts' or 'silent'.
    """
    of = {case.example: case for case in cases}
    ids = {entry.id for entry in library}
    right: dict[str, set[int]] = defaultdict(set)
    wrong: dict[str, set[int]] = defaultdict(set)
    unclear: dict[str, set[int]] = defaultdict(set)
    said: dict[int, dict[str, str]] = defaultdict(dict)
    for d in decisions:
        if d.example not in of or d.entry not in ids:
            continue
        if _normal(d.decision).startswith("unclear"):
            unclear[d.entry].add(d.example)
        elif answer := _answer(d.decision, labels):
            known = said[d.example].setdefault(d.entry, answer)
            if known != answer:
                said[d.example][d.entry] = ""  # it was read to decide both: it decides neither
    for example, by in said.items():
        for entry, answer in by.items():
            if answer:
                fits = answer == _normal(of[example].label) if labels else answer == "supports"
                (right if fits else wrong)[entry].add(example)
    said = {example: clear for example, by in said.items() if (clear := {e: a for e, a in by.items() if a})}
    return Findings(
        {id: tuple(sorted(found)) for id, found in sorted(right.items())},
        {id: tuple(sorted(found)) for id, found in sorted(wrong.items())},
        tuple(case.example for case in cases if case.example not in said),
        _disagreements(said),
        {(entry, example): decision for example, by in said.items() for entry, decision in by.items()},
        {id: tuple(sorted(found)) for id, found in sorted(unclear.items())},
    )


def _answer(decision: str, labels: frozenset[str]) -> str:
    """The one answer that a decision names, or 'supports' or 'contradicts'; empty if it decides nothing."""
    text = _normal(decision)
    if not labels:
        word = re.match(r"\w*", text)
        return word.group() if word and word.group() in ("supports", "contradicts") else ""
    if text in labels:
        return text
    named = {known for known in labels if re.search(rf"(?<!\w){re.escape(known)}(?!\w)", text)}
    return named.pop() if len(named) == 1 else ""


def _normal(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().strip().strip("'\"`.").strip()


def _disagreements(said: Mapping[int, Mapping[str, str]]) -> tuple[tuple[str, str], ...]:
    pairs = {(a, b) for by in said.values() for a in by for b in by if int(a[1:]) < int(b[1:]) and by[a] != by[b]}
    return tuple(sorted(pairs, key=lambda pair: (int(pair[0][1:]), int(pair[1][1:]))))


def problems_text(
    library: ExperienceLibrary,
    ids: Iterable[str],
    findings: Findings,
    cases: Sequence[Case],
    too_long: Mapping[str, str],
) -> str:
    """What is wrong with entries, with the counter-examples: what a repair is shown."""
    of = {case.example: case for case in cases}

    def shown(id: str, examples: Sequence[int]) -> Iterator[str]:
        for case in (of[example] for example in examples[:_SHOWN]):
            decided = findings.decisions.get((id, case.example), "")
            more = (f"What {id} decides", decided)
            yield example_block(case.example, case.task, case.observed, case.expected, more)

    parts = []
    for id in ids:
        against, support = findings.contradicted.get(id, ()), findings.supported.get(id, ())
        lines = [f"[{id}] {too_long[id]}"] if id in too_long else []
        if against:
            lines.append(f"[{id}] decides {len(against)} of {len(against) + len(support)} examples wrongly:")
            lines += shown(id, against)
        if findings.is_unclear(id):
            lines.append(f"[{id}] is unclear: its words do not tell whether it applies to these examples:")
            lines += shown(id, findings.unclear[id])
        parts.append("\n".join(lines))
    return "\n\n".join(filter(None, parts))
