"""What a run starts with: program, data, library, schedule, reflector and its LM. Nothing is called yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dspy

from trgrpo_dspy.engine.journal.logdir import LogDir
from trgrpo_dspy.evaluation.examples import distinct_inputs, warnings_before
from trgrpo_dspy.library.entries import count_words
from trgrpo_dspy.library.library import ExperienceLibrary, LibraryLimits
from trgrpo_dspy.meter.estimate import Estimate, estimate_calls
from trgrpo_dspy.program.carrying import read_library, retarget
from trgrpo_dspy.program.copies import own_copy
from trgrpo_dspy.program.description import describe
from trgrpo_dspy.program.instructions import original_instructions, teachable_predictors

from .cases import answer_fields, unanswerable
from .reflector import Reflector
from .schedule import Step, make_schedule

if TYPE_CHECKING:
    from .options import LearningOptions

__all__ = ["Setup"]

_PROGRAM_SHARE = 8
"""The description of the program fills at most this part of the reflection's context."""


@dataclass(frozen=True)
class Setup:
    """A run's subject: nothing in it changes while the run goes on."""

    options: LearningOptions
    """The optimizer's options."""
    student: dspy.Module
    """The program as it was handed in; it is never changed."""
    trainset: list[dspy.Example]
    """Examples to learn from."""
    valset: list[dspy.Example]
    """Examples to choose on; may be empty."""
    names: list[str]
    """The predictors to teach."""
    limits: LibraryLimits
    """Caps of the library."""
    start: ExperienceLibrary
    """The library the run starts from."""
    schedule: tuple[Step, ...]
    """Which examples make which step."""
    reflector: Reflector
    """The run's own copy of the reflection steps."""
    reflection_lm: dspy.BaseLM | None
    """LM of the reflection steps; None where each step has its own."""
    program: str
    """The program as the reflection is shown it."""
    warnings: tuple[str, ...]
    """What can be said of the data before anything is spent."""
    inputs: tuple[int, ...]
    """For each validation example the index of the first one with equal inputs."""

    @classmethod
    def of(
        cls,
        options: LearningOptions,
        student: dspy.Module,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example],
        library: ExperienceLibrary | None = None,
    ) -> Setup:
        """Put together what a run needs; `library` None is what the student carries."""
        taught = list(teachable_predictors(student, options.predictors))
        limits = options.reflector.limits if options.reflector is not None else LibraryLimits()
        limits = replace(limits, max_entries=min(options.max_experiences, limits.max_entries))
        reflector = _own_reflector(options, limits)
        assert options.num_epochs is not None
        return cls(
            options,
            student,
            list(trainset),
            list(valset),
            taught,
            limits,
            _starting_library(student, taught, library, limits),
            make_schedule(
                len(trainset), batch_size=options.batch_size, num_epochs=options.num_epochs, seed=options.seed
            ),
            reflector,
            _reflection_lm(options, student, reflector),
            describe(student, taught, options.objective, max_tokens=reflector.context_tokens // _PROGRAM_SHARE),
            (
                *warnings_before(trainset, valset),
                *(_label_warnings(student, trainset, valset) if options.metric is not None else ()),
            ),
            distinct_inputs(valset),
        )

    def is_due(self, step: Step) -> bool:
        """Whether the library is to be measured after this step."""
        return step.index % self.options.evaluate_every == 0 or step.index == len(self.schedule)

    @property
    def instructions(self) -> dict[str, str]:
        """The own instructions of each predictor that is taught, by its name."""
        predictors = teachable_predictors(self.student, self.names)
        return {name: original_instructions(predictor) for name, predictor in predictors.items()}

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models that are known before the run: the configured one, the predictors', the reflection's."""
        own = (predictor.lm for _, predictor in self.student.named_sub_modules(dspy.Predict))
        lms = (dspy.settings.lm, *own, self.reflection_lm)
        return tuple(dict.fromkeys(str(lm.model) for lm in lms if isinstance(lm, dspy.BaseLM)))

    def estimate(self, calls_per_attempt: float | None = None) -> Estimate:
        """LM calls by stage, from the options alone; without a trial, one call of each predictor to an attempt."""
        options = self.options
        if calls_per_attempt is None:
            calls_per_attempt = float(sum(1 for _ in self.student.named_sub_modules(dspy.Predict)))
        return estimate_calls(
            examples=len(self.trainset),
            steps=len(self.schedule),
            measured=sum(map(self.is_due, self.schedule)),
            epochs=options.num_epochs or 1,
            group_size=options.group_size or 1,
            val_examples=len(self.valset),
            val_repeats=options.val_repeats,
            calls_per_attempt=calls_per_attempt,
            groups_per_comparison=self.reflector.groups_per_comparison,
            form=self.reflector.form,
            checks=options.check_entries and options.metric is not None,
        )

    def save_program(self, directory: Path, library: ExperienceLibrary) -> None:
        """Write the student with a library into a directory that exists, as `program.json`."""
        LogDir(directory).program(self.student, library, self.names)

    @property
    def fingerprint_parts(self) -> dict[str, Any]:
        """What tells this run from another, for the journal."""
        return {
            "kind": "an optimizer",
            "settings": self.options.decisive,
            "programs": {"program": self.student, "reflector": self.reflector},
            "data": {"trainset": self.trainset, "valset": self.valset},
            "metric": self.options.metric,
            "lms": {"lm": dspy.settings.lm, "reflection_lm": self.reflection_lm},
            "library": self.start,
        }


def _starting_library(
    student: dspy.Module, names: Sequence[str], library: ExperienceLibrary | None, limits: LibraryLimits
) -> ExperienceLibrary:
    """What was handed in, else what the student carries, else nothing."""
    library = read_library(student, names) if library is None else retarget(library, student)
    if len(library) > limits.max_entries:
        raise ValueError(
            f"the starting library has {len(library)} entries, max_experiences={limits.max_entries}; "
            "raise the limit or pass a smaller library="
        )
    if long := [e.id for e in library if count_words(e.text) > limits.max_words]:
        raise ValueError(
            f"entries {', '.join(long)} of the starting library have more than {limits.max_words} words; "
            "shorten them, or pass reflector=Reflector(limits=LibraryLimits(max_words=...))"
        )
    if library.tokens > limits.max_tokens:
        raise ValueError(
            f"the starting library has {library.tokens} tokens, {limits.max_tokens} are allowed; shorten it, or pass "
            "reflector=Reflector(limits=LibraryLimits(max_tokens=...))"
        )
    return library


def _own_reflector(options: LearningOptions, limits: LibraryLimits) -> Reflector:
    if options.reflector is None:
        return Reflector(
            label_free=options.metric is None,
            max_lessons=options.experiences_per_group,
            summarize=options.summarize,
            limits=limits,
        )
    reflector = own_copy(options.reflector)
    assert isinstance(reflector, Reflector)
    reflector.limits = limits  # consolidation is shown the cap that is enforced
    return reflector


def _reflection_lm(options: LearningOptions, student: dspy.Module, reflector: Reflector) -> dspy.BaseLM | None:
    """The LM of the reflection steps: as set, as configured, or the program's only one."""
    if options.reflection_lm is not None or dspy.settings.lm is not None:
        return options.reflection_lm or dspy.settings.lm
    lms = {id(p.lm): p.lm for _, p in student.named_sub_modules(dspy.Predict) if p.lm is not None}
    if len(lms) != 1 and any(p.lm is None for p in reflector.predictors()):
        raise ValueError(
            f"no LM for the reflection steps: no LM is configured and the program's predictors use {len(lms)}; "
            "call dspy.configure(lm=dspy.LM('openai/gpt-4o-mini')), or pass reflection_lm=dspy.LM(...)"
        )
    return next(iter(lms.values()), None)


def _label_warnings(
    student: dspy.Module, trainset: Sequence[dspy.Example], valset: Sequence[dspy.Example]
) -> tuple[str, ...]:
    answers = answer_fields(student)
    said = (unanswerable(name, examples, answers) for name, examples in (("trainset", trainset), ("valset", valset)))
    return tuple(filter(None, said))
