"""The parts of a run's history: steps, groups, measurements, failures, and all that happened to one entry."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from trgrpo_dspy import events
from trgrpo_dspy.library.edits import Edit
from trgrpo_dspy.library.experience import Experience
from trgrpo_dspy.library.library import ExperienceLibrary
from trgrpo_dspy.program.rollout import Rollout

__all__ = [
    "Effect", "EntryHistory", "Failure", "Group", "Measured", "Moment", "Step", "by_example", "entry_history",
    "mean_score",
]  # fmt: skip


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


# -- one entry ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moment:
    """One thing that happened to an entry."""

    step: int
    """The step; 0 is before the run."""
    kind: str
    """'handed in', 'added', 'changed', 'deleted', 'kept', 'refused', 'proposed' or 'checked'."""
    edit: Edit | None = None
    """The edit that did it, or that was refused or proposed."""
    before: Experience | None = None
    """The entry before."""
    after: Experience | None = None
    """The entry after."""
    reason: str = ""
    """Why an edit was refused."""
    examples: tuple[int, ...] = ()
    """The training examples it comes from: those of the edit, or of the group that proposed it."""
    support: tuple[int, ...] = ()
    """For 'checked': the examples that the entry decided rightly."""
    against: tuple[int, ...] = ()
    """For 'checked': the examples that the entry decided wrongly."""


@dataclass(frozen=True)
class Effect:
    """Mean scores of the scored attempts at an entry's own examples that were not shown the entry, and that were.

    Other entries came in the same steps, so this is no measure of the one entry alone.
    """

    before: float | None
    after: float | None
    attempts_before: int
    attempts_after: int


@dataclass(frozen=True)
class EntryHistory:
    """What is known of an entry, and everything that happened to it."""

    entry: Experience
    """The entry as the returned (or newest) library has it, else as it last was."""
    returned: bool
    """Whether the returned (or newest) library has it."""
    moments: tuple[Moment, ...]
    """What happened, in order."""
    groups: tuple[Group, ...]
    """The groups behind the edits that took effect: their attempts and comparisons, in order of steps."""
    effect: Effect
    """Scores at its examples, before and after."""

    @property
    def id(self) -> str:
        """The entry's id."""
        return self.entry.id


def entry_history(
    entry_id: str, steps: Sequence[Step], start: ExperienceLibrary, newest: ExperienceLibrary
) -> EntryHistory:
    """What happened to an entry from the library that the run started from to the one returned, or the newest."""
    after = [step.ended.library for step in steps if step.ended is not None]
    forms = {entry.id: entry for library in (start, *after, newest) for entry in library}
    if (entry := forms.get(entry_id)) is None:
        known = f"ids: {', '.join(forms)}" if forms else "none has any entry"
        raise KeyError(f"no library of this run has an entry {entry_id!r:.60}; {known}")
    moments = [Moment(0, "handed in", after=old)] if (old := start.get(entry_id)) else []
    moments += [moment for step in steps for moment in _moments(step, entry_id)]
    made = {(m.step, i) for m in moments if m.kind in ("added", "changed", "deleted") for i in m.examples}
    groups = tuple(g for step in steps for g in step.groups if (g.step, g.example) in made)
    scored = [
        r
        for step in steps
        for g in step.groups
        if g.example in entry.sources
        for r in g.attempts
        if r.score is not None
    ]
    without, shown = [r for r in scored if entry_id not in r.shown], [r for r in scored if entry_id in r.shown]
    effect = Effect(mean_score(without), mean_score(shown), len(without), len(shown))
    return EntryHistory(entry, entry_id in newest, tuple(moments), groups, effect)


def _moments(step: Step, id: str) -> Iterator[Moment]:
    """What happened to the entry in a step: proposals, refusals, what took effect, the check."""
    number = step.step
    for group in step.groups:
        for edit in group.compared.edits if group.compared is not None else ():
            if edit.id == id:
                yield Moment(number, "proposed", edit, examples=(group.example,))
    for refused in step.refused:
        # An edit may also be refused because this entry says the same.
        if refused.edit.id == id or re.search(rf"\b{id}\b", refused.reason):
            yield Moment(number, "refused", refused.edit, reason=refused.reason, examples=refused.edit.sources)
    for applied in step.applied:
        before, after = applied.before, applied.after
        if id in (before.id if before else "", after.id if after else ""):
            kind = "deleted" if after is None else "added" if before is None else "changed"
            kind = "kept" if applied.edit.operation == "KEEP" else kind
            yield Moment(number, kind, applied.edit, before, after, examples=applied.edit.sources)
    if (check := step.check) is not None and (id in check.supported or id in check.contradicted):
        support, against = check.supported.get(id, ()), check.contradicted.get(id, ())
        yield Moment(number, "checked", support=tuple(support), against=tuple(against))
