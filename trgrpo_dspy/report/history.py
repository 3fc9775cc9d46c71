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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from trgrpo_dspy import events
from trgrpo_dspy.engine.journal.eventlog import read_events
from trgrpo_dspy.errors import JournalError
from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.library import ExperienceLibrary
from trgrpo_dspy.meter import Spend, total_spend
from trgrpo_dspy.program.rollout import Rollout

from .entries import EntryHistory, entry_history
from .records import Failure, Group, Measured, Step

__all__ = ["RunHistory", "read_run"]

E = TypeVar("E", bound=events.Event)

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
        rollouts = [r for step in self.steps for group in step.groups for r in group.attempts]
        return (*rollouts, *(r for found in self.measured.values() for r in found.attempts))

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models that were called, or that are to be called."""
        spent = (row.model for row in self.spend)
        return tuple(dict.fromkeys(name for name in (*spent, *self.started.models) if name))

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
    story = _Story(found[begins[-1] :])
    (started,) = story.all(events.RunStarted)
    return RunHistory(
        directory,
        started,
        tuple(_step(begun, story, started) for begun in story.all(events.StepStarted)),
        {step: Measured(step, tuple(story.measured[step]), story.results.get(step)) for step in sorted(story.measured)},
        tuple(story.all(events.Notice)),
        next(iter(story.all(events.RunEnded)), None),
    )


class _Story:
    """The events of one process, by kind."""

    def __init__(self, found: Iterable[events.Event]) -> None:
        self._by_kind: dict[type[events.Event], list[Any]] = {}
        for event in found:
            self._by_kind.setdefault(type(event), []).append(event)
        attempts = {
            (e.stage == "rollout", e.step, e.rollout.example, e.rollout.attempt): e.rollout
            for e in self.all(events.AttemptFinished)
        }
        self.rollouts: dict[tuple[int, int], list[Rollout]] = {}
        self.measured: dict[int, list[Rollout]] = {}
        for (learning, step, example, _), rollout in sorted(attempts.items(), key=lambda pair: pair[0]):
            if learning:
                self.rollouts.setdefault((step, example), []).append(rollout)
            else:
                self.measured.setdefault(step, []).append(rollout)
        self.results = {event.step: event for event in self.all(events.LibraryMeasured)}

    def all(self, kind: type[E]) -> list[E]:
        return self._by_kind.get(kind, [])

    def of_step(self, kind: type[E], step: int) -> tuple[E, ...]:
        return tuple(event for event in self.all(kind) if getattr(event, "step", None) == step)


def _step(begun: events.StepStarted, story: _Story, started: events.RunStarted) -> Step:
    compared = {event.example: event for event in story.of_step(events.GroupCompared, begun.step)}

    def group(example: int) -> Group:
        task, expected = started.trainset[example] if example < len(started.trainset) else ("", "")
        attempts = tuple(story.rollouts.get((begun.step, example), ()))
        return Group(begun.step, example, task, expected, attempts, compared.get(example))

    return Step(
        begun.step,
        begun.epoch,
        begun.library,
        tuple(map(group, begun.examples)),
        next(iter(story.of_step(events.Consolidated, begun.step)), None),
        next(iter(story.of_step(events.EntriesChecked, begun.step)), None),
        story.of_step(events.EditApplied, begun.step),
        story.of_step(events.EditRefused, begun.step),
        next(iter(story.of_step(events.StepEnded, begun.step)), None),
    )


def _attempt_failures(history: RunHistory) -> list[Failure]:
    found: dict[Outcome, list[str]] = {}
    where = [(f"step {g.step}, example {g.example}", r) for s in history.steps for g in s.groups for r in g.attempts]
    where += [(f"validation {m.step}, example {r.example}", r) for m in history.measured.values() for r in m.attempts]
    first: dict[Outcome, tuple[str, str]] = {}
    for place, rollout in where:
        if rollout.outcome.failed or rollout.outcome.scoreless:
            found.setdefault(rollout.outcome, []).append(place)
            if rollout.error:
                first.setdefault(rollout.outcome, (rollout.error, place))
    return [
        Failure(o.value, len(found[o]), o.scoreless, *first.get(o, ("", found[o][0]))) for o in Outcome if o in found
    ]


def _reply_failures(steps: Iterable[Step]) -> list[Failure]:
    counts: dict[str, int] = {}
    first: dict[str, str] = {}
    for step in steps:
        for reason, count in (step.ended.lost if step.ended is not None else {}).items():
            counts[reason] = counts.get(reason, 0) + count
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
