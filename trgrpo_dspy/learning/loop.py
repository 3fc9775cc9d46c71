"""One call of `compile`: how each step of the algorithm is done with the parts of the package.

`optimizer.py` says which step follows which; the methods here are those steps, in the same order.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import dspy

from trgrpo_dspy.engine.seeds import derive_seed
from trgrpo_dspy.errors import FatalError, RunStopped
from trgrpo_dspy.evaluation.result import DetailedResults, Measurement, step_line
from trgrpo_dspy.evaluation.verdict import with_ending
from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.library.edits import Edit
from trgrpo_dspy.library.library import ExperienceLibrary
from trgrpo_dspy.library.screening import screen
from trgrpo_dspy.program.carrying import carried, write_library
from trgrpo_dspy.program.copies import own_copy
from trgrpo_dspy.program.examples import task_text
from trgrpo_dspy.program.rollout import Rollout

from . import story
from .attempts import Attempts
from .cases import allowed_values, answer_fields, cases_for, label_of
from .check import Verified, closed_labels
from .draft import Draft, answer_key, draft_of, finish
from .driver import Driver
from .evidence import Evidence, Memory, evidence_of
from .record import Record, step_result
from .reflection import Context, Lessons, Plan
from .selection import Ceiling
from .verify import verify

if TYPE_CHECKING:
    from trgrpo_dspy.engine.flows import Batch
    from trgrpo_dspy.engine.session import Session

    from .schedule import Step
    from .setup import Setup

__all__ = ["Checked", "Run"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checked:
    """A plan, applied to a draft and held against labelled examples."""

    draft: Draft
    """The draft."""
    verified: Verified | None
    """What the check came to; None where there was none."""
    lost: tuple[str, ...]
    """Replies of consolidation and check that could not be used."""


class Run:
    """The steps of the algorithm, for one program within one session."""

    def __init__(self, setup: Setup, session: Session) -> None:
        """Take up the run's subject and its session."""
        self.setup, self.session = setup, session
        self.record, self.memory, self.ceiling = Record(setup), Memory(), Ceiling()
        self._driver = Driver(session, setup.reflection_lm)
        self.attempts = Attempts(setup, session, self._driver)
        self._measuring: tuple[int, Batch[tuple[Rollout, ...]]] | None = None
        self._started = time.monotonic()
        session.gate.bind(setup.reflector)

    # -- before and after the loop -----------------------------------------------------------------------------------

    def begin(self) -> dspy.Module | None:
        """Tell the listeners that the run begins; return the result if it was completed by an earlier process."""
        if (results := self._completed()) is not None:
            libraries = {0: self.setup.start, **{step.step: step.library for step in results.steps}}
            return self._compiled(libraries[results.verdict.step], results)
        for warning in self.setup.warnings:
            logger.warning("%s", warning)
        self.session.emit(story.started(self.setup))
        return None

    def _completed(self) -> DetailedResults | None:
        """The results of a run with this journal that was completed before, with as many epochs."""
        session = self.session
        known = session.journal.get("result") if session.journal is not None else None
        if known is not None and known["num_epochs"] == self.setup.options.num_epochs:
            logger.info("the run in %s was completed before: its result is returned", self.setup.options.log_dir)
            if session.files is not None:
                session.files.results(known["results"])  # the file may have been changed, or deleted
            return DetailedResults.from_json(known["results"]).replayed
        if session.calls_before:
            logger.info(
                "going on in %s: %d LM calls were made before", self.setup.options.log_dir, session.calls_before
            )
        return None

    @contextmanager
    def ending(self) -> Iterator[None]:
        """End the loop early without losing what was learned.

        A budget, Ctrl-C, too many errors or no score end it quietly. A fatal error carries the best program so far.
        """
        try:
            yield
        except RunStopped:
            pass
        except FatalError as error:
            error.program = self.result() if self.record.steps or self.record.baseline else None
            raise

    def result(self) -> dspy.Module:
        """Choose the library, say what may be said of it, and write it into a copy of the student."""
        if self._measuring is not None and self._measuring[1].unfinished == 0:
            self.settle()  # it was measured before the run ended
        session, meter = self.session, self.session.meter
        self.record.steps = [replace(step, spend=meter.spend(step.step)) for step in self.record.steps]
        verdict, library = self.record.best(session.stop_reason)
        after, spend, reason = self.record.warnings(), meter.spend(), session.stop_reason or "completed"
        for warning in after:
            logger.warning("%s", warning)
        results = DetailedResults(
            verdict=with_ending(verdict, reason, spend, problem=session.problem, journaled=session.journal is not None),
            baseline=self.record.baseline,
            steps=tuple(self.record.steps),
            stop_reason=reason,
            warnings=(*self.setup.warnings, *after),
            spend=spend,
            estimate=self.setup.estimate(),
            settings=self.setup.options.as_record(),
            seconds=time.monotonic() - self._started,
            calls_before=session.calls_before,
        )
        self._keep_best()
        if session.journal is not None and session.files is not None:
            session.files.results(results.to_json())
            if reason == "completed" and not _lost_to_outages(results):  # else the next process makes that again
                done = {"num_epochs": self.setup.options.num_epochs, "results": results.to_json()}
                session.journal.set("result", done)
        session.emit(story.ended(results, library))
        logger.info("%s", results.verdict.text)
        return self._compiled(library, results)

    def _compiled(self, library: ExperienceLibrary, results: DetailedResults) -> dspy.Module:
        program = own_copy(self.setup.student)
        write_library(program, library, self.setup.names)
        program.experiences = carried(program, self.setup.names)
        program.detailed_results = results
        program._compiled = True
        return program

    # -- the steps of the algorithm ----------------------------------------------------------------------------------

    def measure_input(self) -> ExperienceLibrary:
        """Measure the input on the valset, if there is one; return the library that learning starts from."""
        setup = self.setup
        if setup.valset:
            rollouts = self.session.run(self.attempts.measuring(0, setup.start))
            self.record.baseline = baseline = Measurement.of(0, setup.start, rollouts, setup.inputs)
            self.record.note(r for attempts in rollouts for r in attempts)
            self.ceiling.note(r.score for attempts in rollouts for r in attempts)
            if (
                baseline.mean.n == 0 and not self.session.gate.state.backends.any_unanswered
            ):  # all else would be in vain
                self.record.outcomes.update(baseline.outcomes)
                self.session.gate.stop("unscored")
                raise RunStopped("no validation example could be scored")
            self.session.emit(story.measured(baseline))
            logger.info("input program: validation %s over %s", baseline.mean, baseline.mean.examples)
        return setup.start

    def learn(self, step: Step, library: ExperienceLibrary) -> Lessons:
        """Roll out each example of a batch, choose the groups that teach, and compare them.

        Groups flow through these stages side by side; a few neighbours are compared together.
        """
        self.session.emit(story.step_started(step, library))
        program, reflector = self.attempts.program_with(library), self.setup.reflector
        width = 2 * reflector.groups_per_comparison if reflector.form == "batch" else 1
        chunks = [step.examples[i : i + width] for i in range(0, len(step.examples), width)]
        flows = [self.attempts.lessons(step, chunk, program, library, self.ceiling.value) for chunk in chunks]
        lessons = Lessons()
        for part in self.session.run(flows):
            lessons = lessons.plus(part)
        return lessons

    def consolidate(self, step: Step, lessons: Lessons, library: ExperienceLibrary) -> Plan:
        """Merge all proposals of the step into one plan, with the step's examples side by side."""
        options = self.setup.options
        evidence = Evidence()
        if lessons.teaches and options.evidence and self.setup.reflector.form == "batch":
            rng = random.Random(derive_seed(options.seed, "evidence", step.index))
            memory = self.memory if options.memory else None
            evidence = evidence_of(lessons.groups, self.ceiling.value, memory, rng, step.index)
        context = Context(self.setup.program, library)
        steps = self.setup.reflector.consolidate(lessons.proposals, evidence, context)
        (plan,) = self.session.run([self._driver.drive(steps, step.index)])
        self.session.emit(story.consolidated(step, lessons, plan))
        return plan

    def check(self, step: Step, lessons: Lessons, plan: Plan, library: ExperienceLibrary) -> Checked:
        """Apply the plan to a draft, and hold its new and changed entries against labelled examples."""
        setup, lost = self.setup, plan.lost
        self.memory.note_observed(lessons.groups)
        observed = self.memory.observed
        facts = {i: f"{task_text(example)}\n{observed.get(i, '')}" for i, example in enumerate(setup.trainset)}
        draft = draft_of(
            library,
            (*plan.edits, *lessons.kept),
            step=step.index,
            limits=setup.limits,
            names=setup.names,
            facts=facts,
            observations=lessons.observations,
            allow=setup.options.allow,
        )
        if not draft.changed or setup.reflector.form == "paper" or setup.options.metric is None:
            return Checked(draft, None, lost)
        answers = answer_fields(setup.student)
        cases = cases_for(step.examples, draft.edits.values(), setup.trainset, answers, observed)
        labels = [label_of(example, answers) for example in setup.trainset]
        closed = closed_labels(labels, allowed_values(setup.trainset, answers))

        def objection(edit: Edit) -> str:
            return answer_key(edit.text, facts) or "; ".join(screen(edit.text, lessons.observations))

        checked = cases if setup.options.check_entries else []
        steps = verify(
            setup.reflector, draft.library, draft.changed, checked, closed, setup.program, setup.limits, step.index,
            objection,
        )  # fmt: skip
        (verified,) = self.session.run([self._driver.drive(steps, step.index)])
        self.session.emit(story.checked(step, verified))
        return Checked(draft, verified, (*lost, *verified.lost))

    def update(self, step: Step, lessons: Lessons, checked: Checked) -> ExperienceLibrary:
        """Make the next library, keep the record, and have it measured beside the next step's rollouts."""
        update = finish(checked.draft, checked.verified, self.setup.limits)
        result = step_result(step, lessons, update, [*lessons.lost, *checked.lost])
        self.record.add(result, lessons)
        self.memory.note_scores(step.index, lessons.groups)
        self.memory.note_edits(step.index, update.applied, [(r.edit, r.reason) for r in update.refused])
        self.ceiling.note(r.score for group in lessons.groups for r in group.rollouts)
        for event in story.updated(result, update, len(self.setup.schedule), self.session.meter.spend(step.index)):
            self.session.emit(event)
        if self.session.files is not None:
            self.session.files.library(step.index, update.library)
        self.settle()  # the library before this one has had a whole step's time
        if self.setup.valset and self.setup.is_due(step) and self.record.is_news(update.library):
            self.record.last_measured = update.library
            flows = self.attempts.measuring(step.index, update.library)
            self._measuring = len(self.record.steps) - 1, self.session.begin(flows)
            if self.session.meter.budget.capped or self.setup.options.build_on == "best":  # what is built on is known
                self.settle()
        else:
            logger.info("%s", step_line(result))
            self._keep_best()
        return self.record.base(update.library) if self.setup.options.build_on == "best" else update.library

    def settle(self) -> None:
        """Wait for the library that is being measured, and add what was found to its step."""
        if self._measuring is None:
            return
        at, batch = self._measuring
        rollouts = self.session.finish(batch)
        self._measuring, made = None, self.record.steps[at]
        measured = Measurement.of(made.step, made.library, rollouts, self.setup.inputs)
        self.record.steps[at] = replace(made, validation=measured)
        self.memory.note_measured(made.step, self.record.baseline, measured)
        self.session.emit(story.measured(measured))
        logger.info("%s", step_line(self.record.steps[at]))
        self._keep_best()

    def _keep_best(self) -> None:
        """Write the best program so far into the log directory."""
        if self.session.files is not None:
            self.session.files.program(self.setup.student, self.record.best()[1], self.setup.names)


def _lost_to_outages(results: DetailedResults) -> bool:
    """Whether an attempt or a reflection reply was lost to infrastructure."""
    measured = [results.baseline, *(step.validation for step in results.steps)]
    outcomes = [one.outcomes for one in (*results.steps, *measured) if one is not None]
    lost = [reason for step in results.steps for reason in step.lost]
    infrastructure = Outcome.INFRASTRUCTURE.value
    return any(one.get(infrastructure) for one in outcomes) or any(r.endswith(infrastructure) for r in lost)
