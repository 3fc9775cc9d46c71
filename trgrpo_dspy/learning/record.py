"""What a run has found so far: its steps and measurements, what went wrong, and the best library among them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from trgrpo_dspy.evaluation.result import Measurement, StepResult, Verdict
from trgrpo_dspy.evaluation.statistics.comparison import paired_comparison
from trgrpo_dspy.evaluation.verdict import decide
from trgrpo_dspy.evaluation.warnings import UNSCORED, warnings_after
from trgrpo_dspy.library.edits import RejectedEdit
from trgrpo_dspy.library.library import ExperienceLibrary
from trgrpo_dspy.program.rollout import Rollout

from .group import mean

if TYPE_CHECKING:
    from .draft import Update
    from .reflection import Lessons
    from .schedule import Step
    from .setup import Setup

__all__ = ["Record", "step_result"]


class Record:
    """What a run has found so far."""

    def __init__(self, setup: Setup) -> None:
        """Begin with nothing found."""
        self._setup = setup
        self.baseline: Measurement | None = None
        """The input program on the valset."""
        self.steps: list[StepResult] = []
        """The steps that were completed, in order."""
        self.last_measured: ExperienceLibrary = setup.start
        """The library that was measured last, or is being measured."""
        self.outcomes: Counter[str] = Counter()
        """Training attempts by outcome."""
        self._errors: dict[str, str] = {}
        self._lost: Counter[str] = Counter()
        self._groups, self._informative = 0, 0
        self._answered, self._identical = 0, 0

    def note(self, rollouts: Iterable[Rollout]) -> None:
        """Keep the first error of each outcome."""
        for rollout in rollouts:
            if rollout.error:
                self._errors.setdefault(rollout.outcome.value, rollout.error)

    def add(self, result: StepResult, lessons: Lessons) -> None:
        """Add a completed step."""
        groups = lessons.groups
        self.steps.append(result)
        self._groups += len(groups)
        self._informative += sum(group.informative for group in groups)
        answered = [group for group in groups if sum(not r.outcome.failed for r in group.usable) > 1]
        self._answered += len(answered)
        self._identical += sum(group.identical for group in answered)
        self.outcomes.update(result.outcomes)
        self._lost.update(result.lost)
        self.note(r for group in groups for r in group.rollouts)

    def is_news(self, library: ExperienceLibrary) -> bool:
        """Whether a library says anything other than the one that was measured last."""
        return library.digest != self.last_measured.digest

    def best(self, stop_reason: str = "") -> tuple[Verdict, ExperienceLibrary]:
        """The verdict on what was measured so far, and the library it picks."""
        start, steps = self._setup.start, self.steps
        known = {start.digest, *(step.library.digest for step in steps if step.validation is not None)}
        verdict = decide(
            self.baseline,
            [step.validation for step in steps if step.validation is not None],
            last_step=steps[-1].step if steps else 0,
            wanted=bool(self._setup.valset),
            unmeasured=bool(steps) and steps[-1].library.digest not in known,
            scored=stop_reason != "unscored" and not (self.outcomes and set(self.outcomes) <= set(UNSCORED)),
            seed=self._setup.options.seed,
        )
        libraries = {0: start, **{step.step: step.library for step in steps}}
        return verdict, libraries[verdict.step]

    def base(self, library: ExperienceLibrary) -> ExperienceLibrary:
        """Where the next step starts: the best library measured so far if the last one measured credibly worse."""
        measured = [m for m in (self.baseline, *(step.validation for step in self.steps)) if m is not None]
        best = max(measured, key=lambda m: -math.inf if m.mean.value is None else m.mean.value, default=None)
        if best is None or best is measured[-1]:
            return library
        interval = paired_comparison(measured[-1].scores, best.scores, units=best.inputs or None).interval
        if interval is None or interval.low <= 0:
            return library
        return replace(best.library, next_id=library.next_id)  # ids are never used again

    def warnings(self) -> tuple[str, ...]:
        """What the user should know of how the run went."""
        found = warnings_after(
            self._groups, self._informative, self.outcomes, self._errors, self._lost,
            answered=self._answered, identical=self._identical,
        )  # fmt: skip
        held = (
            f"Step {step.step}: {r.edit.text!r} was {r.reason}. To let it in, run again with this id in allow=."
            for step in self.steps
            for r in step.held
        )
        return (*found, *held)


def step_result(step: Step, lessons: Lessons, update: Update, lost: Sequence[str]) -> StepResult:
    """The record of a step; its spend and validation are added later."""
    groups = lessons.groups
    rollouts = [r for group in groups for r in group.rollouts]
    return StepResult(
        step=step.index,
        epoch=step.epoch,
        examples=step.examples,
        train_mean=mean([r.score for r in rollouts]),
        informative=sum(group.informative for group in groups) / len(groups),
        mistakes=sum(by == "mistakes" for _, by in lessons.teaches) / len(groups),
        outcomes=dict(sorted(Counter(r.outcome.value for r in rollouts).items())),
        edits=dict(sorted(Counter(edit.operation for edit in update.applied).items())),
        rejected=tuple(RejectedEdit(r.edit, r.reason) for r in update.refused if not r.held),
        held=tuple(RejectedEdit(r.edit, r.reason) for r in update.refused if r.held),
        lost=dict(sorted(Counter(lost).items())),
        library=update.library,
        library_tokens=update.library.tokens,
        spend=(),
    )
