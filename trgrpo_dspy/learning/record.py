"""What a run has found so far: its steps and measurements, what went wrong, and the best library among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from trgrpo_dspy.evaluation.measurement import UNSCORED
from trgrpo_dspy.evaluation.result import Measurement, StepResult, Verdict
from trgrpo_dspy.evaluation.verdict import decide
from trgrpo_dspy.evaluation.warnings import warnings_after
from trgrpo_dspy.library import ExperienceLibrary
from trgrpo_dspy.program.rollout import Rollout

from .groups import Learned

__all__ = ["Record", "told"]


@dataclass
class Record:
    """What a run has found so far."""

    baseline: Measurement | None = None
    steps: list[StepResult] = field(default_factory=list)
    groups: int = 0
    informative: int = 0
    answered: int = 0
    """Groups with two or more attempts that came to an answer."""
    identical: int = 0
    """Those of them whose attempts came back word for word the same."""
    outcomes: Counter[str] = field(default_factory=Counter)
    errors: dict[str, str] = field(default_factory=dict)
    """The first error of each outcome."""
    lost: Counter[str] = field(default_factory=Counter)
    last_measured: ExperienceLibrary | None = None
    """The library that was measured last, or is being measured."""

    def note(self, rollouts: Iterable[Rollout]) -> None:
        """Keep the first error of each kind."""
        for rollout in rollouts:
            if rollout.error:
                self.errors.setdefault(rollout.outcome.value, rollout.error)

    def add(self, result: StepResult, groups: Sequence[Learned]) -> None:
        """Add a step."""
        self.steps.append(result)
        self.groups += len(groups)
        self.informative += sum(learned.group.informative for learned in groups)
        answered = [learned for learned in groups if sum(not r.outcome.failed for r in learned.group.usable) > 1]
        self.answered += len(answered)
        self.identical += sum(learned.identical for learned in answered)
        self.outcomes.update(result.outcomes)
        self.lost.update(result.lost)
        self.note(r for learned in groups for r in learned.group.rollouts)

    def best(self, start: ExperienceLibrary, *, wanted: bool, seed: int) -> tuple[Verdict, ExperienceLibrary]:
        """The verdict on what was measured so far, and the library it picks.

        Args:
            start: The library the run began with.
            wanted: Whether there is a valset.
            seed: Seed of the resampling.
        """
        steps = self.steps
        measured = [step.validation for step in steps if step.validation is not None]
        verdict = decide(
            self.baseline,
            measured,
            last_step=steps[-1].step if steps else 0,
            wanted=wanted,
            changed=any(told(step.library) != told(start) for step in steps),
            scored=not steps or any(self.outcomes[name] for name in self.outcomes if name not in UNSCORED),
            seed=seed,
        )
        libraries = {0: start, **{step.step: step.library for step in steps}}
        return verdict, libraries[verdict.step]

    def warnings(self) -> tuple[str, ...]:
        """What the user should know of how the run went."""
        return warnings_after(
            self.groups, self.informative, self.outcomes, self.errors, self.lost,
            answered=self.answered, identical=self.identical,
        )  # fmt: skip


def told(library: ExperienceLibrary) -> list[tuple[str, str, tuple[str, ...]]]:
    """What programs are told, without where it comes from."""
    return [(e.id, e.text, e.targets) for e in library]
