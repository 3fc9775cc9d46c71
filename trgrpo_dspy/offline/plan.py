"""Edits of a library: lessons into proposals, proposals and evidence of many tasks into one plan, repairs.

Every answer has a board of cues. Each proposal, and each example of the evidence, that shows a cue with an answer
supports it there. A cue stays where it has most support. What is left is written as rules, best-supported cues first.

Guarantees: pure functions of the prompt; the library keeps `max_experiences` entries; entries this model can't read are
left as they are.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .advice import Rule
from .notes import Entry, read_entries, read_examples, read_proposals
from .text import content_words, root

__all__ = ["consolidate", "propose", "repair"]

_MEMORY = 1.0
"""Support that an existing entry gives its cues, as evidence of earlier steps; its first cues get up to twice that."""
_SOURCES = 12
"""Sources that an edit names at most."""
_DROPPED = "dropped because its words fit other answers"


def _edit(operation: str, id: str = "", text: str = "", targets: str = "", sources: str = "") -> dict[str, str]:
    return {"operation": operation, "id": id, "text": text, "predictors": targets, "sources": sources}


def propose(lessons: Iterable[Entry], entries: Sequence[Entry]) -> list[dict[str, str]]:
    """One edit for every lesson: what the library lacks of it is added."""
    edits = []
    for lesson in lessons:
        text, rule, sources = lesson.text, lesson.rule, lesson.sources or lesson.number
        own = [(e.id, r.cues) for e in entries if rule and (r := e.rule) and _key(r, e) == _key(rule, lesson)]
        new = [cue for cue in rule.cues if not any(cue in cues for _, cues in own)] if rule else []
        if rule and not new:
            edits.append(_edit("KEEP", own[0][0], "", lesson.targets, sources))
        else:
            edits.append(_edit("ADD", "", str(rule.fitted(new)) if rule else text, lesson.targets, sources))
    return edits


def repair(inputs: Mapping[str, str]) -> list[dict[str, str]]:
    """Cut each entry with a problem before the last of its cues that each counter-example shows."""
    entries = {entry.id: entry for entry in read_entries(inputs.get("experiences", ""))}
    edits = []
    for id, problem in re.findall(r"^\[(E\d+)\](.*(?:\n(?!\[E\d+\]).*)*)", inputs["problems"], re.MULTILINE):
        if id in entries and (rule := entries[id].rule):
            left = list(rule.cues)
            for example in read_examples(problem):
                shown = {root(word) for word in content_words(example.text)}
                left = left[: max((i for i, cue in enumerate(left) if root(cue) in shown), default=len(left))]
            text = str(rule.fitted(left)) if left else ""
            edits.append(_edit("MODIFY" if text else "DELETE", id, text, entries[id].targets))
    return edits


# -- consolidation ----------------------------------------------------------------------------------------------------

_Key = tuple[str, str, str]
"""Output field, predictors and answer of a board."""


def _key(rule: Rule, entry: Entry) -> _Key:
    return rule.field, entry.targets, rule.value


@dataclass
class _Board:
    """What speaks for one answer; cues by their roots."""

    rule: Rule
    entries: list[Entry] = field(default_factory=list)
    support: dict[str, float] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    sources: dict[str, dict[str, None]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, cues: Iterable[str], amount: float, *sources: str) -> None:
        for cue in cues:
            known = root(cue)
            self.words.setdefault(known, cue)
            self.support[known] = self.support.get(known, 0.0) + amount
            self.sources[known].update(dict.fromkeys(filter(None, sources)))

    def next_rule(self) -> tuple[str, str]:
        """The best-supported cues that fit, taken off the board, as a rule's text with its sources."""
        ranked = sorted(self.support, key=lambda cue: (-self.support[cue], -len(cue), cue))
        rule = self.rule.fitted(self.words[cue] for cue in ranked)
        used = ranked[: len(rule.cues)]
        self.support = {cue: self.support[cue] for cue in ranked[len(used) :]} if used else {}
        sources = dict.fromkeys(source for cue in used for source in self.sources[cue])
        return (str(rule) if used else ""), ", ".join(list(sources)[:_SOURCES])


def consolidate(inputs: Mapping[str, str]) -> dict[str, Any]:
    """One plan from all proposals and the evidence, if there is any: `reasoning`, `edits` and `dispositions`."""
    entries, proposals = read_entries(inputs.get("experiences", "")), read_proposals(inputs["proposals"])
    boards, other = _boards(entries, proposals)
    for example in read_examples(inputs.get("evidence", "")):
        for (name, _, value), board in boards.items():
            if example.expected.get(name) == value:
                board.add(content_words(example.text), 1.0, example.number)
    _settle(boards)
    stated = inputs.get("max_experiences", "")
    room = (int(stated) if stated.isdecimal() else 30) - sum(entry.rule is None for entry in entries)
    edits = [*_edits(boards, room), *other]
    used = {source for edit in edits for source in edit["sources"].split(", ")}
    went = [{"proposal": p.number, "outcome": "used" if p.number in used else _DROPPED} for p in proposals]
    reasoning = f"{len(proposals)} proposals for {len(boards)} answers; a word stays with the answer it fits most."
    return {"reasoning": reasoning, "edits": edits, "dispositions": went}


def _boards(entries: Sequence[Entry], proposals: Sequence[Entry]) -> tuple[dict[_Key, _Board], list[dict[str, str]]]:
    """Boards with what entries and proposals support, and edits for the proposals that no board can hold."""
    boards: dict[_Key, _Board] = {}
    known, other = {entry.id: entry for entry in entries}, []
    for entry in entries:
        if rule := entry.rule:
            board = boards.setdefault(_key(rule, entry), _Board(rule))
            board.entries.append(entry)
            for order, cue in enumerate(rule.cues, len(board.support)):
                board.add([cue], _MEMORY + 1.0 / (1 + 0.1 * order))
    for proposal in proposals:
        old, sources = known.get(proposal.id), (proposal.number, *proposal.sources.split(", "))
        target = replace(proposal, targets=old.targets) if old else proposal
        if rule := proposal.rule:
            boards.setdefault(_key(rule, target), _Board(rule)).add(rule.cues, 1.0, *sources)
        elif proposal.operation == "DELETE" and old and (rule := old.rule):
            boards[_key(rule, old)].add(rule.cues, -1.0, *sources)
        else:
            origin = ", ".join(filter(None, sources))
            other.append(_edit(proposal.operation, proposal.id, proposal.text, target.targets, origin))
    return boards, other


def _settle(boards: Mapping[_Key, _Board]) -> None:
    """Leave a cue where it has more support than for all other answers to the output together."""
    total: dict[tuple[str, str, str], float] = defaultdict(float)
    for key, board in boards.items():
        for cue, support in board.support.items():
            total[key[0], key[1], cue] += max(0.0, support)
    for key, board in boards.items():
        board.support = {c: s for c, s in board.support.items() if s > 0 and 2 * s > total[key[0], key[1], c]}


def _edits(boards: Mapping[_Key, _Board], room: int) -> list[dict[str, str]]:
    """Rules for all boards, a first one for each before a second for any, best-supported boards first."""
    ranked = sorted(boards.items(), key=lambda item: (-sum(item[1].support.values()), item[0]))
    rules: dict[_Key, list[tuple[str, str]]] = {key: [] for key, _ in ranked}
    while room > 0 and any(board.support for _, board in ranked):
        for key, board in ranked:
            if room > 0 and (rule := board.next_rule())[0]:
                rules[key].append(rule)
                room -= 1
    edits = []
    for key, board in ranked:
        new, old = rules[key], board.entries
        edits += [_edit("DELETE", entry.id) for entry in old[len(new) :]]
        pairs = zip(old, new, strict=False)
        edits += [_edit("MODIFY", e.id, text, key[1], sources) for e, (text, sources) in pairs if e.text != text]
        edits += [_edit("ADD", "", text, key[1], sources) for text, sources in new[len(old) :]]
    return edits
