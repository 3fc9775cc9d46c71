"""What reflection prompts show, read; lessons into proposals, proposals and evidence into one plan, repairs.

Every answer has a board of cues. Each proposal, and each example of the evidence, that shows a cue with an answer
supports it there. A cue stays where it has most support. What is left is written as rules, best-supported cues first.

Guarantees: pure functions of the prompt; what does not have the expected form is left out, never guessed; the library
keeps `max_experiences` entries, and entries this model can't read stay as they are.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any

from .advice import Rule, read_rule
from .text import content_words, root

_FIELD = re.compile(r"^(\w[\w ]{0,40}):(?: (.*))?$")
_HEAD = re.compile(r"^(Example|Attempt) (\d+)(?: \(([^()]*)\))?$", re.MULTILINE)
_PROPOSAL = re.compile(
    r"^(P?\d+)\. (?:(ADD|MODIFY|DELETE)\b ?(E\d+)?:? ?)?(.*?)(?: ?\(for: ([^()]*)\))?(?: ?\(from: ([^()]*)\))?$", re.M
)


@dataclass(frozen=True)
class Example:
    """One task of a comparison, of the evidence, or of a check: number (empty where there is one), inputs."""

    number: str
    task: dict[str, str]
    expected: dict[str, str]
    """The right answer by output field; empty if the prompt gives none."""
    attempts: list[tuple[float | None, dict[str, str]]] = field(default_factory=list)
    """Score and answer by output field of each attempt that came to an answer, in order."""

    @property
    def text(self) -> str:
        """All inputs as one text."""
        return "\n".join(self.task.values())

    @property
    def subject(self) -> str:
        """What the program is given, in a word or two."""
        return next(iter(self.task)).replace("_", " ") if len(self.task) == 1 else "task"


@dataclass(frozen=True)
class Entry:
    """An experience, a lesson or a proposal (ADD, MODIFY or DELETE)."""

    id: str
    """`E7`, also of the entry that a proposal would change; empty for new ones."""
    text: str
    targets: str = ""
    """Predictors it is for, separated by commas; empty for all."""
    operation: str = "ADD"
    sources: str = ""
    """Its own number in the prompt and those of the examples it comes from, separated by commas."""

    @property
    def rule(self) -> Rule | None:
        """What it says, if this model can read it."""
        return read_rule(self.text)


def read_fields(text: str) -> dict[str, str]:
    """`name: value` lines; indented lines belong to the value before."""
    fields: dict[str, str] = {}
    name = ""
    for line in text.split("\n"):
        if found := _FIELD.match(line):
            name, fields[found[1]] = found[1], (found[2] or "").strip()
        elif name and line.startswith(" "):
            fields[name] = f"{fields[name]}\n{line.removeprefix('  ')}".strip("\n")
    return fields


def read_examples(text: str, task: str = "", expected: str = "") -> list[Example]:
    """Examples with their attempts; attempts that no example precedes belong to the given task."""
    heads = list(_HEAD.finditer(text))
    blocks = [("", "", {"Task": task, "Expected": expected})] if task else []
    for head, end in zip(heads, [*(head.start() for head in heads[1:]), len(text)], strict=False):
        blocks.append((head[2] if head[1] == "Example" else "", head[3] or "", read_fields(text[head.end() : end])))
    found: list[Example] = []
    for number, remark, fields in blocks:
        if "Task" in fields:
            inputs = read_fields(fields["Task"]) or {"task": fields["Task"]}
            found.append(Example(number, inputs, read_fields(fields.get("Expected", ""))))
        elif found and (answer := read_fields(fields.get("Answer", ""))):
            score = re.search(r"score (-?[\d.]+(?:e[-+]?\d+)?)", remark)
            again = re.match(r"\d{1,3}", fields.get("The same again", "0"))
            attempt = float(score[1]) if score else None, answer
            found[-1].attempts.extend([attempt] * (1 + int(again[0] if again else 0)))
    return found


def read_entries(text: str) -> list[Entry]:
    """The lines `[E1] text` or `[E1 | a, b] text` of a library."""
    found = re.findall(r"^\[(E\d+)(?: \| ([^\]]*))?\] (.+)$", text, re.MULTILINE)
    return [Entry(id, body.strip(), targets) for id, targets, body in found]


def read_proposals(text: str) -> list[Entry]:
    """Lessons `1. text` and proposals `P1. ADD: text`, `P2. MODIFY E3: text (for: name) (from: 4)`, `P3. DELETE E4`."""
    return [
        Entry(id, body, targets, operation or "ADD", ", ".join(filter(None, (number, origin))))
        for number, operation, id, body, targets, origin in _PROPOSAL.findall(text)
    ]


def teachers_of(name: str, program: str) -> str:
    """The predictors that write an output field, where the prompt describes several; empty for all."""
    blocks = re.split(r"^Predictor `(.+)`$", program, flags=re.MULTILINE)[1:]
    outputs = [block.partition("\noutputs:")[2].partition("\n\n")[0] for block in blocks[1::2]]
    written = [bool(re.search(rf"^\s*{name} \(", output, re.MULTILINE)) for output in outputs]
    return ", ".join(compress(blocks[::2], written)) if len(outputs) > 1 else ""


def _edit(operation: str, id: str = "", text: str = "", targets: str = "", sources: str = "") -> dict[str, str]:
    return {"operation": operation, "id": id, "text": text, "predictors": targets, "sources": sources}


def propose(inputs: Mapping[str, str]) -> dict[str, Any]:
    """Edits for numbered lessons."""
    return {"edits": additions(read_proposals(inputs["lessons"]), inputs)}


def additions(lessons: Iterable[Entry], inputs: Mapping[str, str]) -> list[dict[str, str]]:
    """An edit for every lesson that says something new: what the library lacks of it is added."""
    entries, edits = read_entries(inputs.get("experiences", "")), []
    for lesson in lessons:
        rule = lesson.rule
        own = [r for e in entries if rule and (r := e.rule) and _key(r, e) == _key(rule, lesson)]
        new = rule.fitted(cue for cue in rule.cues if not any(cue in r.cues for r in own)) if rule else None
        if new is None or new.cues:
            edits.append(_edit("ADD", "", str(new or lesson.text), lesson.targets, lesson.sources))
    return edits


def repair(inputs: Mapping[str, str]) -> dict[str, Any]:
    """Take from each entry with a problem the last of its cues that a counter-example shows: it has least support."""
    edits = []
    problems = dict(re.findall(r"^\[(E\d+)\](.*(?:\n(?!\[E\d+\]).*)*)", inputs["problems"], re.MULTILINE))
    for entry in read_entries(inputs.get("experiences", "")):
        if (rule := entry.rule) and (examples := read_examples(problems.get(entry.id, ""))):
            shown = {root(word) for example in examples for word in content_words(example.text)}
            last = max((i for i, cue in enumerate(rule.cues) if root(cue) in shown), default=len(rule.cues))
            text = str(replace(rule, cues=(*rule.cues[:last], *rule.cues[last + 1 :]))) if len(rule.cues) > 1 else ""
            edits.append(_edit("MODIFY" if text else "DELETE", entry.id, text, entry.targets))
    return {"edits": edits}


_Key = tuple[str, str, str]


def _key(rule: Rule, entry: Entry) -> _Key:
    """Output field, predictors and answer: what a board is for."""
    return rule.field, entry.targets, rule.value


@dataclass
class _Board:
    """What speaks for one answer: the support of each cue, by its root, and where it comes from."""

    rule: Rule
    entries: list[Entry] = field(default_factory=list)
    support: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    words: dict[str, str] = field(default_factory=dict)
    sources: dict[str, dict[str, None]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, cues: Iterable[str], amount: float, sources: str = "") -> None:
        for cue in cues:
            self.words.setdefault(root(cue), cue)
            self.support[root(cue)] += amount
            self.sources[root(cue)].update(dict.fromkeys(filter(None, sources.split(", "))))

    def next_rule(self) -> tuple[str, str]:
        """A rule of the best-supported cues that fit, which leave the board, and its sources; empty if none is left."""
        ranked = sorted(self.support, key=lambda cue: (-self.support[cue], -len(cue), cue))
        rule = self.rule.fitted(self.words[cue] for cue in ranked)
        used, left = ranked[: len(rule.cues)], ranked[len(rule.cues) :] if rule.cues else []
        self.support = {cue: self.support[cue] for cue in left}
        named = [s for cue in used for s in self.sources[cue]] or [s for own in self.sources.values() for s in own]
        return str(rule) if used else "", ", ".join(list(dict.fromkeys(named))[:12])


def consolidate(inputs: Mapping[str, str]) -> dict[str, Any]:
    """One plan from all proposals and the evidence, if there is any: `reasoning`, `edits` and `dispositions`."""
    entries, proposals = read_entries(inputs.get("experiences", "")), read_proposals(inputs["proposals"])
    boards, other = _boards(entries, proposals)
    for example in read_examples(inputs.get("evidence", "")):
        for (name, _, value), board in boards.items():
            if example.expected.get(name) == value:
                board.add(content_words(example.text), 1.0)
    _settle(boards)
    stated = inputs.get("max_experiences", "")
    room = (int(stated) if stated.isdecimal() else 30) - sum(entry.rule is None for entry in entries)
    edits = [*_edits(boards, room), *other]
    used = {source for edit in edits for source in edit["sources"].split(", ")}
    numbers = [proposal.sources.partition(",")[0] for proposal in proposals]
    why = "dropped because its words fit other answers"
    went = [{"proposal": number, "outcome": "used" if number in used else why} for number in numbers]
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
                board.add([cue], 1.0 + 1.0 / (1 + 0.1 * order))  # as evidence of earlier steps, its first cues most
    for proposal in proposals:
        old = known.get(proposal.id)
        target = replace(proposal, targets=old.targets) if old else proposal
        if rule := proposal.rule:
            boards.setdefault(_key(rule, target), _Board(rule)).add(rule.cues, 1.0, proposal.sources)
        elif proposal.operation == "DELETE" and old and (rule := old.rule):
            boards[_key(rule, old)].add(rule.cues, -1.0, proposal.sources)
        else:
            other.append(_edit(proposal.operation, proposal.id, proposal.text, target.targets, proposal.sources))
    return boards, other


def _settle(boards: Mapping[_Key, _Board]) -> None:
    """Leave a cue where it has more support than for all other answers to the output together."""
    total: dict[tuple[str, str, str], float] = defaultdict(float)
    for (name, targets, _), board in boards.items():
        for cue, support in board.support.items():
            total[name, targets, cue] += max(0.0, support)
    for (name, targets, _), board in boards.items():
        board.support = {c: s for c, s in board.support.items() if s > 0 and 2 * s > total[name, targets, c]}


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
        changed = [(entry.id, *rule) for entry, rule in zip(old, new, strict=False) if entry.text != rule[0]]
        edits += [_edit("MODIFY", id, text, key[1], sources) for id, text, sources in changed]
        edits += [_edit("ADD", "", text, key[1], sources) for text, sources in new[len(old) :]]
    return edits
