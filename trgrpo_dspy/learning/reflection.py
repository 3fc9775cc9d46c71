"""What the reflection steps are given and return. Plain records: no dspy, no LM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trgrpo_dspy.library.edits import Edit
from trgrpo_dspy.library.library import ExperienceLibrary

if TYPE_CHECKING:
    from .group import RolloutGroup

__all__ = ["Comparison", "Context", "Decision", "Lesson", "Lessons", "Plan", "Reflection"]


@dataclass(frozen=True)
class Context:
    """What every reflection call is given beside its own subject."""

    program: str = ""
    """Description of the program (`trgrpo_dspy.program.description`)."""
    library: ExperienceLibrary = field(default_factory=ExperienceLibrary)
    """The library the attempts were made with."""
    right: tuple[RolloutGroup, ...] = ()
    """Groups all of whose attempts were right: comparisons of several groups show them for contrast."""


@dataclass(frozen=True)
class Lesson:
    """One lesson drawn from a group (the paper's form)."""

    text: str
    """One clean line."""
    targets: tuple[str, ...] = ()
    """Predictors it is for, as the comparison named them; empty means all."""


@dataclass(frozen=True)
class Comparison:
    """The semantic advantage: why some attempts beat the others, and what follows."""

    text: str
    """The reasons, bounded."""
    edits: tuple[Edit, ...] = ()
    """Proposed edits; empty in the paper's form."""
    lessons: tuple[Lesson, ...] = ()
    """Lessons, in the paper's form."""


@dataclass(frozen=True)
class Reflection:
    """What the comparison of one or more groups came to."""

    examples: tuple[int, ...]
    """The groups that were compared together, by example."""
    summaries: Mapping[int, tuple[str, ...]]
    """For each group the summary of each usable attempt; empty text where the attempt was read whole."""
    comparison: str
    """What made the difference."""
    edits: tuple[Edit, ...]
    """Proposals, each with the examples it comes from."""
    lost: tuple[str, ...]
    """Replies that could not be used."""


@dataclass(frozen=True)
class Lessons:
    """What the groups of a step, or some of them, gave."""

    groups: tuple[RolloutGroup, ...] = ()
    """In the step's order; transcripts are dropped once they were compared."""
    teaches: tuple[tuple[int, str], ...] = ()
    """The groups that teach, by example, and what by."""
    reflections: tuple[Reflection, ...] = ()
    """The comparisons, in order."""
    observations: tuple[str, ...] = ()
    """Transcripts of attempts that used tools: no entry may repeat what a tool returned."""

    def plus(self, other: Lessons) -> Lessons:
        """Both together, in order."""
        return Lessons(
            self.groups + other.groups,
            self.teaches + other.teaches,
            self.reflections + other.reflections,
            self.observations + other.observations,
        )

    @property
    def proposals(self) -> tuple[Edit, ...]:
        """All proposals but KEEP, in order."""
        return tuple(e for r in self.reflections for e in r.edits if e.operation != "KEEP")

    @property
    def kept(self) -> tuple[Edit, ...]:
        """The proposals to keep an entry as it is."""
        return tuple(e for r in self.reflections for e in r.edits if e.operation == "KEEP")

    @property
    def lost(self) -> tuple[str, ...]:
        """Reflection replies that could not be used."""
        return tuple(reason for r in self.reflections for reason in r.lost)


@dataclass(frozen=True)
class Plan:
    """What consolidation came to."""

    edits: tuple[Edit, ...]
    """Edits of the library, in order."""
    reasoning: str = ""
    """Why."""
    dispositions: Mapping[str, str] = field(default_factory=dict)
    """Where each proposal went, by its number."""
    lost: tuple[str, ...] = ()
    """Why replies could not be used; their proposals themselves are then their plan."""
    proposals: tuple[Edit, ...] = ()
    """The proposals that were merged, in order: P1, P2, ... In a tree those of its parts."""


@dataclass(frozen=True)
class Decision:
    """What one entry decides for one example."""

    example: int
    """The example's index."""
    entry: str
    """The entry's id."""
    decision: str
    """The answer it prescribes, or 'supports', 'contradicts', 'silent'."""
