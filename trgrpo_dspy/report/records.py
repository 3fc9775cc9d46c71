"""The parts of a run's history: steps, groups of attempts, measurements, failures. Frozen records, no behaviour."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from trgrpo_dspy import events
from trgrpo_dspy.library.library import ExperienceLibrary
from trgrpo_dspy.program.rollout import Rollout

__all__ = ["Failure", "Group", "Measured", "Step", "by_example", "mean_score"]


@dataclass(frozen=True)
class Group:
    """The attempts of one step at one training example."""

    step: int
    example: int
    """Index into the trainset."""
    task: str
    """The example's inputs."""
    expected: str
    """The example's labels; empty if there are none."""
    attempts: tuple[Rollout, ...]
    """The attempts that have ended, in order."""
    compared: events.GroupCompared | None
    """What the comparison came to: lessons, proposed edits; None until it was made."""

    @property
    def score(self) -> float | None:
        """Mean score of the scored attempts; None if none is."""
        return mean_score(self.attempts)

    @property
    def teaches(self) -> str:
        """'contrast', 'mistakes' or 'answers'; empty if nothing was to be learned, or nothing was yet."""
        return self.compared.teaches if self.compared is not None else ""


@dataclass(frozen=True)
class Measured:
    """A library (or program, in a comparison) on the validation or evaluation examples."""

    step: int
    """Step that made the library; 0 is the input. In a comparison: which program."""
    attempts: tuple[Rollout, ...]
    """The attempts that have ended, by example."""
    result: events.LibraryMeasured | None
    """What was measured; None until all attempts have ended, and in an evaluation."""

    @property
    def scores(self) -> dict[int, float | None]:
        """Mean score of each example over its repeats; None is unscored."""
        return {example: mean_score(found) for example, found in by_example(self.attempts).items()}


@dataclass(frozen=True)
class Step:
    """One step of the algorithm."""

    step: int
    """From 1, over all epochs."""
    epoch: int
    """From 1."""
    library: ExperienceLibrary
    """The library that the step's attempts were made with."""
    groups: tuple[Group, ...]
    """In the step's order of examples."""
    plan: events.Consolidated | None = None
    """All proposals as one plan; None until it was made."""
    check: events.EntriesChecked | None = None
    """What the check found; None where there was none."""
    applied: tuple[events.EditApplied, ...] = ()
    """Edits that took effect."""
    refused: tuple[events.EditRefused, ...] = ()
    """Edits that did not, with reasons."""
    ended: events.StepEnded | None = None
    """The step's end, with the library after it; None until then."""

    def group(self, example: int) -> Group | None:
        """The group of this example; None if the step has none."""
        return next((group for group in self.groups if group.example == example), None)


@dataclass(frozen=True)
class Failure:
    """One kind of attempt or reply that brought no verdict, or a bad one."""

    kind: str
    """An outcome, or 'stage: reason' of a reflection reply that could not be used."""
    count: int
    """How often."""
    unscored: bool
    """Whether no verdict exists, so that these are in no mean."""
    first: str = ""
    """The first error's text."""
    where: str = ""
    """Where the first one was: 'step 2, example 14'."""


def mean_score(attempts: Iterable[Rollout]) -> float | None:
    """Mean score of the scored attempts; None if none is."""
    scores = [r.score for r in attempts if r.score is not None]
    return sum(scores) / len(scores) if scores else None


def by_example(attempts: Iterable[Rollout]) -> dict[int, list[Rollout]]:
    """The attempts of each example, in order."""
    found: dict[int, list[Rollout]] = {}
    for rollout in attempts:
        found.setdefault(rollout.example, []).append(rollout)
    return found
