"""Attempts as work for the pool: a single one, and those that measure a program on a set of examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from trgrpo_dspy.events import AttemptFinished

from .calls.units import Unit
from .pool import Task

if TYPE_CHECKING:
    import dspy

    from trgrpo_dspy.meter.meter import Stage
    from trgrpo_dspy.program.rollout import Rollout

    from .flows import Flow
    from .runner import Runner

__all__ = ["attempt_task", "evaluation_flows"]


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
    """`runner.attempt(...)` as work for the pool; the result is a `Rollout`.

    After `timeout` seconds of its own time the attempt is given up, unscored; `remaining` is how many stages of
    its flow are still to come, and the pool takes the longest first; `shown` are the ids of the library's entries that
    the program carries.
    """
    return Task(
        lambda: replace(runner.attempt(program, example, unit, index=index, attempt=attempt), shown=shown),
        remaining,
        unit=unit,
        timeout=timeout,
        on_timeout=lambda: runner.abandon(unit, index=index, attempt=attempt, seconds=timeout),
        event=lambda rollout: AttemptFinished(
            stage=unit.stage.value, step=unit.step, rollout=rollout, replayed=unit.account.replayed
        ),
    )


def evaluation_flows(
    runner: Runner,
    program: dspy.Module,
    examples: Sequence[dspy.Example],
    k: int,
    stage: Stage,
    step: int,
    *,
    timeout: float | None = None,
    temperature: float | None = None,
    library: str = "",
    shown: tuple[str, ...] = (),
) -> list[Flow[tuple[Rollout, ...]]]:
    """One flow for each example: its k attempts, at the program's own temperature unless another is asked for.

    Seeds depend on example and repeat alone, not on the step: libraries are compared on the same draws.
    """

    def flow(index: int) -> Flow[tuple[Rollout, ...]]:
        tasks = []
        for repeat in range(k):
            unit = Unit(
                stage, step, (stage.value, index, repeat),
                resample=repeat > 0 or temperature is not None, temperature=temperature, library=library,
            )  # fmt: skip
            tasks.append(
                attempt_task(
                    runner, program, examples[index], unit, index=index, attempt=repeat, timeout=timeout, shown=shown
                )
            )
        rollouts = yield tasks
        return tuple(replace(r, transcript="", observed="") for r in rollouts)

    return [flow(index) for index in range(len(examples))]
