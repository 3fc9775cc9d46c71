"""An estimate with tokens and cost, from a few trial calls at the first examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trgrpo_dspy.engine.calls.backends import TOO_MANY_LOST
from trgrpo_dspy.engine.flows import single
from trgrpo_dspy.errors import InfrastructureError, RunStopped
from trgrpo_dspy.meter.estimate import Estimate
from trgrpo_dspy.meter.meter import Stage

from .attempts import Attempts
from .driver import Driver
from .evidence import Evidence
from .reflection import Context
from .schedule import Step

if TYPE_CHECKING:
    from trgrpo_dspy.engine.session import Session

    from .setup import Setup

__all__ = ["trial"]


def trial(setup: Setup, session: Session, sample: int) -> Estimate:
    """Make trial attempts, each at another example, one more at the first, and one call of each reflection step.

    Raises:
        ValueError: The trial calls were ended by a budget, or nothing could be scored.
        InfrastructureError: The trial calls were lost to outages.
    """
    try:
        return _try(setup, session, sample)
    except RunStopped as stopped:
        if (reason := session.stop_reason) == "unscored":
            raise ValueError(f"sample={sample}: {session.problem}") from stopped
        if reason != "error_rate":
            raise ValueError(
                f"sample={sample}: its calls were ended by {reason}; take a smaller sample or a larger budget"
            ) from stopped
        raise InfrastructureError(f"the estimate was given up: {TOO_MANY_LOST}") from stopped


def _try(setup: Setup, session: Session, sample: int) -> Estimate:
    driver, step = Driver(session, setup.reflection_lm), Step(0, 0, ())
    attempts = Attempts(setup, session, driver)
    session.gate.bind(setup.reflector)
    program = attempts.program_with(setup.start)
    pairs = [(index, 0) for index in range(min(sample, len(setup.trainset)))] + [(0, 1)]
    tasks = [attempts.task(step, index, attempt, program, setup.start) for index, attempt in pairs]
    rollouts = session.run([single(task) for task in tasks])
    group = attempts.group(0, [rollouts[0], rollouts[-1]])
    context = Context(setup.program, setup.start)
    if group.usable:
        (found,) = session.run([driver.drive(setup.reflector.reflect([group], context), 0)])
        proposals = [edit for reflection in found for edit in reflection.edits] * 4
        session.run([driver.drive(setup.reflector.consolidate(proposals, Evidence(), context), 0)])
    spend = session.meter.spend()
    per_attempt = sum(row.calls for row in spend if row.stage == Stage.ROLLOUT.value) / len(pairs)
    growth = max(0.0, setup.limits.max_tokens / 2 - setup.start.tokens)  # from nothing to full, on average half
    return setup.estimate(per_attempt).priced(spend, len(pairs), steps=len(setup.schedule), growth=growth)
