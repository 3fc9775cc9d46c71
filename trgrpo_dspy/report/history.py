"""What a run did, as frozen records made from the events in its log directory alone.

Guarantees:

- Nothing of the run's process is needed: the run may be over, killed, or still going on. What it has not reached yet is
  None or empty.
- A resumed run tells its whole story again, so the records are of the last process's story.
- Texts are what the events hold, as data; a lone surrogate, which UTF-8 can't hold, is a replacement character.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from pydantic import TypeAdapter, ValidationError

from trgrpo_dspy import events
from trgrpo_dspy.engine.journal.eventlog import read_events
from trgrpo_dspy.errors import JournalError
from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.library.library import ExperienceLibrary
from trgrpo_dspy.meter.meter import Spend, total_spend
from trgrpo_dspy.program.rollout import Rollout

from .records import EntryHistory, Failure, Group, Measured, Step, entry_history

__all__ = ["RunHistory", "read_run"]

E = TypeVar("E", bound=events.Event)

_Story: TypeAlias = dict[tuple[type[events.Event], int | None], list[Any]]
"""The events of one process by kind, and by kind and step."""
OFFLINE = "offline/"
"""What the names of the built-in text model begin with."""


@dataclass(frozen=True)
class RunHistory:
    """Everything the events of a run say."""

    log_dir: Path
    """The directory it was read from."""
    started: events.RunStarted
    """What was run: options, program, examples, the library it starts from."""
    steps: tuple[Step, ...] = ()
    """The steps that have begun, in order."""
    measured: Mapping[int, Measured] = field(default_factory=dict)
    """What was measured, by step; 0 is the input. In an evaluation: by program."""
    notices: tuple[events.Notice, ...] = ()
    """What the user should know, in order."""
    ended: events.RunEnded | None = None
    """Verdict, spend, warnings; None while the run goes on or if its process was killed."""

    @property
    def libraries(self) -> dict[int, ExperienceLibrary]:
        """The library after each step that has ended; 0 is the one that the run started from."""
        after = {step.step: step.ended.library for step in self.steps if step.ended is not None}
        return {0: self.started.library, **after}

    @property
    def library(self) -> ExperienceLibrary:
        """The library that was returned; while the run goes on, the newest one."""
        return self.ended.library if self.ended is not None else list(self.libraries.values())[-1]

    @property
    def attempts(self) -> tuple[Rollout, ...]:
        """All attempts that have ended: of the steps, then of the measurements."""
        return tuple(rollout for _, rollout in _located(self))

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models that were called, or that are to be called."""
        names = (*(row.model for row in self.spend), *self.started.models)
        return tuple(dict.fromkeys(filter(None, names)))

    @property
    def offline(self) -> bool:
        """Whether the built-in text model took part, which is no large language model."""
        return any(name.startswith(OFFLINE) for name in self.models)

    @property
    def spend(self) -> tuple[Spend, ...]:
        """What was spent, by stage and model; empty until the run has ended."""
        return self.ended.spend if self.ended is not None else ()

    @property
    def total(self) -> Spend:
        """What was spent in all."""
        return total_spend(self.spend)

    @property
    def failures(self) -> tuple[Failure, ...]:
        """What went wrong, by kind: attempts in order of their outcomes, then replies of the reflection."""
        return (*_attempt_failures(self), *_reply_failures(self.steps))

    def entry_history(self, entry_id: str) -> EntryHistory:
        """Everything that happened to an entry.

        Raises:
            KeyError: No library of the run has an entry with this id; the message names the ids that are known.
        """
        return entry_history(entry_id, self.steps, self.started.library, self.library)


def read_run(log_dir: str | os.PathLike[str]) -> RunHistory:
    """Read what a run did so far.

    Args:
        log_dir: The directory that was given to the run as `log_dir`.

    Raises:
        OSError: There is no `events.jsonl`.
        JournalError: The log holds no run yet, or can't be read.
        SchemaVersionError: It was written by a newer version.
    """
    directory = Path(log_dir).expanduser()
    found = [event for record in read_events(directory / "events.jsonl") if (event := _event(record))]
    begins = [i for i, event in enumerate(found) if isinstance(event, events.RunStarted)]
    if not begins:
        raise JournalError(f"{os.fspath(log_dir)!r} holds no run yet: its events.jsonl does not say that one began")
    story: _Story = {}
    for event in found[begins[-1] :]:
        for step in {None, getattr(event, "step", None)}:
            story.setdefault((type(event), step), []).append(event)
    started = _of(events.RunStarted, story)[0]
    attempts = sorted(_of(events.AttemptFinished, story), key=lambda e: (e.rollout.example, e.rollout.attempt))
    last = {(e.stage == "rollout", e.step, e.rollout.example, e.rollout.attempt): e.rollout for e in attempts}
    rollouts: dict[tuple[int, int], list[Rollout]] = {}
    measured: dict[int, list[Rollout]] = {}
    for (learning, step, example, _), rollout in last.items():
        (rollouts.setdefault((step, example), []) if learning else measured.setdefault(step, [])).append(rollout)
    results = {event.step: event for event in _of(events.LibraryMeasured, story)}
    return RunHistory(
        directory,
        started,
        tuple(_step(begun, story, started, rollouts) for begun in _of(events.StepStarted, story)),
        {step: Measured(step, tuple(measured[step]), results.get(step)) for step in sorted(measured)},
        tuple(_of(events.Notice, story)),
        next(iter(_of(events.RunEnded, story)), None),
    )


def _of(kind: type[E], story: _Story, step: int | None = None) -> list[E]:
    """The events of a kind, in order; with `step` those of that step."""
    return story.get((kind, step), [])


def _step(
    begun: events.StepStarted,
    story: _Story,
    started: events.RunStarted,
    rollouts: Mapping[tuple[int, int], list[Rollout]],
) -> Step:
    number = begun.step
    compared = {event.example: event for event in _of(events.GroupCompared, story, number)}

    def group(example: int) -> Group:
        task, expected = started.trainset[example] if example < len(started.trainset) else ("", "")
        attempts = tuple(rollouts.get((number, example), ()))
        return Group(number, example, task, expected, attempts, compared.get(example))

    return Step(
        number,
        begun.epoch,
        begun.library,
        tuple(map(group, begun.examples)),
        next(iter(_of(events.Consolidated, story, number)), None),
        next(iter(_of(events.EntriesChecked, story, number)), None),
        tuple(_of(events.EditApplied, story, number)),
        tuple(_of(events.EditRefused, story, number)),
        next(iter(_of(events.StepEnded, story, number)), None),
    )


def _located(run: RunHistory) -> list[tuple[str, Rollout]]:
    """All attempts, each with where it was made."""
    found = [(f"step {g.step}, example {g.example}", r) for s in run.steps for g in s.groups for r in g.attempts]
    return found + [(f"validation {m.step}, example {r.example}", r) for m in run.measured.values() for r in m.attempts]


def _attempt_failures(run: RunHistory) -> list[Failure]:
    found: dict[Outcome, list[tuple[str, str]]] = {}
    for where, rollout in _located(run):
        if rollout.outcome.failed or rollout.outcome.scoreless:
            found.setdefault(rollout.outcome, []).append((rollout.error, where))
    first = {outcome: next((pair for pair in pairs if pair[0]), pairs[0]) for outcome, pairs in found.items()}
    return [Failure(o.value, len(found[o]), o.scoreless, *first[o]) for o in Outcome if o in found]


def _reply_failures(steps: Sequence[Step]) -> list[Failure]:
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for step in steps:
        for reason, count in (step.ended.lost if step.ended is not None else {}).items():
            counts[reason] += count
            first.setdefault(reason, f"step {step.step}")
    return [Failure(reason, count, True, "", first[reason]) for reason, count in counts.items()]


@cache
def _adapter(kind: str) -> TypeAdapter[Any] | None:
    found = getattr(events, kind, None) if kind in events.__all__ else None
    return TypeAdapter(found) if isinstance(found, type) and issubclass(found, events.Event) else None


def _event(record: Mapping[str, Any]) -> events.Event | None:
    """The record as an event; None for a kind that this version does not know."""
    adapter = _adapter(str(record["event"]))
    try:
        return None if adapter is None else adapter.validate_python(_whole(record))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        at = ".".join(map(str, first["loc"]))
        raise JournalError(
            f"an event {record['event']} can't be read: {at}: {first['msg']}; run again with the same log_dir to have "
            "events.jsonl written anew"
        ) from error


def _whole(value: Any) -> Any:
    """The value with every lone surrogate replaced; a number that is not finite is none."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {_whole(key): _whole(item) for key, item in value.items()}
    return [_whole(item) for item in value] if isinstance(value, list) else value
