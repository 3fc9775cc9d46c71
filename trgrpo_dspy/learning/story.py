"""The events of learning, made from its records: when they are emitted is decided in `loop.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trgrpo_dspy import events
from trgrpo_dspy.evaluation.statistics.resampling import Interval
from trgrpo_dspy.library.library import ExperienceLibrary
from trgrpo_dspy.meter.meter import Spend
from trgrpo_dspy.program.examples import expected_text, task_text

if TYPE_CHECKING:
    from trgrpo_dspy.evaluation.result import DetailedResults, Measurement, StepResult

    from .check import Verified
    from .draft import Update
    from .reflection import Lessons, Plan
    from .schedule import Step
    from .setup import Setup

__all__ = ["checked", "consolidated", "ended", "measured", "started", "step_started", "updated"]


def started(setup: Setup) -> events.RunStarted:
    """The run begins."""
    options, label_free = setup.options, setup.options.metric is None
    measurements = 1 + sum(map(setup.is_due, setup.schedule)) if setup.valset else 0
    attempts = (
        len(setup.trainset) * (options.num_epochs or 1) * (options.group_size or 1)
        + len(setup.valset) * options.val_repeats * measurements
    )
    return events.RunStarted(
        run="compile",
        options=options.as_record(),
        program=setup.program,
        trainset=tuple((task_text(e), "" if label_free else expected_text(e)) for e in setup.trainset),
        valset=tuple((task_text(e), expected_text(e)) for e in setup.valset),
        steps=len(setup.schedule),
        attempts=attempts,
        expected_calls=setup.estimate().calls,
        library=setup.start,
        instructions=setup.instructions,
        models=setup.models,
        estimate=setup.estimate(),
    )


def step_started(step: Step, library: ExperienceLibrary) -> events.StepStarted:
    """A step begins."""
    return events.StepStarted(step=step.index, epoch=step.epoch, examples=step.examples, library=library)


def consolidated(step: Step, lessons: Lessons, plan: Plan) -> events.Consolidated:
    """Proposals became a plan."""
    return events.Consolidated(
        step=step.index,
        proposals=plan.proposals or lessons.proposals,
        plan=plan.edits,
        reasoning=plan.reasoning,
        dispositions=plan.dispositions,
        lost="; ".join(plan.lost),
    )


def checked(step: Step, verified: Verified) -> events.EntriesChecked:
    """Entries were held against labelled examples."""
    found = verified.findings
    return events.EntriesChecked(
        step=step.index,
        supported=found.supported,
        contradicted=found.contradicted,
        uncovered=found.uncovered,
        disagreeing=found.disagreeing,
        repaired=tuple(edit.id for edit in verified.repaired),
        lost=verified.lost,
    )


def updated(result: StepResult, update: Update, steps: int, spend: tuple[Spend, ...]) -> Iterator[events.Event]:
    """What became of each edit, and the end of the step."""
    for edit, before, after in update.changes:
        yield events.EditApplied(step=result.step, edit=edit, before=before, after=after)
    for refusal in update.refused:
        yield events.EditRefused(step=result.step, edit=refusal.edit, reason=refusal.reason, held=bool(refusal.held))
    yield events.StepEnded(
        step=result.step,
        epoch=result.epoch,
        steps=steps,
        examples=len(result.examples),
        train_mean=result.train_mean,
        informative=result.informative,
        mistakes=result.mistakes,
        library=result.library,
        lost=result.lost,
        attempts=result.attempts,
        scored=result.scored,
        spend=spend,
    )


def measured(found: Measurement) -> events.LibraryMeasured:
    """A library was measured."""
    return events.LibraryMeasured(
        step=found.step,
        scores=found.scores,
        mean=found.mean.value,
        interval=_pair(found.mean.interval),
        scored=found.mean.n,
        distinct=found.mean.distinct,
        tool_calls=found.tool_calls,
        tokens=found.tokens,
    )


def ended(results: DetailedResults, library: ExperienceLibrary) -> events.RunEnded:
    """The run is over."""
    verdict = results.verdict
    return events.RunEnded(
        stop_reason=results.stop_reason,
        verdict=verdict.text,
        improved=verdict.improved,
        gain=verdict.gain,
        interval=_pair(verdict.interval),
        step=verdict.step,
        library=library,
        spend=results.spend,
        warnings=results.warnings,
        seconds=results.seconds,
    )


def _pair(interval: Interval | None) -> tuple[float, float] | None:
    return None if interval is None else (interval.low, interval.high)
