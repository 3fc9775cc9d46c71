"""One call of `compile`: the optimizer's settings at work on one program.

`optimizer.py` says what happens in which order; here is how each step of the algorithm is done with the parts below.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import dspy

from trgrpo_dspy.engine.calls.gate import Calls
from trgrpo_dspy.engine.executors.remote import RemoteRunner
from trgrpo_dspy.engine.flows import Batch, Execution, Flow
from trgrpo_dspy.engine.interrupts import graceful_interrupt
from trgrpo_dspy.engine.journal.fingerprint import fingerprint
from trgrpo_dspy.engine.journal.journal import Journal
from trgrpo_dspy.engine.journal.logdir import LogDir
from trgrpo_dspy.engine.runner import Runner
from trgrpo_dspy.engine.session import run_attempt
from trgrpo_dspy.errors import RunStopped
from trgrpo_dspy.evaluation.evaluate import evaluation_flows
from trgrpo_dspy.evaluation.examples import distinct_inputs
from trgrpo_dspy.evaluation.result import DetailedResults, Measurement, StepResult, Verdict, step_line
from trgrpo_dspy.evaluation.verdict import with_ending
from trgrpo_dspy.evaluation.warnings import warnings_before
from trgrpo_dspy.learning.group import mean
from trgrpo_dspy.learning.schedule import Step, make_schedule
from trgrpo_dspy.library import ExperienceLibrary, LibraryLimits, apply_edits
from trgrpo_dspy.meter import Budget, Meter, Stage
from trgrpo_dspy.meter.estimate import INFORMATIVE, Estimate, estimate_calls
from trgrpo_dspy.program.copies import own_copy
from trgrpo_dspy.program.instructions import teachable_predictors, write_library
from trgrpo_dspy.program.rollout import Rollout

from .groups import Groups, Learned, Reply, edits_of, single
from .record import Record, told
from .settings import LEARNING, Settings, settings_record
from .start import describe_predictors, own_reflector, reflection_lm, starting_library

__all__ = ["Run"]

logger = logging.getLogger(__name__)


class Run:
    """A run; use it as a context manager."""

    def __init__(
        self,
        settings: Settings,
        student: dspy.Module,
        trainset: list[dspy.Example],
        valset: list[dspy.Example],
        library: ExperienceLibrary | None = None,
        *,
        dry: bool = False,
    ) -> None:
        """Set a run up.

        Args:
            settings: The optimizer.
            student: The program; it is not changed.
            trainset: Examples to learn from.
            valset: Examples to choose on; may be empty.
            library: Where to start; None is what the student carries.
            dry: Whether this is for an estimate: no journal.
        """
        self.settings, self.student, self.trainset, self.valset = settings, student, trainset, valset
        self.names = list(teachable_predictors(student, settings.predictors))
        limits = settings.reflector.limits if settings.reflector is not None else LibraryLimits()
        self.limits = replace(limits, max_entries=settings.max_experiences)
        self.start = starting_library(student, self.names, library, self.limits)
        self.schedule = make_schedule(
            len(trainset), batch_size=settings.batch_size, num_epochs=settings.num_epochs, seed=settings.seed
        )
        self.reflector = own_reflector(settings, self.limits)
        self.reflection_lm = reflection_lm(settings, student, self.reflector)
        self.predictors_text = describe_predictors(student, self.names)
        self.warnings = warnings_before(trainset, valset)
        self.inputs = distinct_inputs(valset)
        self.record = Record()
        self.started = time.monotonic()
        self.dry = dry
        self.log_dir = None if dry else settings.log_dir
        self.journal: Journal | None = None
        self.files: LogDir | None = None
        budget = settings.budget or Budget()
        threads = settings.num_threads or max(1, int(dspy.settings.num_threads or 8))
        self.calls = Calls(
            Meter(budget),
            requests_per_minute=settings.requests_per_minute,
            seed=settings.seed,
            width=threads,
        )
        own: dict[str, Any] = {"failure_score": settings.failure_score, "compare_fields": settings.compare_fields}
        self.runner = (
            Runner(self.calls, settings.metric, **own)
            if settings.executor is None
            else RemoteRunner(
                settings.executor, run_attempt, self.calls, settings.metric, timeout=settings.rollout_timeout, **own
            )
        )
        self.groups = Groups(settings, trainset, self.runner, self.reflector, self.reflection_lm, self.predictors_text)
        self.execution = Execution(self.calls, threads)
        self._measuring: tuple[int, Batch[tuple[Rollout, ...]]] | None = None
        self._made_before = 0
        self._exit = ExitStack()

    def __enter__(self) -> Run:
        """Claim the journal, take over Ctrl-C."""
        with ExitStack() as stack:
            if self.log_dir is not None:
                self._resume(stack.enter_context(Journal(self.log_dir)))
            stack.callback(self.calls.close)
            stack.enter_context(self.execution)
            if not self.dry:  # an estimate has nothing to save
                stack.enter_context(graceful_interrupt(lambda: self.calls.stop("interrupted")))
            self.calls.bind(self.reflector)
            self._exit = stack.pop_all()
        for warning in self.warnings:
            logger.warning("%s", warning)
        return self

    def __exit__(self, *exc: object) -> None:
        """Give back what was claimed."""
        self._exit.close()

    def _resume(self, journal: Journal) -> None:
        """Refuse another run's journal; replay from this one's, and count what it paid before."""
        s = self.settings
        journal.check_fingerprint(
            fingerprint(
                program=self.student,
                reflector=self.reflector,
                library=self.start,
                trainset=self.trainset,
                valset=self.valset,
                metric=s.metric,
                settings={name: getattr(s, name) for name in LEARNING},
                lm=dspy.settings.lm,
                reflection_lm=self.reflection_lm,
            )
        )
        self._made_before = self.calls.resume(journal)
        self.journal, self.files = journal, LogDir(journal.directory)
        self.files.config(settings_record(s))

    def program_with(self, library: ExperienceLibrary) -> dspy.Module:
        """A copy of the student that carries the library and is the run's own."""
        program = own_copy(self.student, self.calls.observe)
        write_library(program, library, self.names)
        return program

    # -- the steps of the algorithm --------------------------------------------------------------------------------

    def learn(self, step: Step, library: ExperienceLibrary) -> list[Learned]:
        """Steps 1 to 5 for a batch: groups flow through them side by side."""
        program = self.program_with(library)
        return self.execution.run([self.groups.flow(step, index, program, library) for index in step.examples])

    def consolidate(self, step: Step, groups: Sequence[Learned], library: ExperienceLibrary) -> Reply:
        """Step 6: merge all proposals into one plan, by the LM only if there is something to merge."""
        proposals = [edit for learned in groups for edit in learned.edits if edit.operation != "KEEP"]
        if len(proposals) < 2:
            return Reply(tuple(proposals))
        task = self.groups.reflection_task(
            Stage.CONSOLIDATION, step, 0, 0, self.reflector.consolidate, proposals, library, self.predictors_text
        )
        (reply,) = self.execution.run([single(task)])
        plan = edits_of(reply, [source for edit in proposals for source in edit.sources])
        if not plan:  # lost, or a plan with nothing in it: the proposals themselves are paid for
            return Reply(tuple(proposals), reply.lost or "consolidation: empty plan")
        return Reply(plan)

    def update(
        self, step: Step, groups: Sequence[Learned], plan: Reply, library: ExperienceLibrary
    ) -> ExperienceLibrary:
        """Apply the plan, keep the record, and have the new library measured beside the next step's rollouts."""
        kept = tuple(e for learned in groups for e in learned.edits if e.operation == "KEEP")
        report = apply_edits(library, (*plan.value, *kept), step=step.index, limits=self.limits, predictors=self.names)
        rollouts = [r for learned in groups for r in learned.group.rollouts]
        lost = [reason for learned in groups for reason in learned.lost] + ([plan.lost] if plan.lost else [])
        result = StepResult(
            step=step.index,
            epoch=step.epoch,
            examples=step.examples,
            train_mean=mean([r.score for r in rollouts]),
            informative=sum(learned.group.informative for learned in groups) / len(groups),
            outcomes=dict(sorted(Counter(r.outcome.value for r in rollouts).items())),
            edits=dict(sorted(Counter(edit.operation for edit in report.applied).items())),
            rejected=report.rejected,
            lost=dict(sorted(Counter(lost).items())),
            library=report.library,
            library_tokens=report.library.tokens,
            spend=(),
        )
        self.record.add(result, groups)
        if self.files is not None:
            self.files.library(result.step, result.library)
        self.settle()  # the library before this one has had a whole step's time
        self._have_measured(step, report.library)
        return report.library

    def _have_measured(self, step: Step, library: ExperienceLibrary) -> None:
        """Begin to measure a step's library, if it is this step's turn and it says anything new."""
        if self.valset and self._due(step) and told(library) != told(self.record.last_measured or self.start):
            self.record.last_measured = library
            flows = self._measuring_flows(step.index, library)
            self._measuring = len(self.record.steps) - 1, self.execution.begin(flows)
            if self.calls.meter.budget.capped:  # what was learned until a cap is reached can be returned
                self.settle()
        else:
            self._tell(self.record.steps[-1])

    def _due(self, step: Step) -> bool:
        """Whether the library is to be measured after this step."""
        return step.index % self.settings.evaluate_every == 0 or step.index == len(self.schedule)

    def settle(self) -> None:
        """Wait for the library that is being measured, and add what was found to its step."""
        if self._measuring is None:
            return
        at, batch = self._measuring
        rollouts = self.execution.finish(batch)
        self._measuring, made = None, self.record.steps[at]
        self.record.steps[at] = replace(made, validation=Measurement.of(made.step, made.library, rollouts, self.inputs))
        self._tell(self.record.steps[at])

    def _tell(self, step: StepResult) -> None:
        """Say how a step went, and write the best program so far."""
        logger.info("%s", step_line(step))
        if self.files is not None:
            self.files.program(self.student, self._best()[1], self.names)

    def measure_input(self) -> None:
        """Measure the input on the valset, if there is one, before anything is learned."""
        if not self.valset:
            return
        rollouts = self.execution.run(self._measuring_flows(0, self.start))
        self.record.baseline = baseline = Measurement.of(0, self.start, rollouts, self.inputs)
        self.record.note(r for attempts in rollouts for r in attempts)
        if baseline.mean.n == 0 and not self.calls.silent:  # a broken metric or tool: all else would be in vain
            self.record.outcomes.update(baseline.outcomes)
            self.calls.stop("unscored")
            raise RunStopped("no validation example could be scored")
        logger.info("input program: validation %s over %s", baseline.mean, baseline.mean.examples)

    def _measuring_flows(self, step: int, library: ExperienceLibrary) -> list[Flow[tuple[Rollout, ...]]]:
        """The attempts that measure a library on the valset, at the program's own temperature."""
        return evaluation_flows(
            self.runner,
            self.program_with(library),
            self.valset,
            self.settings.val_repeats,
            Stage.VALIDATION,
            step,
            timeout=self.settings.rollout_timeout,
            basis=library.digest,
        )

    # -- the end ---------------------------------------------------------------------------------------------------

    def finished(self) -> dspy.Module | None:
        """The result of a run that is over already; None if there is anything left to do."""
        known = self.journal.get("result") if self.journal is not None else None
        if known is None or known["num_epochs"] != self.settings.num_epochs:
            if self._made_before:
                logger.info("going on in %s: %d LM calls were made before", self.log_dir, self._made_before)
            return None
        logger.info("the run in %s was completed before: its result is returned, nothing is asked for", self.log_dir)
        results = DetailedResults.from_json(known["results"]).replayed
        libraries = {0: self.start, **{step.step: step.library for step in results.steps}}
        return self._compiled(libraries[results.verdict.step], results)

    def finish(self) -> dspy.Module:
        """Choose the library, say what may be said of it, and write it into a copy of the student."""
        if self._measuring is not None and self._measuring[1].unfinished == 0:
            self.settle()  # it was measured before the run ended
        spends = {step.step: self.calls.meter.spend(step.step) for step in self.record.steps}
        self.record.steps = [replace(step, spend=spends[step.step]) for step in self.record.steps]
        reason = self.calls.stop_reason or "completed"
        verdict, library = self._best()
        after = self.record.warnings()
        for warning in after:
            logger.warning("%s", warning)
        spend = self.calls.meter.spend()
        results = DetailedResults(
            verdict=with_ending(verdict, reason, spend, problem=self.calls.problem, journaled=self.journal is not None),
            baseline=self.record.baseline,
            steps=tuple(self.record.steps),
            stop_reason=reason,
            warnings=(*self.warnings, *after),
            spend=spend,
            estimate=self.estimate(),
            settings=settings_record(self.settings),
            seconds=time.monotonic() - self.started,
            calls_before=self._made_before,
        )
        logger.info("%s", results.verdict.text)
        self._keep(results, library)
        return self._compiled(library, results)

    def _best(self) -> tuple[Verdict, ExperienceLibrary]:
        return self.record.best(self.start, wanted=bool(self.valset), seed=self.settings.seed)

    def _keep(self, results: DetailedResults, library: ExperienceLibrary) -> None:
        if self.journal is None or self.files is None:
            return
        self.files.program(self.student, library, self.names)
        self.files.results(results.to_json())
        if results.stop_reason == "completed":
            self.journal.set("result", {"num_epochs": self.settings.num_epochs, "results": results.to_json()})

    def _compiled(self, library: ExperienceLibrary, results: DetailedResults) -> dspy.Module:
        program = own_copy(self.student)
        write_library(program, library, self.names)
        program.experiences = library
        program.detailed_results = results
        program._compiled = True
        return program

    def estimate(self, calls_per_attempt: float | None = None) -> Estimate:
        """LM calls by stage, from the settings alone; without a trial, one call of each predictor to an attempt."""
        s = self.settings
        if calls_per_attempt is None:
            calls_per_attempt = float(sum(1 for _ in self.student.named_sub_modules(dspy.Predict)))
        return estimate_calls(
            examples=len(self.trainset),
            steps=len(self.schedule),
            measured=sum(self._due(step) for step in self.schedule),
            epochs=s.num_epochs,
            group_size=s.group_size,
            val_examples=len(self.valset),
            val_repeats=s.val_repeats,
            calls_per_attempt=calls_per_attempt,
        )

    def trial(self, sample: int) -> Estimate:
        """The estimate with tokens and cost from a few trial calls at the first examples.

        Args:
            sample: Trial attempts, each at another example; one more is made at the first, so that the reflection
                steps have a pair to be tried on.
        """
        program, step = self.program_with(self.start), Step(0, 0, ())
        places = [(index, 0) for index in range(min(sample, len(self.trainset)))] + [(0, 1)]
        rollouts = self.execution.run(
            [single(self.groups.attempt_task(step, i, a, program, self.start)) for i, a in places]
        )
        group = self.groups.as_group(0, [rollouts[0], rollouts[-1]])
        many = max(1, round(len(self.schedule[0].examples) * INFORMATIVE))
        self.execution.run([self.groups.trial_flow(step, group, self.start, many)])
        attempts = len(places)
        spend = self.calls.meter.spend()
        per_attempt = sum(row.calls for row in spend if row.stage == Stage.ROLLOUT.value) / attempts
        growth = max(0.0, self.limits.max_tokens / 2 - self.start.tokens)  # from nothing to full, on average half
        return self.estimate(per_attempt).priced(spend, attempts, steps=len(self.schedule), growth=growth)
