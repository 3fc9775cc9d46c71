"""Edits of a library: lessons into proposals, proposals and evidence of many tasks into one plan, repairs.

Every answer has a board of cues. Each proposal, and each example of the evidence, that shows a cue with an answer
supports it there; each proposal that drops it speaks against it. A cue stays where it has most support. What is left
is written as rules again, best-supported cues first.

Guarantees: pure functions of the prompt; the library keeps `max_experiences` entries; entries this model can't read are
left as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .advice import Rule
from .notes import Entry, Example, read_entries, read_examples, read_proposals
from .text import content_words, root

__all__ = ["consolidate", "propose", "repair"]

_MEMORY = 1.0
"""Support that an existing entry gives its cues, as evidence of earlier steps; its first cues get up to twice that."""
_SOURCES = 12
"""Sources that an edit names at most."""


def _edit(operation: str, id: str = "", text: str = "", targets: str = "", sources: str = "") -> dict[str, str]:
    return {"operation": operation, "id": id, "text": text, "predictors": targets, "sources": sources}


def propose(lessons: Iterable[Entry], entries: Sequence[Entry]) -> list[dict[str, str]]:
    """One edit for every lesson: what the library lacks of it is added."""
    edits = []
    for lesson in lessons:
        text, rule, sources = lesson.text, lesson.rule, lesson.sources or lesson.number
        if rule:
            own = [(e.id, r.cues) for e in entries if (r := e.rule) and _key(r, e) == _key(rule, lesson)]
            new = [cue for cue in rule.cues if not any(cue in cues for _, cues in own)]
            if not new:
                edits.append(_edit("KEEP", own[0][0], "", lesson.targets, sources))
                continue
            text = str(rule.fitted(new))
        edits.append(_edit("ADD", "", text, lesson.targets, sources))
    return edits


def repair(inputs: Mapping[str, str]) -> list[dict[str, str]]:
    """Take from each entry with a problem the last of its cues that each counter-example shows."""
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
"""Output field, answer and predictors of a board."""


def _key(rule: Rule, entry: Entry) -> _Key:
    return rule.field, rule.value, entry.targets


@dataclass
class _Board:
    """What speaks for one answer; cues by their roots."""

    rule: Rule
    ids: list[str] = field(default_factory=list)
    support: dict[str, float] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    sources: dict[str, dict[str, None]] = field(default_factory=dict)

    def add(self, cues: Iterable[str], amount: float, *sources: str) -> None:
        for cue in cues:
            known = root(cue)
            self.words.setdefault(known, cue)
            self.support[known] = self.support.get(known, 0.0) + amount
            self.sources.setdefault(known, {}).update(dict.fromkeys(filter(None, sources)))


class _Boards:
    """All boards of a plan, and the proposals that no board can hold."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.boards: dict[_Key, _Board] = {}
        self.entries = {entry.id: entry for entry in entries}
        self.other: list[dict[str, str]] = []
        for entry in entries:
            if rule := entry.rule:
                board = self._of(rule, entry)
                board.ids.append(entry.id)
                for order, cue in enumerate(rule.cues, len(board.support)):
                    board.add([cue], _MEMORY + 1.0 / (1 + 0.1 * order))

    def _of(self, rule: Rule, entry: Entry) -> _Board:
        return self.boards.setdefault(_key(rule, entry), _Board(rule))

    def count(self, proposal: Entry) -> None:
        """Let a proposal speak for the cues it names and against those it drops."""
        old, new = self.entries.get(proposal.id), proposal.rule
        dropped = old.rule if old and proposal.operation != "ADD" else None
        sources = (proposal.number, *proposal.sources.split(", "))
        if dropped and old:
            kept = new.cues if new and new.value == dropped.value else ()
            self._of(dropped, old).add([cue for cue in dropped.cues if cue not in kept], -1.0, *sources)
        if new:
            known = dropped.cues if dropped and dropped.value == new.value else ()
            target = replace(proposal, targets=old.targets if old else proposal.targets)
            self._of(new, target).add([cue for cue in new.cues if cue not in known], 1.0, *sources)
        elif not dropped:
            text, origin = proposal.text, ", ".join(filter(None, sources))
            self.other.append(_edit(proposal.operation, proposal.id, text, proposal.targets, origin))

    def witness(self, example: Example) -> None:
        """Let an example speak for the cues it shows with its expected answer."""
        for (name, value, _), board in self.boards.items():
            if example.expected.get(name) == value:
                board.add(content_words(example.text), 1.0, example.number)

    def settle(self) -> None:
        """Leave a cue where it has more support than for all other answers to the field together."""
        total: dict[tuple[str, str, str], float] = {}
        for (name, _, targets), board in self.boards.items():
            for cue, support in board.support.items():
                total[name, targets, cue] = total.get((name, targets, cue), 0.0) + max(0.0, support)
        for (name, _, targets), board in self.boards.items():
            board.support = {c: s for c, s in board.support.items() if s > 0 and 2 * s > total[name, targets, c]}

    def edits(self, room: int) -> list[dict[str, str]]:
        """Rules for all boards, a first one for each before a second for any, best-supported boards first."""
        ranked = sorted(self.boards.items(), key=lambda item: (-sum(item[1].support.values()), item[0]))
        waiting = {
            key: [cue for _, _, cue in sorted((-s, -len(c), c) for c, s in b.support.items())] for key, b in ranked
        }
        rules: dict[_Key, list[tuple[str, str]]] = {key: [] for key, _ in ranked}
        while room > 0 and any(waiting.values()):
            for key, board in ranked:
                rule = board.rule.fitted(board.words[cue] for cue in waiting[key])
                used, waiting[key] = waiting[key][: len(rule.cues)], waiting[key][len(rule.cues) :] if rule.cues else []
                if used and room > 0:
                    sources = dict.fromkeys(source for cue in used for source in board.sources[cue])
                    rules[key].append((str(rule), ", ".join(list(sources)[:_SOURCES])))
                    room -= 1
        return [edit for key, board in ranked for edit in self._changes(key, board, rules[key])] + self.other

    def _changes(self, key: _Key, board: _Board, rules: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
        """Edits that turn a board's entries into its new rules."""
        gone = [_edit("DELETE", id) for id in board.ids[len(rules) :]]
        changed = [
            _edit("MODIFY", id, text, key[2], sources)
            for id, (text, sources) in zip(board.ids, rules, strict=False)
            if self.entries[id].text != text
        ]
        return [*gone, *changed, *(_edit("ADD", "", text, key[2], s) for text, s in rules[len(board.ids) :])]


def consolidate(inputs: Mapping[str, str]) -> dict[str, Any]:
    """One plan from all proposals and the evidence, if there is any: `reasoning`, `edits` and `dispositions`."""
    entries, proposals = read_entries(inputs.get("experiences", "")), read_proposals(inputs["proposals"])
    examples = read_examples(inputs.get("evidence", ""))
    boards = _Boards(entries)
    for proposal in proposals:
        boards.count(proposal)
    for example in examples:
        boards.witness(example)
    boards.settle()
    stated = inputs.get("max_experiences", "")
    edits = boards.edits((int(stated) if stated.isdecimal() else 30) - sum(entry.rule is None for entry in entries))
    used = {source for edit in edits for source in edit["sources"].split(", ")}
    outcomes = {
        p.number: "used" if p.number in used else "dropped because its words fit other answers" for p in proposals
    }
    return {
        "reasoning": f"A word stays with the answer it fits most, by {len(examples)} examples.",
        "edits": edits,
        "dispositions": [{"proposal": number, "outcome": outcome} for number, outcome in outcomes.items()],
    }
