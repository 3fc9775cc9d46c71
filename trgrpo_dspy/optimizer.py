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

import math
import os
from collections.abc import Sequence
from typing import Any, Literal

import dspy
from dspy.teleprompt import Teleprompter

from .engine.calls.health import TOO_MANY_LOST
from .engine.executors.threads import Executor, check_executor
from .errors import FatalError, InfrastructureError, RunStopped
from .evaluation.examples import check_examples
from .evaluation.result import DetailedResults
from .learning.loop import Run
from .learning.reflector import Reflector
from .library import ExperienceLibrary
from .meter import Budget, Estimate
from .program.instructions import teachable_predictors
from .program.scoring import Metric, adapt_metric

__all__ = ["TrainingFreeGRPO"]


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
        evaluate_every: int = 1,
        summarize: Literal["always", "auto"] = "always",
        num_threads: int | None = None,
        seed: int = 0,
        budget: Budget | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        rollout_timeout: float | None = None,
        requests_per_minute: float | None = None,
        executor: Executor | None = None,
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
            evaluate_every: Measure the library on the valset after every so many steps, and after the last one. Each
                measurement keeps score, tool calls and tokens of an attempt: the paper's learning curve. A library
                that was not measured is not returned.
            summarize: "always" is the paper's; "auto" leaves out the summary of an attempt whose transcript is short
                enough to be read whole in the comparison (400 tokens of 4 characters). Attempts of a group that came
                back the same are summarized once either way.
            num_threads: Calls in flight at most; None is DSPy's setting. DSPy's native client has at most 100 calls
                of one LM in flight; above that the run gives it as many connections.
            seed: Where all chance comes from.
            budget: Caps on LM calls, tokens, cost and time; reaching one ends the run with the best program so far.
            log_dir: Directory of the run's journal: run again with the same arguments, and it goes on where it ended.
            rollout_timeout: Seconds after which an attempt is abandoned and left unscored; None waits.
            requests_per_minute: Requests at most, over all threads; None is no limit.
            executor: Where attempts are made: a `concurrent.futures` executor, `RayExecutor()`, or anything else with
                such a `submit`; None is threads of this process. Reflection stays here. Caps and journal then count
                whole attempts: caps are overshot by at most the attempts in flight (`num_threads`), and a killed run
                makes those again when it is resumed.

        Raises:
            TypeError: An argument is of the wrong type.
            ValueError: An argument is out of range.
        """
        super().__init__()
        _check_numbers(
            group_size=(group_size, 2), batch_size=(batch_size, 1), num_epochs=(num_epochs, 1),
            experiences_per_group=(experiences_per_group, 1), max_experiences=(max_experiences, 1),
            val_repeats=(val_repeats, 1), evaluate_every=(evaluate_every, 1), num_threads=(num_threads, 1),
        )  # fmt: skip
        _check_settings(rollout_temperature, failure_score, seed, reflection_lm, reflector)
        _check_limits(budget, log_dir, rollout_timeout, requests_per_minute)
        _check_executor(executor, requests_per_minute)
        _check_mode(metric, reflector, compare_fields)
        if summarize not in ("always", "auto"):
            raise ValueError(f"summarize={summarize!r} must be 'always' or 'auto'")
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
        self.evaluate_every = evaluate_every
        self.summarize = summarize
        self.num_threads = num_threads
        self.seed = seed
        self.budget = budget
        self.log_dir = os.fspath(log_dir) if log_dir is not None else None
        self.rollout_timeout = rollout_timeout
        self.requests_per_minute = requests_per_minute
        self.executor = executor

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
            FatalError: A wrong key, no credit, an unknown model or a configuration that can't work; its `program` is
                the best program so far, once the input has been measured or a step was completed.
        """
        self._check_compile(student, trainset, valset, teacher, library)
        with Run(self, student, list(trainset), list(valset or ()), library) as run:
            if (over := run.finished()) is not None:
                return over
            library = run.start
            try:
                run.measure_input()
                for step in run.schedule:
                    groups = run.learn(step, library)
                    plan = run.consolidate(step, groups, library)
                    library = run.update(step, groups, plan, library)
                run.settle()
            except RunStopped:  # a budget, Ctrl-C, too many errors, no score: what was learned until then counts
                pass
            except FatalError as error:
                error.program = run.finish() if run.record.steps or run.record.baseline else None
                raise
            return run.finish()

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
        self._check_compile(program, trainset, valset, None, None)
        if isinstance(sample, bool) or not isinstance(sample, int) or sample < 0:
            raise ValueError(f"sample={sample!r} must be a whole number, 0 for an estimate without calls")
        with Run(self, program, list(trainset), list(valset or ()), dry=True) as run:
            try:
                return run.trial(sample) if sample else run.estimate()
            except RunStopped as stopped:
                if (reason := run.calls.stop_reason) == "unscored":
                    raise ValueError(f"sample={sample}: no attempt could be scored ({run.calls.problem})") from stopped
                if reason != "error_rate":
                    raise ValueError(
                        f"sample={sample}: its calls were ended by {reason}; take a smaller sample or a larger budget"
                    ) from stopped
                raise InfrastructureError(f"the estimate was given up: {TOO_MANY_LOST}") from stopped

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
        for name, kind in (("experiences", ExperienceLibrary), ("detailed_results", DetailedResults)):
            if not isinstance(student.__dict__.get(name), (kind, type(None))):
                raise ValueError(
                    f"the student has an attribute {name!r} of its own, which the result would overwrite; rename it"
                )


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


def _check_executor(executor: Any, requests_per_minute: Any) -> None:
    check_executor(executor)
    if executor is not None and requests_per_minute is not None:
        raise ValueError(
            f"requests_per_minute={requests_per_minute} can't be kept to with executor=: its workers don't know of "
            "each other's requests. Leave one of them out; num_threads= bounds the attempts at a time"
        )


def _check_limits(budget: Any, log_dir: Any, rollout_timeout: Any, requests_per_minute: Any) -> None:
    if budget is not None and not isinstance(budget, Budget):
        raise TypeError(f"budget={budget!r} must be a Budget, e.g. Budget(max_cost=5.0)")
    if log_dir is not None and not isinstance(log_dir, (str, os.PathLike)):
        raise TypeError(f"log_dir={log_dir!r} must be a path")
    if log_dir == "":
        raise ValueError("log_dir='' names no directory; leave it out to keep nothing")
    for name, value in (("rollout_timeout", rollout_timeout), ("requests_per_minute", requests_per_minute)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name}={value!r} must be a number or None")
        if not value > 0:
            raise ValueError(f"{name}={value} must be above 0; leave it out for no limit")
