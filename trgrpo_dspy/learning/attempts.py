"""The attempts of a run, as flows of the pool: groups that are rolled out and compared, libraries that are measured."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import dspy

from trgrpo_dspy.engine.attempts import attempt_task, evaluation_flows
from trgrpo_dspy.engine.calls.units import Unit
from trgrpo_dspy.engine.seeds import derive_seed
from trgrpo_dspy.errors import FatalError
from trgrpo_dspy.events import GroupCompared
from trgrpo_dspy.failures.messages import describe
from trgrpo_dspy.library.library import ExperienceLibrary
from trgrpo_dspy.meter.meter import Stage
from trgrpo_dspy.program.carrying import write_library
from trgrpo_dspy.program.examples import expected_text, task_text
from trgrpo_dspy.program.rollout import Rollout

from .driver import REMAINING, Driver
from .evidence import falls_short
from .group import RolloutGroup
from .reflection import Context, Lessons, Reflection

if TYPE_CHECKING:
    from trgrpo_dspy.engine.flows import Flow
    from trgrpo_dspy.engine.pool import Task
    from trgrpo_dspy.engine.session import Session

    from .schedule import Step
    from .setup import Setup

__all__ = ["Attempts"]

T = TypeVar("T")

_OBSERVED = 100_000
"""Characters of one transcript with tool results that entries are compared with."""


class Attempts:
    """Makes the attempts of one run."""

    def __init__(self, setup: Setup, session: Session, driver: Driver) -> None:
        """Make attempts at the setup's examples within a session; comparisons go through the driver."""
        self._setup, self._session, self._driver = setup, session, driver

    def program_with(self, library: ExperienceLibrary) -> dspy.Module:
        """A copy of the student that carries the library and is the run's own."""
        program = self._session.copy(self._setup.student)
        write_library(program, library, self._setup.names)
        return program

    def lessons(
        self, step: Step, examples: Sequence[int], program: dspy.Module, library: ExperienceLibrary, ceiling: float
    ) -> Flow[Lessons]:
        """A few neighbouring groups: attempts, the choice of those that teach, their comparison."""
        options, size = self._setup.options, self._setup.options.group_size or 1
        shown = [[self._shown(step, i, a, library) for a in range(size)] for i in examples]
        programs = {id(library): program}
        tasks = []
        for index, exposed in zip(examples, shown, strict=True):
            for attempt, part in enumerate(exposed):
                if id(part) not in programs:
                    programs[id(part)] = self.program_with(part)
                tasks.append(self.task(step, index, attempt, programs[id(part)], part))
        rollouts = yield tasks
        groups = []
        for n, index in enumerate(examples):
            own = rollouts[n * size : (n + 1) * size]
            groups.append(self.group(index, own))
        teaches = tuple((g.example, by) for g in groups if (by := _ask_user("learn_from", options.teaches, g, ceiling)))
        teaching = [g for g in groups if g.example in dict(teaches)]
        found: tuple[Reflection, ...] = ()
        if teaching:
            right = tuple(g for g in groups if g.usable and not g.label_free and not falls_short(g, ceiling))
            steps = self._setup.reflector.reflect(teaching, Context(self._setup.program, library, right))
            found = yield from self._driver.drive(steps, step.index)
        self._emit_compared(step, groups, dict(teaches), found)
        seen = tuple(r.transcript[:_OBSERVED] for g in teaching for r in g.rollouts if r.tool_calls)
        return Lessons(tuple(g.without_transcripts() for g in groups), teaches, found, seen)

    def task(self, step: Step, index: int, attempt: int, program: dspy.Module, library: ExperienceLibrary) -> Task:
        """One attempt of a group, as work for the pool."""
        options = self._setup.options
        unit = Unit(
            Stage.ROLLOUT, step.index, ("rollout", step.index, index, attempt),
            resample=True, temperature=options.rollout_temperature, library=library.digest,
        )  # fmt: skip
        return attempt_task(
            self._session.runner, program, self._setup.trainset[index], unit,
            index=index, attempt=attempt, timeout=options.rollout_timeout, remaining=REMAINING,
            shown=tuple(entry.id for entry in library),
        )  # fmt: skip

    def group(self, index: int, rollouts: Sequence[Rollout]) -> RolloutGroup:
        """The attempts at an example, as the reflection sees them."""
        example, label_free = self._setup.trainset[index], self._setup.options.metric is None
        expected = "" if label_free else expected_text(example)
        return RolloutGroup(index, task_text(example), expected, tuple(rollouts), label_free)

    def measuring(self, step: int, library: ExperienceLibrary) -> list[Flow[tuple[Rollout, ...]]]:
        """The attempts that measure a library on the valset, at the program's own temperature."""
        options = self._setup.options
        return evaluation_flows(
            self._session.runner, self.program_with(library), self._setup.valset, options.val_repeats,
            Stage.VALIDATION, step, timeout=options.rollout_timeout, library=library.digest,
            shown=tuple(entry.id for entry in library),
        )  # fmt: skip

    def _shown(self, step: Step, index: int, attempt: int, library: ExperienceLibrary) -> ExperienceLibrary:
        options = self._setup.options
        rng = random.Random(derive_seed(options.seed, "exposure", step.index, index, attempt))
        shown = _ask_user("expose", options.expose, library, self._setup.trainset[index], rng)
        if not isinstance(shown, ExperienceLibrary):
            raise FatalError(
                f"expose= must return an ExperienceLibrary, got {type(shown).__name__}; see library.only(ids)"
            )
        return shown

    def _emit_compared(
        self, step: Step, groups: Sequence[RolloutGroup], teaches: dict[int, str], found: Sequence[Reflection]
    ) -> None:
        of = {example: reflection for reflection in found for example in reflection.examples}
        for group in groups:
            reflection = of.get(group.example)
            self._session.emit(
                GroupCompared(
                    step=step.index,
                    example=group.example,
                    teaches=teaches.get(group.example, ""),
                    summaries=tuple(reflection.summaries.get(group.example, ())) if reflection else (),
                    comparison=reflection.comparison if reflection else "",
                    edits=tuple(e for e in reflection.edits if group.example in e.sources) if reflection else (),
                    lost=reflection.lost if reflection else (),
                )
            )


def _ask_user(option: str, function: Callable[..., T], *args: Any) -> T:
    """Call a function of the user's; what it raises ends the run, with the best program so far."""
    try:
        return function(*args)
    except Exception as error:
        raise FatalError(f"{option}= raised {describe(error)}") from error
