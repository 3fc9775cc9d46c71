"""How one group becomes proposals: steps 1 to 5 of the algorithm, as a flow of tasks.

A group flows on as soon as its own attempts are there; it depends on nothing outside itself but the library as it stood
at the start of the step. What a reply can't be used for is lost and counted, never guessed at.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError

from trgrpo_dspy.engine.attempts import attempt_task
from trgrpo_dspy.engine.calls.units import Unit
from trgrpo_dspy.engine.flows import Flow, Task
from trgrpo_dspy.engine.runner import Runner, expected_text, task_text
from trgrpo_dspy.failures.classify import Failure, classify
from trgrpo_dspy.failures.messages import describe
from trgrpo_dspy.learning.group import RolloutGroup
from trgrpo_dspy.learning.schedule import Step
from trgrpo_dspy.library import Edit, ExperienceLibrary
from trgrpo_dspy.meter import Stage
from trgrpo_dspy.program.rollout import Rollout

from .reflector import Comparison, Lesson, Reflector, with_sources
from .settings import Settings

__all__ = ["Groups", "Learned", "Reply", "edits_of", "single"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Learned:
    """What one group gave."""

    group: RolloutGroup
    edits: tuple[Edit, ...] = ()
    lost: tuple[str, ...] = ()
    """Reflection replies that could not be used, as 'stage: reason'."""
    identical: bool = False
    """Whether all usable attempts came back word for word the same."""

    @classmethod
    def of(cls, group: RolloutGroup, edits: tuple[Edit, ...] = (), lost: tuple[str, ...] = ()) -> Learned:
        """Keep what a step still asks for: no transcripts, however many groups there are."""
        bare = tuple(replace(r, transcript="", answer="", feedback="") for r in group.rollouts)
        return cls(replace(group, rollouts=bare), edits, lost, group.identical)


@dataclass(frozen=True)
class Reply:
    """A reflection step's result; `lost` says why there is none."""

    value: Any = None
    lost: str = ""


_ATTEMPTS_REMAINING = 4
"""Stages that follow an attempt."""


class Groups:
    """Makes the flows and tasks of a run's groups."""

    def __init__(
        self,
        settings: Settings,
        trainset: Sequence[dspy.Example],
        runner: Runner,
        reflector: Reflector,
        reflection_lm: dspy.BaseLM | None,
        predictors_text: str,
    ) -> None:
        """Prepare the groups of one run.

        Args:
            settings: The optimizer.
            trainset: The examples groups are made of.
            runner: Runs attempts.
            reflector: The run's own copy.
            reflection_lm: LM of the reflection steps.
            predictors_text: The program's predictors, a line each; empty if there is only one.
        """
        self.settings, self.trainset, self.runner = settings, trainset, runner
        self.calls = runner.calls
        self.reflector, self.reflection_lm, self.predictors_text = reflector, reflection_lm, predictors_text

    def flow(self, step: Step, index: int, program: dspy.Module, library: ExperienceLibrary) -> Flow[Learned]:
        """One group: attempts, summaries, comparison, proposals."""
        rollouts = yield [
            self.attempt_task(step, index, attempt, program, library) for attempt in range(self.settings.group_size)
        ]
        group = self.as_group(index, rollouts)
        if not group.informative:
            return Learned.of(group)
        if type(self.reflector).forward is not Reflector.forward:
            (whole,) = yield [self.reflection_task(Stage.COMPARISON, step, index, 0, self._forward, group, library)]
            return Learned.of(group, edits_of(whole, [index]), _losses(whole))
        reflector, text = self.reflector, self.predictors_text
        first: dict[Any, Rollout] = {}
        for rollout in group.usable:  # those that came back the same are summarized once
            if self.settings.summarize == "always" or not reflector.reads_whole(rollout):
                first.setdefault(_told_by(rollout), rollout)
        summaries = yield [
            self.reflection_task(Stage.SUMMARY, step, index, rollout.attempt, reflector.summarize, group, rollout)
            for rollout in first.values()
        ]
        of = dict(zip(first, summaries, strict=True))
        told = [of.get(_told_by(rollout), Reply()).value for rollout in group.usable]
        (compared,) = yield [
            self.reflection_task(Stage.COMPARISON, step, index, 0, reflector.compare, group, told, library, text)
        ]
        lessons = _lessons(compared)
        if not lessons:
            return Learned.of(group, (), _losses(*summaries, compared))
        propose = functools.partial(reflector.propose, source=index)
        (proposed,) = yield [self.reflection_task(Stage.PROPOSALS, step, index, 0, propose, lessons, library, text)]
        return Learned.of(group, edits_of(proposed, [index]), _losses(*summaries, compared, proposed))

    def attempt_task(
        self, step: Step, index: int, attempt: int, program: dspy.Module, library: ExperienceLibrary
    ) -> Task:
        """One attempt of a group, as work for the pool."""
        key = ("rollout", step.index, index, attempt)
        unit = Unit(
            Stage.ROLLOUT, step.index, key,
            resample=True, temperature=self.settings.rollout_temperature, basis=library.digest,
        )  # fmt: skip
        return attempt_task(
            self.runner, program, self.trainset[index], unit,
            index=index, attempt=attempt, timeout=self.settings.rollout_timeout, remaining=_ATTEMPTS_REMAINING,
        )  # fmt: skip

    def as_group(self, index: int, rollouts: Sequence[Rollout]) -> RolloutGroup:
        """The attempts at an example, as the reflection sees them."""
        example, label_free = self.trainset[index], self.settings.metric is None
        expected = "" if label_free else expected_text(example)
        return RolloutGroup(index, task_text(example), expected, tuple(rollouts), label_free)

    def _forward(self, group: RolloutGroup, library: ExperienceLibrary) -> Any:
        return self.reflector(attempts=group, experiences=library, predictors=self.predictors_text).edits

    def reflection_task(
        self, stage: Stage, step: Step, index: int, number: int, run: Callable[..., Any], *args: Any
    ) -> Task:
        """One reflection call, as work for the pool; its result is a `Reply`."""
        unit = Unit(stage, step.index, (stage.value, step.index, index, number), resample=True)
        remaining = {Stage.SUMMARY: 3, Stage.COMPARISON: 2, Stage.PROPOSALS: 1}.get(stage, 0)
        if self.reflection_lm is not None and self.reflection_lm.model not in self.calls.seen.answered:
            remaining = _ATTEMPTS_REMAINING + 1  # its key may be wrong: that is to be known before more is paid for
        return Task(
            stage,
            functools.partial(self._reflect, unit, run, *args),
            remaining,
            unit=unit,
            on_timeout=functools.partial(self._give_up, unit),
        )

    def _reflect(self, unit: Unit, run: Callable[..., Any], *args: Any) -> Reply:
        """Run a reflection step; what can't be used is lost and counted, never guessed at."""
        if self.calls.journal is not None and (known := self.calls.journal.lost(unit.id)):
            return Reply(lost=known)
        with self.calls.context(unit, lm=self.reflection_lm, trace=None):
            try:
                value = run(*args)
            except Exception as error:  # the reflector may be the user's own
                self.runner.end_if_fatal(error)
                logger.debug("%s lost: %s", unit.id, describe(error))
                return self._lose(unit, "cut by length" if unit.truncated else _why_lost(error))
        if unit.truncated:
            return Reply(lost=f"{unit.stage.value}: cut by length")
        return Reply(value)

    def _give_up(self, unit: Unit) -> Reply:
        """The result of a step that never came back."""
        self.calls.abandon(unit)
        return self._lose(unit, "infrastructure")

    def _lose(self, unit: Unit, reason: str) -> Reply:
        """Keep that the step gave nothing: a resumed run does not try again, for what follows rests on it."""
        reason = f"{unit.stage.value}: {reason}"
        if (journal := self.calls.journal) is not None and not self.calls.stopped:
            if self.calls.silent:
                self.calls.keep_later(lambda: journal.lose(unit.id, reason))
            else:
                journal.lose(unit.id, reason)
        return Reply(lost=reason)

    def trial_flow(self, step: Step, group: RolloutGroup, library: ExperienceLibrary, many: int) -> Flow[None]:
        """One call of each reflection step, the last with as many proposals as a step is expected to bring."""
        reflector, text = self.reflector, self.predictors_text
        rollout = group.rollouts[0]
        (told,) = yield [self.reflection_task(Stage.SUMMARY, step, 0, 0, reflector.summarize, group, rollout)]
        summaries = [told.value for _ in group.usable]
        (compared,) = yield [
            self.reflection_task(Stage.COMPARISON, step, 0, 0, reflector.compare, group, summaries, library, text)
        ]
        lessons = _lessons(compared)
        if not lessons:
            return
        propose = functools.partial(reflector.propose, source=0)
        (edits,) = yield [self.reflection_task(Stage.PROPOSALS, step, 0, 0, propose, lessons, library, text)]
        if edits.value:
            all_of_them = list(edits.value) * many
            yield [
                self.reflection_task(Stage.CONSOLIDATION, step, 0, 0, reflector.consolidate, all_of_them, library, text)
            ]


def _told_by(rollout: Rollout) -> tuple[Any, ...]:
    """What a summary is made from: equal for attempts that came back the same."""
    return (rollout.transcript, rollout.score, rollout.feedback)


def _lessons(reply: Reply) -> tuple[Lesson, ...]:
    """The lessons of a comparison; a reflector may be the user's own."""
    if reply.lost:
        return ()
    if not isinstance(reply.value, Comparison):
        raise TypeError(f"Reflector.compare must return a Comparison, got {type(reply.value).__name__}")
    return reply.value.lessons


def edits_of(reply: Reply, sources: Sequence[int]) -> tuple[Edit, ...]:
    """The edits of a reply; those without sources come from all of these."""
    if reply.lost:
        return ()
    found = tuple(reply.value) if isinstance(reply.value, Iterable) else (reply.value,)
    if wrong := [edit for edit in found if not isinstance(edit, Edit)]:
        raise TypeError(f"the reflector must return edits, got a {type(wrong[0]).__name__}; see Edit.parse(...)")
    return tuple(with_sources(edit, sources) for edit in found)


def _why_lost(error: Exception) -> str:
    if classify(error) is Failure.INFRASTRUCTURE:
        return "infrastructure"
    return "unusable reply" if isinstance(error, AdapterParseError) else describe(error, 120)


def _losses(*replies: Reply) -> tuple[str, ...]:
    return tuple(reply.lost for reply in replies if reply.lost)


def single(task: Task) -> Flow[Any]:
    """A flow of one task."""
    (result,) = yield [task]
    return result
