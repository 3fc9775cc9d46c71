"""The evidence table: the examples of a step side by side, as consolidation reads them.

One task alone can't tell which of its features decided. Side by side, two tasks that are alike but for one feature
can. Rows stand in order of importance (wrong or changed ones first, the others as the seed draws them), so that a
table that must be cut keeps what teaches most. Beside the rows stands what earlier steps found out: what made an
example worse is seen, and what was refused is not proposed again.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from trgrpo_dspy.library.edits import Edit
from trgrpo_dspy.library.entries import count_tokens
from trgrpo_dspy.program.transcript.rendering import cut_middle

from .group import RolloutGroup, mean
from .rendering import block, tally

if TYPE_CHECKING:
    from trgrpo_dspy.evaluation.result import Measurement

__all__ = ["Evidence", "Memory", "Row", "evidence_of", "falls_short"]

_ROWS = 64
"""Rows of one prompt at most; a larger batch is consolidated in a tree."""
_TASK_TOKENS, _EXPECTED_TOKENS, _ANSWER_TOKENS, _FEEDBACK_TOKENS = 200, 80, 40, 60

_REFUSED = 20
"""Refusals that are kept, the latest."""
_CHARACTERS = 200
"""Of an edit's text that is shown."""


@dataclass(frozen=True)
class Row:
    """One example of the table."""

    example: int
    """Index into the trainset."""
    expected: str
    """Its labels; empty if there are none or the run is label-free."""
    wrong: bool
    """Whether some attempt fell short."""
    text: str
    """The row as it is shown."""


@dataclass(frozen=True)
class Evidence:
    """The table, and what earlier steps found out."""

    rows: tuple[Row, ...] = ()
    """In order of importance."""
    history: str = ""
    """What earlier steps changed, and how the examples fared since."""
    refused: str = ""
    """Edits that were refused or taken back, with reasons."""
    proposals: tuple[Edit, ...] = ()
    """In a node of the tree: the proposals that come from its rows."""

    @property
    def wrong(self) -> bool:
        """Whether any example was answered wrongly."""
        return any(row.wrong for row in self.rows)

    @property
    def text(self) -> str:
        """The rows, those with the same expected answer beside each other."""
        return "\n\n".join(row.text for row in sorted(self.rows, key=lambda row: (row.expected, row.example)))

    def within(self, max_tokens: int) -> Evidence:
        """The most important rows, as many as fit."""
        kept: list[Row] = []
        size = 0
        for row in self.rows[:_ROWS]:
            size += count_tokens(row.text) + 1
            if size > max_tokens:
                break
            kept.append(row)
        return replace(self, rows=tuple(kept))

    def nodes(self, proposals: Sequence[Edit], max_tokens: int) -> list[Evidence]:
        """The table cut into parts of about the square root of its rows, each with its own proposals.

        One part if everything fits one prompt. Rows are dealt out in turn, so that each part sees important ones.
        """
        if len(self.rows) <= _ROWS and len(self.within(max_tokens).rows) == len(self.rows):
            return [self]
        count = max(2, math.ceil(len(self.rows) / max(8, math.ceil(math.sqrt(len(self.rows))))))
        parts = [self.rows[i::count] for i in range(count)]
        where = {row.example: i for i, part in enumerate(parts) for row in part}
        own: list[list[Edit]] = [[] for _ in parts]
        for edit in proposals:
            own[where.get(edit.sources[0], 0) if edit.sources else 0].append(edit)
        nodes = [replace(self, rows=part, proposals=tuple(o)) for part, o in zip(parts, own, strict=True)]
        return [replace(node, rows=node.within(max_tokens).rows) for node in nodes]


class Memory:
    """What a run remembers; filled in once a step, in order."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._scores: dict[int, dict[int, float]] = defaultdict(dict)
        self._steps: dict[int, list[str]] = {}
        self._measured: dict[int, str] = {}
        self._refused: deque[str] = deque(maxlen=_REFUSED)
        self.observed: dict[int, str] = {}
        """What attempts found out beyond each example's task."""

    def note_observed(self, groups: Iterable[RolloutGroup]) -> None:
        """Remember what attempts found out, the latest for each example."""
        self.observed.update({group.example: group.observed for group in groups if group.observed})

    def note_scores(self, step: int, groups: Iterable[RolloutGroup]) -> None:
        """Remember the mean score of each example of a step."""
        for group in groups:
            if (score := mean([r.score for r in group.usable])) is not None:
                self._scores[group.example][step] = score

    def note_edits(self, step: int, applied: Sequence[Edit], refused: Iterable[tuple[Edit, str]]) -> None:
        """Remember what a step changed and what was refused, with reasons."""
        self._steps[step] = [_edit_text(edit) for edit in applied if edit.operation != "KEEP"]
        for edit, reason in refused:
            self._refused.append(f"{_edit_text(edit)} ({reason})")

    def note_measured(self, step: int, baseline: Measurement | None, measured: Measurement) -> None:
        """Remember how a step's library did on examples that nobody learns from."""
        if (score := measured.mean.value) is not None:
            was = baseline.mean.value if baseline is not None else None
            against = "" if was is None else f" (the input: {was:.3f})"
            self._measured[step] = f"held-out score after this step {score:.3f}{against}"

    def earlier(self, example: int) -> str:
        """How an example fared in earlier steps."""
        return ", ".join(f"{score:.2g} in step {step}" for step, score in sorted(self._scores[example].items()))

    def changed(self, example: int, score: float | None) -> bool:
        """Whether an example fares otherwise than when it was seen last."""
        scores = self._scores.get(example)
        if not scores or score is None:
            return False
        return abs(scores[max(scores)] - score) > 1e-6

    def history(self, now: int) -> str:
        """What each step before `now` changed, a line each.

        The library of the step before is measured beside `now`: whether that is done yet is a matter of time, so its
        score is left out. Else the same run would ask for another consolidation.
        """
        lines = []
        for step, what in sorted(self._steps.items())[-5:]:
            measured = [self._measured[step]] if step in self._measured and step < now - 1 else []
            lines.append(f"Step {step}: {'; '.join([*what, *measured]) or 'no edit'}")
        return "\n".join(lines)

    @property
    def refused(self) -> str:
        """Edits that were refused or taken back, a line each."""
        return "\n".join(dict.fromkeys(self._refused))


def evidence_of(
    groups: Iterable[RolloutGroup], ceiling: float, memory: Memory | None, rng: random.Random, step: int = 0
) -> Evidence:
    """Build the table from a step's groups.

    Args:
        groups: The groups; those without a usable attempt are left out.
        ceiling: The highest score that attempts are known to reach.
        memory: What earlier steps found out; None leaves that out.
        rng: Draws the order of rows that are equally important.
        step: The step that the groups are of.
    """
    rows = [
        (_importance(group, ceiling, memory), rng.random(), _row(group, ceiling, memory))
        for group in groups
        if group.usable
    ]
    rows.sort(key=lambda item: item[:2])
    return Evidence(
        tuple(row for _, _, row in rows),
        memory.history(step) if memory is not None else "",
        memory.refused if memory is not None else "",
    )


def falls_short(group: RolloutGroup, ceiling: float) -> bool:
    """Whether an attempt of a group scored below the ceiling; without labels, whether the attempts disagree."""
    if group.label_free:
        return group.informative
    return any(r.score is not None and r.score < ceiling - 1e-6 * max(1.0, abs(ceiling)) for r in group.usable)


def _importance(group: RolloutGroup, ceiling: float, memory: Memory | None) -> int:
    changed = memory is not None and memory.changed(group.example, mean([r.score for r in group.usable]))
    return 0 if falls_short(group, ceiling) or changed else 1


def _row(group: RolloutGroup, ceiling: float, memory: Memory | None) -> Row:
    shown = dict.fromkeys(id for r in group.usable for id in r.shown)
    feedback = next((r.feedback for r in group.usable if r.feedback), "")
    fields = [
        ("Task", cut_middle(group.task, _TASK_TOKENS)),
        ("Observed", group.observed),
        ("Expected", cut_middle(group.expected, _EXPECTED_TOKENS)),
        ("Attempts", tally(group.usable, group.label_free, _ANSWER_TOKENS)),
        ("Feedback", "" if group.label_free or group.expected else cut_middle(feedback, _FEEDBACK_TOKENS)),
        ("Shown", ", ".join(shown) if 0 < len(shown) <= 12 else ""),
        ("Earlier", memory.earlier(group.example) if memory is not None else ""),
    ]
    return Row(group.example, group.expected, falls_short(group, ceiling), block(f"Example {group.example}", fields))


def _edit_text(edit: Edit) -> str:
    text = edit.text if len(edit.text) <= _CHARACTERS else edit.text[: _CHARACTERS - 1] + "…"
    return " ".join(filter(None, (edit.operation, edit.id, text and f'"{text}"')))
