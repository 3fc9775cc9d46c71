"""What a run remembers over its steps: how each example fared, what was edited, what was refused or taken back.

Consolidation reads it, so that what made an example worse is seen, and what was refused is not proposed again.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence

from trgrpo_dspy.evaluation.result import Measurement
from trgrpo_dspy.library import Edit

from .group import RolloutGroup, mean

__all__ = ["Memory"]

_REFUSED = 20
"""Refusals that are kept, the latest."""
_CHARACTERS = 200
"""Of an edit's text that is shown."""


class Memory:
    """What a run remembers; filled in once a step, in order."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._scores: dict[int, dict[int, float]] = defaultdict(dict)
        self._steps: dict[int, list[str]] = {}
        self._measured: dict[int, str] = {}
        self._refused: deque[str] = deque(maxlen=_REFUSED)

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


def _edit_text(edit: Edit) -> str:
    text = edit.text if len(edit.text) <= _CHARACTERS else edit.text[: _CHARACTERS - 1] + "…"
    return " ".join(filter(None, (edit.operation, edit.id, text and f'"{text}"')))
