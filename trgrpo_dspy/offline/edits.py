"""Edits of a library: lessons into proposals, proposals of many comparisons into one plan.

The plan is where evidence from many tasks meets. Every answer has a board of cues; each proposal that names a cue for
an answer supports it there, each that drops it speaks against. A cue stays where it has most support. What is left is
written as sentences again, best-supported cues first.

Guarantees: pure functions of the prompt; a planned text keeps 32 words and 190 characters, the whole library
`max_experiences` entries and 6,000 characters; entries this model can't read are left as they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from .advice import Advice, write_sentence
from .notes import Entry, Proposal, read_entries, read_items, read_proposals
from .text import root

__all__ = ["consolidate", "propose"]

_MAX_CHARS = 5900
_MEMORY = 1.0
_Key = tuple[str, str, tuple[str, ...]]
_Edit = dict[str, str]


def propose(inputs: dict[str, str]) -> list[_Edit]:
    """One edit for every lesson, and one for every experience it says misleads."""
    entries = read_entries(inputs.get("experiences", ""))
    edits: list[_Edit] = []
    for number, lesson in read_items(inputs["lessons"]):
        if lesson.advice is None:
            edits.append(_edit("ADD", text=lesson.text, targets=lesson.targets, proposals=number))
            continue
        edits.append(_learn(lesson, lesson.advice, entries, number))
        for id, cues in lesson.advice.misleading.items():
            edits += _unlearn(id, cues, entries, number)
    return edits


def _edit(operation: str, id: str = "", text: str = "", targets: Sequence[str] = (), proposals: str = "") -> _Edit:
    return {"operation": operation, "id": id, "text": text, "predictors": ", ".join(targets), "proposals": proposals}


def _subject(text: str) -> str:
    found = re.match(r"When the ([\w ]+?) mentions ", text)
    return found.group(1) if found else "task"


def _learn(lesson: Entry, advice: Advice, entries: Sequence[Entry], number: str) -> _Edit:
    own = [
        e
        for e in entries
        if e.advice and (e.advice.field, e.advice.values, e.targets) == (advice.field, advice.values, lesson.targets)
    ]
    known = {cue for e in own if e.advice for cue in e.advice.cues}
    new = [cue for cue in advice.cues if cue not in known]
    if own and not new:
        return _edit("KEEP", own[0].id, proposals=number)
    for entry in own:
        cues = [*(entry.advice.cues if entry.advice else ()), *new]
        text = write_sentence(_subject(entry.text), cues, advice.field, advice.values[0])
        if f"'{cues[-1]}'" in text:
            return _edit("MODIFY", entry.id, text, lesson.targets, number)
    return _edit(
        "ADD",
        text=write_sentence(_subject(lesson.text), new, advice.field, advice.values[0]),
        targets=lesson.targets,
        proposals=number,
    )


def _unlearn(id: str, cues: Sequence[str], entries: Sequence[Entry], number: str) -> list[_Edit]:
    entry = next((e for e in entries if e.id == id and e.advice), None)
    if entry is None or entry.advice is None:
        return []
    left = [cue for cue in entry.advice.cues if cue not in cues]
    if not left:
        return [_edit("DELETE", id, proposals=number)]
    text = write_sentence(_subject(entry.text), left, entry.advice.field, entry.advice.values[0])
    return [_edit("MODIFY", id, text, entry.targets, number)]


@dataclass
class _Board:
    """What speaks for one answer."""

    subject: str = "task"
    ids: list[str] = field(default_factory=list)
    support: dict[str, float] = field(default_factory=dict)
    shown: dict[str, str] = field(default_factory=dict)
    proposals: dict[str, None] = field(default_factory=dict)

    def add(self, cue: str, amount: float) -> None:
        key = " ".join(root(w) for w in cue.split())
        self.support[key] = self.support.get(key, 0.0) + amount
        self.shown.setdefault(key, cue)


def consolidate(inputs: dict[str, str]) -> list[_Edit]:
    """One plan from all proposals."""
    entries = read_entries(inputs.get("experiences", ""))
    stated = inputs.get("max_experiences", "30")
    room = int(stated) if stated.isdigit() else 30
    boards: dict[_Key, _Board] = {}
    for entry in entries:
        if entry.advice:
            _remember(_board(boards, entry, entry.advice), entry, entry.advice)
    other = _collect(boards, read_proposals(inputs["proposals"]), {e.id: e for e in entries})
    _settle(boards)
    fixed = [e for e in entries if e.advice is None]
    other = other[: max(0, room - len(fixed))]
    budget = _MAX_CHARS - sum(len(e.text) + 8 for e in fixed) - sum(len(e["text"]) + 8 for e in other)
    return [*_write(boards, entries, room - len(fixed) - len(other), budget), *other]


def _board(boards: dict[_Key, _Board], entry: Entry, advice: Advice) -> _Board:
    board = boards.setdefault((advice.field, advice.values[0], entry.targets), _Board())
    if board.subject == "task":
        board.subject = _subject(entry.text)
    return board


def _remember(board: _Board, entry: Entry, advice: Advice) -> None:
    """What the library holds counts as evidence of earlier steps, its first cues most."""
    board.ids.append(entry.id)
    start = len(board.support)
    for order, cue in enumerate(advice.cues):
        board.add(cue, _MEMORY + 1.0 / (1 + 0.1 * (start + order)))


def _collect(boards: dict[_Key, _Board], proposals: Sequence[Proposal], entries: dict[str, Entry]) -> list[_Edit]:
    """Count the proposals on the boards; returns those that no board can hold."""
    other: list[_Edit] = []
    for p in proposals:
        old, new = entries.get(p.id), p.entry
        if p.operation == "ADD" and new.advice:
            _count(_board(boards, new, new.advice), new.advice.cues, 1.0, p)
        elif p.operation == "ADD":
            other.append(_edit("ADD", text=new.text, targets=new.targets, proposals=p.number))
        elif old is None or old.advice is None:
            other.append(_edit(p.operation, p.id, new.text, new.targets, p.number))
        else:
            board = _board(boards, old, old.advice)
            after = new.advice.cues if new.advice and new.advice.values == old.advice.values else ()
            _count(board, [c for c in after if c not in old.advice.cues], 1.0, p)
            _count(board, [c for c in old.advice.cues if c not in after], -1.0, p)
            if p.operation == "MODIFY" and new.advice and not after:
                _count(_board(boards, new, new.advice), new.advice.cues, 1.0, p)
    return other


def _count(board: _Board, cues: Sequence[str], amount: float, proposal: Proposal) -> None:
    for cue in cues:
        board.add(cue, amount)
    if cues:
        board.proposals[proposal.number] = None


def _settle(boards: dict[_Key, _Board]) -> None:
    """Leave a cue where it has more support than for all other answers to the field together."""
    for (name, _, targets), board in boards.items():
        rivals = [b for (n, _, t), b in boards.items() if n == name and t == targets and b is not board]
        for cue in list(board.support):
            against = sum(max(0.0, b.support.get(cue, 0.0)) for b in rivals)
            if board.support[cue] <= against:
                board.shown.pop(cue, None)
    for board in boards.values():
        board.support = {cue: s for cue, s in board.support.items() if cue in board.shown}


def _write(boards: dict[_Key, _Board], entries: Sequence[Entry], room: int, budget: int) -> list[_Edit]:
    """Sentences for all boards, a first one for each before a second for any, best-supported boards first."""
    ranked = sorted(boards.items(), key=lambda kv: (-sum(kv[1].support.values()), kv[0]))
    waiting = {key: sorted(board.support, key=lambda c: (-board.support[c], c)) for key, board in ranked}
    texts: dict[_Key, list[str]] = {key: [] for key, _ in ranked}
    progress = True
    while progress:
        progress = False
        for key, board in ranked:
            if room <= 0 or not waiting[key]:
                continue
            cues = [board.shown[c] for c in waiting[key]]
            text = write_sentence(board.subject, cues, key[0], key[1])
            if not text or len(text) + 8 > budget:
                continue
            used = text.count("', '") + text.count("' or '") + 1
            waiting[key] = waiting[key][used:]
            texts[key].append(text)
            room, budget, progress = room - 1, budget - len(text) - 8, True
    return [edit for key, board in ranked for edit in _changes(key, board, texts[key], entries)]


def _changes(key: _Key, board: _Board, texts: Sequence[str], entries: Sequence[Entry]) -> list[_Edit]:
    """Edits that turn a board's entries into its new sentences."""
    old = {e.id: e.text for e in entries}
    numbers = ", ".join(f"P{n}" for n in board.proposals)
    pairs = list(zip(board.ids, texts, strict=False))
    edits = [_edit("DELETE", id, proposals=numbers) for id in board.ids[len(texts) :]]
    edits += [_edit("MODIFY", id, text, key[2], numbers) for id, text in pairs if old[id] != text]
    return edits + [_edit("ADD", text=text, targets=key[2], proposals=numbers) for text in texts[len(board.ids) :]]
