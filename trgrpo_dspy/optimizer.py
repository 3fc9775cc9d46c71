"""Training-Free Group Relative Policy Optimization (arXiv 2510.08191) as a DSPy optimizer.

One step, for a batch of examples and the library as it stands:

1. *Rollout*: run each example `group_size` times at the rollout temperature; score each attempt.
2. Keep the *informative* groups: those whose attempts scored differently.
3. *Summarize* each attempt of such a group.
4. *Semantic advantage*: say why some attempts beat the others, seen against the library; extract lessons.
5. *Propose* edits of the library, against the library as it stood at the start of the step.
6. *Consolidate* all proposals into one plan, once a step, and apply it in code.

The next step's rollouts see the new library. With a valset the input is measured first, each new library after its
step, and the best one is returned: never one that scored below the input.

Departures from the paper, and why:

- The library is written into the predictors' instructions, in learning as in use; the paper's code puts it into the
  user message while learning. What is trained is what ships.
- A group is informative by its spread of scores in any range, not by a mean between 0 and 1.
- A group is an example, by index: equal questions make separate groups.
- Ids are never renumbered; MODIFY of an unknown id is refused, not turned into ADD; DELETE needs no text.
- Outages leave an attempt unscored; the program's own failures get the failure score and can be learned from.
- The last, shorter batch of an epoch is kept; every epoch has its own shuffle.
- A gate on a valset, with an interval that accounts for the number of libraries tried.
- Without labels (`metric=None`) groups whose answers differ are compared, and no label enters any prompt.
"""

from __future__ import annotations

import functools
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import dspy
from dspy.teleprompt import Teleprompter
from dspy.utils.exceptions import AdapterParseError

from .calls import Calls, Unit
from .evaluation import check_examples, default_threads, evaluation_flows, own_copy, summarize_evaluation
from .execution import Execution, Flow, Task
from .failures import Failure, classify, describe
from .instructions import read_library, teachable_predictors, write_library
from .library import Edit, ExperienceLibrary, LibraryLimits, apply_edits
from .meter import Stage
from .reflector import Comparison, Lesson, Reflector, with_sources
from .result import DetailedResults, Measurement, RejectedProposal, StepResult, step_line
from .rollout import Rollout, RolloutGroup, mean
from .runner import Runner, expected_text, task_text
from .schedule import Step, make_schedule
from .scoring import Metric, adapt_metric
from .verdict import decide, warnings_after, warnings_before

__all__ = ["TrainingFreeGRPO"]

logger = logging.getLogger(__name__)


class TrainingFreeGRPO(Teleprompter):
    """Learn a library of experiences and write it into a program's instructions; the weights stay frozen."""

    def __init__(
        self,
        *,
        metric: Metric | None,
        group_size: int = 5,
        batch_size: int | None = None,
        num_epochs: int = 3,
        rollout_temperature: float = 0.7,
        reflection_lm: dspy.BaseLM | None = None,
        reflector: Reflector | None = None,
        experiences_per_group: int = 2,
        max_experiences: int = 30,
        predictors: Sequence[str] | None = None,
        compare_fields: Sequence[str] | None = None,
        failure_score: float = 0.0,
        val_repeats: int = 1,
        num_threads: int | None = None,
        seed: int = 0,
    ) -> None:
        """Set the optimizer up; nothing is called yet.

        Args:
            metric: `metric(example, prediction, trace=None)` or GEPA's five arguments; returns a bool, a number of any
                range (higher is better) or `dspy.Prediction(score=, feedback=)`. None is the label-free mode.
            group_size: Attempts at each example (the paper's G), at least 2.
            batch_size: Examples a step; None is the whole trainset, up to 100.
            num_epochs: Passes over the trainset.
            rollout_temperature: Temperature of the attempts. A predictor's own temperature and models that accept
                none keep theirs. Validation runs at the program's own temperature.
            reflection_lm: LM of the reflection steps; None is DSPy's configured LM, else the program's only one.
            reflector: The reflection steps; None is `Reflector()`.
            experiences_per_group: Lessons at most from one group; a `reflector` of yours has its own `max_lessons`.
            max_experiences: Entries at most in the library.
            predictors: Names of the predictors to teach, as in `program.named_predictors()`; None is all.
            compare_fields: Output fields the label-free mode compares; None is all but reasoning and traces.
            failure_score: Score of an attempt in which the program itself failed, as in `dspy.Evaluate`.
            val_repeats: Attempts at each validation example.
            num_threads: Calls in flight at most; None is DSPy's setting.
            seed: Where all chance comes from.

        Raises:
            TypeError: An argument is of the wrong type.
            ValueError: An argument is out of range.
        """
        super().__init__()
        _check_numbers(
            group_size=(group_size, 2), batch_size=(batch_size, 1), num_epochs=(num_epochs, 1),
            experiences_per_group=(experiences_per_group, 1), max_experiences=(max_experiences, 1),
            val_repeats=(val_repeats, 1), num_threads=(num_threads, 1),
        )  # fmt: skip
        _check_settings(rollout_temperature, failure_score, seed, reflection_lm, reflector)
        _check_mode(metric, reflector, compare_fields)
        _check_names(predictors=predictors, compare_fields=compare_fields)
        self.metric = metric
        self.group_size = group_size
        self.batch_size = batch_size
        self.num_epochs = num_epochs
        self.rollout_temperature = rollout_temperature
        self.reflection_lm = reflection_lm
        self.reflector = reflector
        self.experiences_per_group = experiences_per_group
        self.max_experiences = max_experiences
        self.predictors = list(predictors) if predictors is not None else None
        self.compare_fields = list(compare_fields) if compare_fields is not None else None
        self.failure_score = failure_score
        self.val_repeats = val_repeats
        self.num_threads = num_threads
        self.seed = seed

    def compile(
        self,
        student: dspy.Module,
        *,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example] | None = None,
        teacher: dspy.Module | None = None,
        library: ExperienceLibrary | None = None,
    ) -> dspy.Module:
        """Learn from `trainset` and return a copy of the student that carries what was learned.

        Args:
            student: Any DSPy program; it is not changed. If it carries a block of ours, learning starts from that.
            trainset: Examples with inputs; labels are for the metric.
            valset: Examples that decide which library is returned; None returns the last one, unmeasured.
            teacher: Refused: attempts are compared with each other, there is nothing a teacher could show.
            library: Where to start, in place of what the student carries.

        Returns:
            The program, with `experiences` (`ExperienceLibrary`) and `detailed_results` (`DetailedResults`).

        Raises:
            TypeError: An argument is of the wrong type.
            ValueError: An argument can't be used; the message names it and the way out.
            FatalError: A wrong key, no credit, an unknown model or a configuration that can't work.
        """
        self._check_compile(student, trainset, valset, teacher, library)
        with _Run(self, student, list(trainset), list(valset or ()), library) as run:
            library = run.start
            run.measure(0, library)
            for step in run.schedule:
                groups = run.learn(step, library)
                plan = run.consolidate(step, groups, library)
                library = run.update(step, groups, plan, library)
            return run.finish()

    def _check_compile(
        self, student: Any, trainset: Any, valset: Any, teacher: Any, library: ExperienceLibrary | None
    ) -> None:
        if not isinstance(student, dspy.Module):
            raise TypeError(f"student must be a dspy.Module, got {type(student).__name__}")
        if teacher is not None:
            raise ValueError(
                "teacher= is not used by TrainingFreeGRPO: attempts of the student are compared with each other. "
                "Leave it out; to start from another program's experiences pass library=other.experiences"
            )
        check_examples("trainset", trainset)
        if valset is not None:
            check_examples("valset", valset)
            if self.metric is None:
                raise ValueError("valset= needs a metric; with metric=None (label-free) leave valset out")
        if library is not None and not isinstance(library, ExperienceLibrary):
            raise TypeError(
                f"library must be an ExperienceLibrary, got {type(library).__name__}; see ExperienceLibrary.of(...)"
            )
        teachable_predictors(student, self.predictors)


@dataclass(frozen=True)
class _Learned:
    """What one group gave."""

    group: RolloutGroup
    edits: tuple[Edit, ...] = ()
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Reply:
    """A reflection step's result; `lost` says why there is none."""

    value: Any = None
    lost: str = ""


@dataclass
class _Record:
    """What a run has measured so far."""

    baseline: Measurement | None = None
    steps: list[StepResult] = field(default_factory=list)
    groups: int = 0
    informative: int = 0
    identical: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)


class _Run:
    """One call of `compile`: the optimizer's settings at work on one program."""

    def __init__(
        self,
        settings: TrainingFreeGRPO,
        student: dspy.Module,
        trainset: list[dspy.Example],
        valset: list[dspy.Example],
        library: ExperienceLibrary | None,
    ) -> None:
        self.settings, self.student, self.trainset, self.valset = settings, student, trainset, valset
        self.names = list(teachable_predictors(student, settings.predictors))
        self.limits = LibraryLimits(max_entries=settings.max_experiences)
        self.start = self._starting_library(library)
        self.schedule = make_schedule(
            len(trainset), batch_size=settings.batch_size, num_epochs=settings.num_epochs, seed=settings.seed
        )
        self.calls = Calls(seed=settings.seed)
        self.runner = Runner(
            self.calls, settings.metric, failure_score=settings.failure_score, compare_fields=settings.compare_fields
        )
        self.reflector = self._own_reflector()
        self.reflection_lm = self._reflection_lm()
        self.predictors_text = _describe_predictors(student, self.names)
        self.execution = Execution(self.calls, default_threads(settings.num_threads))
        self.record = _Record()
        self.warnings = warnings_before(trainset, valset)
        self.started = time.monotonic()

    def __enter__(self) -> _Run:
        for warning in self.warnings:
            logger.warning("%s", warning)
        return self

    def __exit__(self, *exc: object) -> None:
        self.execution.__exit__(*exc)

    def _starting_library(self, library: ExperienceLibrary | None) -> ExperienceLibrary:
        """What was handed in, else what the student carries, else nothing."""
        if library is None:
            library = read_library(self.student, self.names)
            learned = self.student.__dict__.get("experiences")
            if isinstance(learned, ExperienceLibrary) and str(learned) == str(library):
                library = learned  # the same entries, with steps and sources
        else:
            known = set(teachable_predictors(self.student))
            entries = tuple(replace(e, targets=tuple(t for t in e.targets if t in known)) for e in library)
            library = replace(library, entries=entries)
        if len(library) > self.limits.max_entries:
            raise ValueError(
                f"the starting library has {len(library)} entries, max_experiences={self.limits.max_entries}; "
                "raise the limit or pass a smaller library="
            )
        return library

    def _own_reflector(self) -> Reflector:
        s = self.settings
        reflector = (
            own_copy(s.reflector)
            if s.reflector is not None
            else Reflector(label_free=s.metric is None, max_lessons=s.experiences_per_group, limits=self.limits)
        )
        assert isinstance(reflector, Reflector)
        reflector.limits = self.limits  # what consolidation is told is what is enforced
        self.calls.bind(reflector)
        return reflector

    def _reflection_lm(self) -> dspy.BaseLM | None:
        if self.settings.reflection_lm is not None or dspy.settings.lm is not None:
            return self.settings.reflection_lm or dspy.settings.lm
        lms = {id(p.lm): p.lm for _, p in self.student.named_sub_modules(dspy.Predict) if p.lm is not None}
        if len(lms) != 1 and any(p.lm is None for p in self.reflector.predictors()):
            raise ValueError(
                f"no LM for the reflection steps: no LM is configured and the program's predictors use {len(lms)}; "
                "pass reflection_lm=dspy.LM(...) or call dspy.configure(lm=...)"
            )
        return next(iter(lms.values()), None)

    def program_with(self, library: ExperienceLibrary) -> dspy.Module:
        """A copy of the student that carries the library and is the run's own."""
        program = own_copy(self.student)
        write_library(program, library, self.names)
        self.calls.bind(program)
        return program

    # -- the steps of the algorithm ------------------------------------------------------------------------------

    def learn(self, step: Step, library: ExperienceLibrary) -> list[_Learned]:
        """Steps 1 to 5 for a batch: groups flow through them side by side."""
        program = self.program_with(library)
        return self.execution.run([self._group(step, index, program, library) for index in step.examples])

    def _group(self, step: Step, index: int, program: dspy.Module, library: ExperienceLibrary) -> Flow[_Learned]:
        """One group: attempts, summaries, comparison, proposals."""
        rollouts = yield [
            Task(Stage.ROLLOUT, functools.partial(self._attempt, step, index, attempt, program), remaining=4)
            for attempt in range(self.settings.group_size)
        ]
        group = self._as_group(index, rollouts)
        if not group.informative:
            return _Learned(group)
        if type(self.reflector).forward is not Reflector.forward:
            (whole,) = yield [self._reflection(Stage.COMPARISON, step, index, 0, self._forward, group, library)]
            return _Learned(group, _edits(whole, [index]), _losses(whole))
        reflector, text = self.reflector, self.predictors_text
        summaries = yield [
            self._reflection(Stage.SUMMARY, step, index, rollout.attempt, reflector.summarize, group, rollout)
            for rollout in group.usable
        ]
        told = [reply.value for reply in summaries]
        (compared,) = yield [
            self._reflection(Stage.COMPARISON, step, index, 0, reflector.compare, group, told, library, text)
        ]
        lessons = _lessons(compared)
        if not lessons:
            return _Learned(group, (), _losses(*summaries, compared))
        propose = functools.partial(reflector.propose, source=index)
        (proposed,) = yield [self._reflection(Stage.PROPOSALS, step, index, 0, propose, lessons, library, text)]
        return _Learned(group, _edits(proposed, [index]), _losses(*summaries, compared, proposed))

    def _attempt(self, step: Step, index: int, attempt: int, program: dspy.Module) -> Rollout:
        unit = Unit(
            Stage.ROLLOUT, step.index, ("rollout", step.index, index, attempt),
            resample=True, temperature=self.settings.rollout_temperature,
        )  # fmt: skip
        return self.runner.attempt(program, self.trainset[index], unit, index=index, attempt=attempt)

    def _as_group(self, index: int, rollouts: Sequence[Rollout]) -> RolloutGroup:
        example, label_free = self.trainset[index], self.settings.metric is None
        expected = "" if label_free else expected_text(example)
        return RolloutGroup(index, task_text(example), expected, tuple(rollouts), label_free)

    def _forward(self, group: RolloutGroup, library: ExperienceLibrary) -> Any:
        return self.reflector(attempts=group, experiences=library, predictors=self.predictors_text).edits

    def _reflection(
        self, stage: Stage, step: Step, index: int, number: int, run: Callable[..., Any], *args: Any
    ) -> Task:
        unit = Unit(stage, step.index, (stage.value, step.index, index, number), resample=True)
        remaining = {Stage.SUMMARY: 3, Stage.COMPARISON: 2, Stage.PROPOSALS: 1}.get(stage, 0)
        return Task(stage, functools.partial(self._reflect, unit, run, *args), remaining)

    def _reflect(self, unit: Unit, run: Callable[..., Any], *args: Any) -> _Reply:
        """Run a reflection step; what can't be used is lost and counted, never guessed at."""
        with self.calls.context(unit, lm=self.reflection_lm, trace=None):
            try:
                value = run(*args)
            except Exception as error:  # the reflector may be the user's own
                self.runner.end_if_fatal(error)
                logger.debug("%s of %s lost: %s", unit.stage.value, unit.key, describe(error))
                return _Reply(lost=f"{unit.stage.value}: {'cut by length' if unit.truncated else _why_lost(error)}")
        if unit.truncated:
            return _Reply(lost=f"{unit.stage.value}: cut by length")
        return _Reply(value)

    def consolidate(self, step: Step, groups: Sequence[_Learned], library: ExperienceLibrary) -> _Reply:
        """Step 6: merge all proposals into one plan, by the LM only if there is something to merge."""
        proposals = [edit for learned in groups for edit in learned.edits if edit.operation != "KEEP"]
        if len(proposals) < 2:
            return _Reply(tuple(proposals))
        task = self._reflection(
            Stage.CONSOLIDATION, step, 0, 0, self.reflector.consolidate, proposals, library, self.predictors_text
        )
        (reply,) = self.execution.run([_single(task)])
        plan = _edits(reply, [source for edit in proposals for source in edit.sources])
        if not plan:  # lost, or a plan with nothing in it: the proposals themselves are paid for
            return _Reply(tuple(proposals), reply.lost or "consolidation: empty plan")
        return _Reply(plan)

    def update(
        self, step: Step, groups: Sequence[_Learned], plan: _Reply, library: ExperienceLibrary
    ) -> ExperienceLibrary:
        """Apply the plan, measure the new library, and keep the record."""
        kept = tuple(e for learned in groups for e in learned.edits if e.operation == "KEEP")
        report = apply_edits(library, (*plan.value, *kept), step=step.index, limits=self.limits, predictors=self.names)
        changed = _told(report.library) != _told(library)
        validation = self.measure(step.index, report.library) if changed else None
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
            rejected=tuple(
                RejectedProposal(r.edit.operation, r.edit.id, r.edit.text, r.reason) for r in report.rejected
            ),
            lost=dict(sorted(Counter(lost).items())),
            library=report.library,
            library_tokens=report.library.tokens,
            spend=self.calls.meter.spend(step.index),
            validation=validation,
        )
        self._remember(result, groups)
        return report.library

    def _remember(self, result: StepResult, groups: Sequence[_Learned]) -> None:
        self.record.steps.append(result)
        self.record.groups += len(groups)
        self.record.informative += sum(learned.group.informative for learned in groups)
        self.record.identical += sum(learned.group.identical for learned in groups)
        self.record.outcomes.update(result.outcomes)
        logger.info("%s", step_line(result))

    def measure(self, step: int, library: ExperienceLibrary) -> Measurement | None:
        """Measure a library on the valset, at the program's own temperature; None without a valset."""
        if not self.valset:
            return None
        flows = evaluation_flows(
            self.runner, self.program_with(library), self.valset, self.settings.val_repeats, Stage.VALIDATION, step
        )
        found = summarize_evaluation(self.execution.run(flows), ())
        measurement = Measurement(step, library, found.scores, found.mean, found.outcomes)
        if step == 0:
            self.record.baseline = measurement
            logger.info("input program: validation %s", found)
        return measurement

    def finish(self) -> dspy.Module:
        """Choose the library, say what may be said of it, and write it into a copy of the student."""
        record, last = self.record, self.record.steps[-1]
        measured = [step.validation for step in record.steps if step.validation is not None]
        verdict = decide(record.baseline, measured, last_step=last.step, seed=self.settings.seed)
        libraries = {0: self.start, **{step.step: step.library for step in record.steps}}
        after = warnings_after(record.groups, record.informative, record.identical, record.outcomes)
        for warning in after:
            logger.warning("%s", warning)
        results = DetailedResults(
            verdict=verdict,
            baseline=record.baseline,
            steps=tuple(record.steps),
            stop_reason="completed",
            warnings=(*self.warnings, *after),
            spend=self.calls.meter.spend(),
            settings=_settings_record(self.settings),
            seconds=time.monotonic() - self.started,
        )
        logger.info("%s", verdict.text)
        return _compiled(self.student, libraries[verdict.step], self.names, results)


def _compiled(
    student: dspy.Module, library: ExperienceLibrary, names: Sequence[str], results: DetailedResults
) -> dspy.Module:
    program = own_copy(student)
    write_library(program, library, names)
    program.experiences = library
    program.detailed_results = results
    program._compiled = True
    return program


def _told(library: ExperienceLibrary) -> list[tuple[str, str, tuple[str, ...]]]:
    """What programs are told, without where it comes from."""
    return [(e.id, e.text, e.targets) for e in library]


def _single(task: Task) -> Flow[Any]:
    (result,) = yield [task]
    return result


def _lessons(reply: _Reply) -> tuple[Lesson, ...]:
    """The lessons of a comparison; a reflector may be the user's own."""
    if reply.lost:
        return ()
    if not isinstance(reply.value, Comparison):
        raise TypeError(f"Reflector.compare must return a Comparison, got {type(reply.value).__name__}")
    return reply.value.lessons


def _edits(reply: _Reply, sources: Sequence[int]) -> tuple[Edit, ...]:
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
    return "unusable reply" if isinstance(error, AdapterParseError) else type(error).__name__


def _losses(*replies: _Reply) -> tuple[str, ...]:
    return tuple(reply.lost for reply in replies if reply.lost)


def _describe_predictors(program: dspy.Module, names: Sequence[str]) -> str:
    """What the comparison is told of the predictors: name, inputs, outputs; nothing if there is only one."""
    if len(names) < 2:
        return ""
    found = dict(program.named_predictors())
    lines = []
    for name in names:
        signature = found[name].signature
        lines.append(f"{name}: {', '.join(signature.input_fields)} -> {', '.join(signature.output_fields)}")
    return "\n".join(lines)


def _settings_record(settings: TrainingFreeGRPO) -> dict[str, Any]:
    """The arguments as plain data; objects by name only, so that no key or address gets in."""

    def plain(value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float, str, list)):
            return value
        return getattr(value, "model", None) or getattr(value, "__name__", type(value).__name__)

    return {name: plain(value) for name, value in vars(settings).items()}


def _check_numbers(**limits: tuple[Any, int]) -> None:
    optional = {"batch_size", "num_threads"}
    for name, (value, least) in limits.items():
        if value is None and name in optional:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}={value!r} must be a whole number" + (" or None" if name in optional else ""))
        if value < least:
            why = "; one attempt can't be compared with anything" if name == "group_size" else ""
            raise ValueError(f"{name}={value} must be at least {least}{why}")


def _check_mode(metric: Any, reflector: Reflector | None, compare_fields: Any) -> None:
    """Refuse what the label-free mode and the others don't share."""
    if metric is not None:
        adapt_metric(metric)
        if compare_fields is not None:
            raise ValueError(
                f"compare_fields={compare_fields!r} is for metric=None: with a metric, scores are compared"
            )
    elif reflector is not None and not reflector.label_free:
        raise ValueError("metric=None is the label-free mode: pass reflector=Reflector(label_free=True), or none")


def _check_names(**lists: Any) -> None:
    for name, value in lists.items():
        if value is None:
            continue
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
            raise TypeError(f"{name}={value!r} must be a list of names")
        if not value:
            raise ValueError(f"{name}=[] names nothing; pass None for all")


def _check_settings(temperature: Any, failure_score: Any, seed: Any, lm: Any, reflector: Any) -> None:
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)):
        raise TypeError(f"rollout_temperature={temperature!r} must be a number")
    if not 0 < temperature <= 2:
        raise ValueError(
            f"rollout_temperature={temperature} must be above 0 and at most 2; at 0 all attempts of a group are alike"
        )
    if isinstance(failure_score, bool) or not isinstance(failure_score, (int, float)):
        raise TypeError(f"failure_score={failure_score!r} must be a number")
    if not math.isfinite(failure_score):
        raise ValueError(f"failure_score={failure_score} must be finite: it counts in every mean")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed={seed!r} must be a whole number")
    if lm is not None and not isinstance(lm, dspy.BaseLM):
        raise TypeError(f"reflection_lm must be a dspy.LM, got {type(lm).__name__}; write reflection_lm=dspy.LM('...')")
    if reflector is not None and not isinstance(reflector, Reflector):
        raise TypeError(
            f"reflector must be a Reflector, got {type(reflector).__name__}; subclass trgrpo_dspy.Reflector"
        )
