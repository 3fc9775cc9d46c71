"""Reads the texts that reflection prompts show: examples with attempts, libraries, lessons and proposals.

Guarantees: pure functions; what does not have the expected form is left out, never guessed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .advice import Rule, read_rule

__all__ = ["Entry", "Example", "read_entries", "read_examples", "read_fields", "read_proposals", "teachers_of"]

_FIELD = re.compile(r"^(\w[\w ]{0,40}):(?: (.*))?$")
_HEAD = re.compile(r"^(Example|Attempt) (\d+)(?: \(([^()]*)\))?$", re.MULTILINE)
_PROPOSAL = re.compile(
    r"^(P?\d+)\. (?:(ADD|MODIFY|DELETE)\b ?(E\d+)?:? ?)?(.*?)(?: ?\(for: ([^()]*)\))?(?: ?\(from: ([^()]*)\))?$", re.M
)


@dataclass(frozen=True)
class Example:
    """One task of a comparison, of the evidence, or of a check."""

    number: str
    """Its number; empty where the prompt is about one task."""
    task: dict[str, str]
    """Its inputs."""
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
    """An experience, a lesson or a proposal."""

    id: str
    """`E7`, also of the entry that a proposal would change; empty for new ones."""
    text: str
    """Its sentence."""
    targets: str = ""
    """Predictors it is for, separated by commas; empty for all."""
    operation: str = "ADD"
    """ADD, MODIFY or DELETE."""
    number: str = ""
    """`P3` for a proposal, a bare number for a lesson."""
    sources: str = ""
    """Numbers of the examples it comes from, separated by commas."""

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
    found = [_example("", {"Task": task, "Expected": expected})] if task else []
    heads = list(_HEAD.finditer(text))
    for head, end in zip(heads, [*(head.start() for head in heads[1:]), len(text)], strict=False):
        fields = read_fields(text[head.end() : end])
        if head[1] == "Example":
            found.append(_example(head[2], fields))
        elif found and (answer := read_fields(fields.get("Answer", ""))):
            score = re.search(r"score (-?[\d.]+(?:e[-+]?\d+)?)", head[3] or "")
            again = re.match(r"\d{1,3}", fields.get("The same again", ""))
            found[-1].attempts.extend(
                [(float(score[1]) if score else None, answer)] * (1 + int(again[0] if again else 0))
            )
    return found


def _example(number: str, fields: dict[str, str]) -> Example:
    task = fields.get("Task", "")
    return Example(number, read_fields(task) or {"task": task}, read_fields(fields.get("Expected", "")))


def read_entries(text: str) -> list[Entry]:
    """The lines `[E1] text` or `[E1 | a, b] text` of a library."""
    found = re.findall(r"^\[(E\d+)(?: \| ([^\]]*))?\] (.+)$", text, re.MULTILINE)
    return [Entry(id, body.strip(), targets) for id, targets, body in found]


def read_proposals(text: str) -> list[Entry]:
    """Lessons `1. text` and proposals `P1. ADD: text`, `P2. MODIFY E3: text (for: name) (from: 4)`, `P3. DELETE E4`."""
    found = _PROPOSAL.findall(text)
    return [
        Entry(id, body, aim, operation or "ADD", number, origin) for number, operation, id, body, aim, origin in found
    ]


def teachers_of(name: str, program: str) -> str:
    """The predictors that write an output field, where the prompt describes several; empty for all."""
    blocks = re.split(r"^Predictor `(.+)`$", program, flags=re.MULTILINE)[1:]
    outputs = [block.partition("\noutputs:")[2].partition("\n\n")[0] for block in blocks[1::2]]
    writers = [
        p for p, out in zip(blocks[::2], outputs, strict=True) if re.search(rf"^\s*{name} \(", out, re.MULTILINE)
    ]
    return ", ".join(writers) if len(outputs) > 1 else ""
