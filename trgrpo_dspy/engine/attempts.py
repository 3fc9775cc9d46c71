"""Attempts as work for the pool."""

from __future__ import annotations

import functools
from dataclasses import replace

import dspy

from trgrpo_dspy.engine.calls.units import Unit
from trgrpo_dspy.events import AttemptFinished
from trgrpo_dspy.program.rollout import Rollout

from .flows import Task
from .runner import Runner

__all__ = ["attempt_task"]


def attempt_task(
    runner: Runner,
    program: dspy.Module,
    example: dspy.Example,
    unit: Unit,
    *,
    index: int,
    attempt: int,
    timeout: float | None = None,
    remaining: int = 0,
    shown: tuple[str, ...] = (),
) -> Task:
    """One attempt of the program at an example; its result is a `Rollout`.

    Args:
        runner: Runs it.
        program: A copy that is the run's own.
        example: The example.
        unit: The unit of work its LM calls belong to.
        index: Index of the example in its set.
        attempt: Index of the attempt within its group.
        timeout: Seconds of its own time after which it is given up, unscored; None waits.
        remaining: Stages that follow it.
        shown: Ids of the library's entries that the program carries.
    """

    def make() -> Rollout:
        return replace(runner.attempt(program, example, unit, index=index, attempt=attempt), shown=shown)

    return Task(
        unit.stage,
        make,
        remaining,
        unit=unit,
        timeout=timeout,
        on_timeout=functools.partial(runner.abandon, unit, index=index, attempt=attempt, seconds=timeout),
        event=lambda rollout: AttemptFinished(
            stage=unit.stage.value, step=unit.step, rollout=rollout, replayed=unit.replayed
        ),
    )
