"""What happens in a run, as frozen records.

Everything that shows a run is a listener: progress, log lines, `events.jsonl` in the log directory, a tracker, a
user's own function (`callbacks=[...]`). Nothing that shows a run reaches into the engine.

Guarantees:

- The session's `Emitter` (`engine/listeners.py`) calls the listeners one at a time, in the thread that drives the run,
  in the order they were given.
- A listener that raises is dropped with one warning and never ends a run.
- Events are plain data. `to_record` gives one as JSON data, with its kind and the version of its schema.
- A resumed run emits its whole story again; what comes from the journal carries `replayed=True`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trgrpo_dspy.library.edits import Edit
from trgrpo_dspy.library.experience import Experience
from trgrpo_dspy.library.library import ExperienceLibrary
from trgrpo_dspy.meter.estimate import Estimate
from trgrpo_dspy.meter.meter import Spend
from trgrpo_dspy.program.rollout import Rollout

__all__ = [
    "SCHEMA_VERSION", "AttemptFinished", "Consolidated", "EditApplied", "EditRefused", "EntriesChecked", "Event",
    "GroupCompared", "LibraryMeasured", "Listener", "Notice", "RunEnded", "RunStarted", "StepEnded", "StepEvent",
    "StepStarted", "to_record",
]  # fmt: skip

SCHEMA_VERSION = 1
"""Version of the records that `to_record` gives."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base of all events."""

    replayed: bool = False
    """Whether this was done by an earlier process and is read back from the journal."""


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """A run begins."""

    run: str
    """'compile', 'evaluate' or 'compare'."""
    options: Mapping[str, Any]
    """The run's options as plain data."""
    program: str = ""
    """What the reflection is shown of the program: predictors, instructions, inputs, outputs, tools."""
    trainset: tuple[tuple[str, str], ...] = ()
    """Each training example: its inputs and its labels, as bounded text."""
    valset: tuple[tuple[str, str], ...] = ()
    """Each validation (or evaluation) example, likewise."""
    steps: int = 0
    """Steps to come; 0 for an evaluation."""
    attempts: int = 0
    """Attempts to come, validation included."""
    expected_calls: float = 0.0
    """LM calls expected."""
    library: ExperienceLibrary = field(default_factory=ExperienceLibrary)
    """The library the run starts from."""
    instructions: Mapping[str, str] = field(default_factory=dict)
    """The own instructions of each predictor that is taught, by its name, without our block."""
    models: tuple[str, ...] = ()
    """Names of the models that are known to be called."""
    estimate: Estimate | None = None
    """LM calls expected, by stage."""


@dataclass(frozen=True, kw_only=True)
class StepEvent(Event):
    """Base of what happens in a step of the algorithm."""

    step: int
    """Number of the step, from 1, over all epochs."""


@dataclass(frozen=True, kw_only=True)
class StepStarted(StepEvent):
    """A step begins."""

    epoch: int
    """From 1."""
    examples: tuple[int, ...]
    """Indices into the trainset."""
    library: ExperienceLibrary
    """The library the step's attempts are made with."""


@dataclass(frozen=True, kw_only=True)
class AttemptFinished(Event):
    """One attempt ended."""

    stage: str
    """'rollout', 'validation' or 'evaluation'."""
    step: int
    """Step it belongs to; 0 is the input's measurement. For a comparison: which program."""
    rollout: Rollout
    """The attempt."""


@dataclass(frozen=True, kw_only=True)
class GroupCompared(StepEvent):
    """The attempts at one training example were compared."""

    example: int
    """Index into the trainset."""
    teaches: str
    """What the group teaches by: 'contrast', 'mistakes' or 'answers'; empty if nothing was to be learned from it."""
    summaries: tuple[str, ...] = ()
    """The summary of each usable attempt; empty text where the attempt was read whole."""
    comparison: str = ""
    """What made the difference, in the reflection's words."""
    edits: tuple[Edit, ...] = ()
    """What the comparison proposes."""
    lost: tuple[str, ...] = ()
    """Reflection replies that could not be used, as 'stage: reason'."""


@dataclass(frozen=True, kw_only=True)
class Consolidated(StepEvent):
    """All proposals of a step became one plan."""

    proposals: tuple[Edit, ...]
    """What went in, in order: P1, P2, ..."""
    plan: tuple[Edit, ...]
    """What came out."""
    reasoning: str = ""
    """Why, in the reflection's words."""
    dispositions: Mapping[str, str] = field(default_factory=dict)
    """Where each proposal went, by its number ('P3': 'merged into E2')."""
    lost: str = ""
    """Why the reply could not be used; the proposals themselves are then the plan."""


@dataclass(frozen=True, kw_only=True)
class EntriesChecked(StepEvent):
    """New and changed entries were held against labelled examples."""

    supported: Mapping[str, tuple[int, ...]]
    """Examples that each entry decided rightly, by its id."""
    contradicted: Mapping[str, tuple[int, ...]]
    """Examples that each entry decided wrongly, by its id."""
    uncovered: tuple[int, ...] = ()
    """Examples that no entry decided."""
    disagreeing: tuple[tuple[str, str], ...] = ()
    """Pairs of entries that decided the same example differently."""
    repaired: tuple[str, ...] = ()
    """Entries that were sent back and rewritten."""
    lost: tuple[str, ...] = ()
    """Replies that could not be used."""


@dataclass(frozen=True, kw_only=True)
class EditApplied(StepEvent):
    """An edit took effect."""

    edit: Edit
    """The edit."""
    before: Experience | None
    """The entry before; None for an addition."""
    after: Experience | None
    """The entry after; None for a deletion."""


@dataclass(frozen=True, kw_only=True)
class EditRefused(StepEvent):
    """An edit did not take effect."""

    edit: Edit
    """The edit."""
    reason: str
    """Why, in a sentence."""
    held: bool = False
    """Whether the user may let the entry in (`allow=`): it looks like an instruction smuggled in by a tool's result."""


@dataclass(frozen=True, kw_only=True)
class StepEnded(StepEvent):
    """A step is over; the measurement of its library may still be under way."""

    epoch: int
    """Its epoch."""
    steps: int
    """Steps of the run in all."""
    examples: int
    """Examples of the step."""
    train_mean: float | None
    """Mean score of its scored attempts; None if nothing was scored."""
    informative: float
    """Share of groups with a contrast, 0 to 1."""
    mistakes: float
    """Share of groups that taught by mistakes alone, 0 to 1."""
    library: ExperienceLibrary
    """The library after the step."""
    lost: Mapping[str, int] = field(default_factory=dict)
    """Reflection replies that could not be used, as 'stage: reason', counted."""
    attempts: int = 0
    """Attempts of the step."""
    scored: int = 0
    """Those of them that are in `train_mean`."""
    spend: tuple[Spend, ...] = ()
    """What its attempts and its reflection spent, by stage and model; its library is measured afterwards."""


@dataclass(frozen=True, kw_only=True)
class LibraryMeasured(Event):
    """A library was measured on the valset; step 0 is the input program."""

    step: int
    """Step that made the library."""
    scores: tuple[float | None, ...]
    """Mean score of each validation example over its repeats; None is unscored."""
    mean: float | None
    """Mean over the scored examples."""
    interval: tuple[float, float] | None
    """Its 95% interval."""
    scored: int
    """Examples with a score."""
    distinct: int | None = None
    """Distinct inputs among these: what the interval is over. None: each example counts as its own."""
    tool_calls: float | None = None
    """Tool calls of a scored attempt, on average."""
    tokens: float | None = None
    """Billed tokens of a scored attempt, on average."""


@dataclass(frozen=True, kw_only=True)
class Notice(Event):
    """Something the user should know while the run goes on: an outage waited out, a temperature refused, ..."""

    text: str
    """One sentence."""
    level: str = "warning"
    """'info' or 'warning'."""


@dataclass(frozen=True, kw_only=True)
class RunEnded(Event):
    """The run is over."""

    stop_reason: str
    """'completed', or why it ended early."""
    verdict: str
    """What may be said of the result, in a sentence."""
    improved: bool | None = None
    """Whether the gain is beyond noise; None if it was not measured."""
    gain: float | None = None
    """Mean paired gain on the valset."""
    interval: tuple[float, float] | None = None
    """Its interval."""
    step: int = 0
    """Step whose library was returned."""
    library: ExperienceLibrary = field(default_factory=ExperienceLibrary)
    """The library that was returned."""
    spend: tuple[Spend, ...] = ()
    """What was spent, by stage and model."""
    warnings: tuple[str, ...] = ()
    """What the user should know, a sentence each."""
    seconds: float = 0.0
    """Wall time of this process's part."""


Listener = Callable[[Event], object]
"""A function that is called with every event; what it returns is not used."""


def to_record(event: Event) -> dict[str, Any]:
    """The event as JSON data: `event` is its kind, `schema_version` the version of its shape."""
    return {"event": type(event).__name__, "schema_version": SCHEMA_VERSION, **dataclasses.asdict(event)}
