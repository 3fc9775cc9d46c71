"""Training-Free Group Relative Policy Optimization (arXiv 2510.08191) as a DSPy optimizer.

One step, for a batch of examples and the library as it stands:

1. *Rollout*: run each example `group_size` times at the rollout temperature, shown what `expose` selects; score each.
2. Choose what *teaches*: groups whose attempts scored differently, and groups that all fell short where a label or
   feedback says of what (`learn_from`).
3. *Compare*: shown program, library, tasks, expected answers and attempts, a few groups side by side, say what made
   the difference and propose edits (ADD, MODIFY, DELETE, KEEP). Long attempts are summarized first.
4. *Consolidate* all proposals into one plan, once a step, with a table of the step's examples.
5. *Check* new and changed entries against labelled examples; repair once, refuse what stays wrong.
6. *Apply* in code.

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
- The library has caps, held in code: entries, words an entry, tokens in all; near duplicates are refused in code.
- What the reflection reads is bounded by `Reflector.context_tokens`.
- Entries that look like an instruction smuggled in by a tool's result are held back for the user (`allow`).

The default adds to these, and `learn_from="contrast", reflector=Reflector(form="paper")` takes away: mistakes that all
attempts share teach too; short attempts are read whole instead of summarized; comparison and proposal are one call,
for a few groups side by side; consolidation reads an evidence table and what earlier steps found out; entries are
checked against labelled examples; the program's description is in every prompt.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import dspy
from dspy.teleprompt import Teleprompter

from .engine.interrupts import in_thread
from .engine.journal.fingerprint import fingerprint
from .engine.session import Session
from .evaluation.examples import check_examples
from .evaluation.result import DetailedResults
from .learning.loop import Run
from .learning.options import LearningOptions
from .learning.setup import Setup
from .learning.trial import trial
from .library.library import ExperienceLibrary
from .meter.meter import Budget
from .program.calling import check_program
from .program.instructions import teachable_predictors
from .report.html import report_at_end
from .report.tracking.trackers import carried, tracked

if TYPE_CHECKING:
    from .events import Listener
    from .meter.estimate import Estimate

__all__ = ["TrainingFreeGRPO"]

logger = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False, repr=False)
class TrainingFreeGRPO(LearningOptions, Teleprompter):
    """Learn a library of experiences and write it into a program's instructions; the weights stay frozen.

    Takes the options of `RunOptions` and `LearningOptions` as keyword arguments; nothing is called yet.

    Raises:
        TypeError: An option is of the wrong type.
        ValueError: An option is out of range.
    """

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
            trainset: Examples with inputs; labels are for the metric and, with one, for the reflection.
            valset: Examples that decide which library is returned; None returns the last one, unmeasured.
            teacher: Not used: attempts of the student are compared with each other. A warning says so.
            library: Where to start, in place of what the student carries.

        Returns:
            The program, with `experiences` (`ExperienceLibrary`) and `detailed_results` (`DetailedResults`).

        Raises:
            TypeError: An argument is of the wrong type.
            ValueError: An argument can't be used; the message names it and the way out.
            FatalError: A wrong key, no credit, an unknown model or a configuration that can't work; its `program` is
                the best program so far, once the input has been measured or a step was completed.
        """
        self._check_compile(student, trainset, valset, library)
        if teacher is not None:
            logger.warning("teacher= is not used: attempts of the student are compared with each other")
        setup = Setup.of(self, student, trainset, valset or (), library)
        tracking = tracked(self.report_to, setup.save_program, elsewhere=self.executor is not None)
        with tracking as trackers, self._session(setup, trackers) as session:
            run = Run(setup, session)
            if (earlier := run.begin()) is not None:
                return earlier
            with run.ending():
                library = run.measure_input()
                for step in setup.schedule:
                    lessons = run.learn(step, library)  # rollout, selection, comparison
                    plan = run.consolidate(step, lessons, library)
                    checked = run.check(step, lessons, plan, library)
                    library = run.update(step, lessons, checked)
                run.settle()
            return run.result()

    async def acompile(
        self,
        student: dspy.Module,
        *,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example] | None = None,
        teacher: dspy.Module | None = None,
        library: ExperienceLibrary | None = None,
    ) -> dspy.Module:
        """Do what `compile` does, in a thread, with the caller's context: the caller's event loop goes on.

        Cancelling the task stops the run; with a `log_dir`, another run goes on from there. Arguments, result and
        errors as in `compile`.
        """
        given: dict[str, Any] = {"trainset": trainset, "valset": valset, "teacher": teacher, "library": library}
        with carried(self.report_to):
            return await in_thread(partial(self.compile, student, **given))

    def estimate(
        self,
        program: dspy.Module,
        *,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example] | None = None,
        sample: int = 0,
    ) -> Estimate:
        """Say what `compile` will take, before it spends anything.

        Args:
            program: As for `compile`.
            trainset: As for `compile`.
            valset: As for `compile`.
            sample: Trial attempts to make for tokens and cost, each at another example, and with them one more at
                the first example and one call of each reflection step; 0 makes no call and gives LM calls only, one
                of each predictor to an attempt assumed.

        Returns:
            LM calls by stage, expected and at most; with a sample, tokens and cost.

        Raises:
            TypeError: An argument is of the wrong type.
            ValueError: An argument can't be used; the message names it and the way out.
            FatalError: A wrong key, no credit, an unknown model or a configuration that can't work.
            InfrastructureError: The trial calls were lost to outages.
        """
        self._check_compile(program, trainset, valset, None)
        if isinstance(sample, bool) or not isinstance(sample, int) or sample < 0:
            raise ValueError(f"sample={sample!r} must be a whole number, 0 for an estimate without calls")
        setup = Setup.of(self, program, trainset, valset or ())
        if not sample:
            return setup.estimate()
        with Session(self, metric=self.metric, kind="estimate", compare_fields=self.compare_fields) as session:
            return trial(setup, session, sample)

    def _session(self, setup: Setup, trackers: Sequence[Listener]) -> Session:
        """The run's session; with `auto` and no budget, LM calls are capped at what the run can take at most."""
        options = copy.copy(self)
        if self.auto is not None and self.budget is None:
            options.budget = Budget(max_lm_calls=round(setup.estimate().at_most))
        return Session(
            options,
            metric=self.metric,
            kind="compile",
            compare_fields=self.compare_fields,
            fingerprint=lambda: fingerprint(**setup.fingerprint_parts),
            transcript_tokens=setup.reflector.context_tokens // 2,
            listeners=[*([report_at_end(self.log_dir)] if self.log_dir is not None else []), *trackers],
        )

    def _check_compile(self, student: Any, trainset: Any, valset: Any, library: ExperienceLibrary | None) -> None:
        self.check()  # options may have been set since
        check_program("student", student)
        check_examples("trainset", trainset)
        if valset is not None:
            check_examples("valset", valset)
            if self.metric is None:
                raise ValueError("valset= needs a metric; with metric=None (label-free) leave valset out")
        elif self.build_on == "best":
            raise ValueError("build_on='best' needs a valset: without one no library is measured")
        if library is not None and not isinstance(library, ExperienceLibrary):
            raise TypeError(
                f"library must be an ExperienceLibrary, got {type(library).__name__}; see ExperienceLibrary.of(...)"
            )
        teachable_predictors(student, self.predictors)
        for name, kind in (("experiences", ExperienceLibrary), ("detailed_results", DetailedResults)):
            if not isinstance(student.__dict__.get(name), (kind, type(None))):
                raise ValueError(
                    f"the student has an attribute {name!r} of its own, which the result would overwrite; rename it"
                )
