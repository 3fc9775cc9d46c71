"""Drives sequences of reflection calls (`learning/steps.py`) as tasks of the run's pool.

Each call is a unit of work of its own: its replies are journaled under its stage, step and key. A reply that can't be
used is lost and counted, with its reason, never guessed at.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any, TypeVar

import dspy
from dspy.utils.exceptions import AdapterParseError

from trgrpo_dspy.engine.calls.units import Unit
from trgrpo_dspy.engine.pool import Task
from trgrpo_dspy.failures.classify import Failure, classify
from trgrpo_dspy.failures.messages import describe
from trgrpo_dspy.meter.meter import Stage

from .steps import Ask, Reply, Steps

if TYPE_CHECKING:
    from trgrpo_dspy.engine.flows import Flow
    from trgrpo_dspy.engine.session import Session

__all__ = ["REMAINING", "Driver"]

T = TypeVar("T")
logger = logging.getLogger(__name__)

REMAINING = 4
"""Stages that follow an attempt: the pool takes the longest remaining chain first."""
_REMAINING = {Stage.SUMMARY: 3, Stage.COMPARISON: 2, Stage.PROPOSALS: 1}


class Driver:
    """Makes the reflection calls of one run."""

    def __init__(self, session: Session, reflection_lm: dspy.BaseLM | None) -> None:
        """Make calls through the session's gate, with this LM; None where each step has its own."""
        self._session, self._lm = session, reflection_lm

    def drive(self, steps: Steps[T], step: int) -> Flow[T]:
        """The sequence as a flow of the pool, for one step of the run."""
        replies: list[Reply] | None = None
        while True:
            try:
                asked = next(steps) if replies is None else steps.send(replies)
            except StopIteration as end:
                return end.value
            replies = (yield [self._task(ask, step) for ask in asked]) if asked else []

    def _task(self, ask: Ask, step: int) -> Task:
        unit = Unit(ask.stage, step, (ask.stage.value, step, *ask.key), resample=True)
        remaining = _REMAINING.get(ask.stage, 0)
        if self._lm is not None and not self._session.gate.has_answered(self._lm):
            remaining = REMAINING + 1  # its key may be wrong: that is to be known before more is paid for
        return Task(
            functools.partial(self._make, unit, ask),
            remaining,
            unit=unit,
            on_timeout=functools.partial(self._give_up, unit),
        )

    def _make(self, unit: Unit, ask: Ask) -> Reply:
        """Make one call; what can't be used is lost."""
        with self._session.gate.context(unit, lm=self._lm, trace=None):
            try:
                value = ask.call()
            except Exception as error:  # the reflector may be the user's own
                self._session.runner.end_if_fatal(error)
                logger.debug("%s lost: %s", unit.id, describe(error))
                return _lost(ask.stage, "cut by length" if unit.truncated else _why(error))
        return _lost(ask.stage, "cut by length") if unit.truncated else Reply(value)

    def _give_up(self, unit: Unit) -> Reply:
        """The result of a call that never came back."""
        self._session.gate.abandon(unit)
        return _lost(unit.stage, "infrastructure")


def _lost(stage: Stage, reason: str) -> Reply:
    return Reply(lost=f"{stage.value}: {reason}")


def _why(error: Any) -> str:
    if classify(error) is Failure.INFRASTRUCTURE:
        return "infrastructure"
    return "unusable reply" if isinstance(error, AdapterParseError) else describe(error, 120)
