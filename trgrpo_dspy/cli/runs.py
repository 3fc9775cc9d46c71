"""Doing a job: load the target, set the models up, run, and say how to go on."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dspy

from trgrpo_dspy.errors import FatalError
from trgrpo_dspy.evaluation.evaluate import compare, evaluate
from trgrpo_dspy.evaluation.options import EvaluationOptions
from trgrpo_dspy.events import Event, RunEnded, RunStarted
from trgrpo_dspy.failures.secrets import remember, secrets_of
from trgrpo_dspy.meter import Estimate
from trgrpo_dspy.offline import NOTICE, offline_lm
from trgrpo_dspy.optimizer import TrainingFreeGRPO

from .console import note
from .data import examples_from
from .errors import ExitCode, InputError
from .job import FILE, Job
from .programs import variant
from .settings import built
from .sources import RUNS, shortest, write_text
from .target import SETS, Target, load_target

__all__ = [
    "Subject",
    "ended_with",
    "inside",
    "language_model",
    "models_of",
    "new_run",
    "run_compile",
    "run_estimate",
    "run_measure",
    "subject_of",
]


@dataclass(frozen=True)
class Subject:
    """What a job works on."""

    target: Target
    """The target."""
    program: dspy.Module
    """Its program."""
    sets: Mapping[str, list[dspy.Example]]
    """The sets of examples that there are, by name."""

    @property
    def valset(self) -> list[dspy.Example] | None:
        """The validation examples to learn with; without a metric nothing is measured."""
        return (self.sets["valset"] or None) if self.target.metric is not None else None

    def examples(self, name: str) -> list[dspy.Example]:
        """A set of examples.

        Raises:
            InputError: There is none of this name.
        """
        if not self.sets.get(name):
            raise InputError(
                f"{self.target.name} has no examples in {name}; define `{name}`, or pass --{name} data.jsonl"
            )
        return self.sets[name]


def subject_of(job: Job) -> Subject:
    """Load a job's target and data.

    Raises:
        InputError: Something of it is missing or can't be loaded.
    """
    target = load_target(job.target)
    program = target.program
    sets = {
        name: examples_from(job.data[name], program, job.inputs, job.columns)
        if name in job.data
        else target.examples(name) or []
        for name in SETS
    }
    return Subject(target, program, sets)


@contextmanager
def models_of(job: Job, program: dspy.Module, *, called: bool = True) -> Iterator[dspy.BaseLM | None]:
    """Set the job's LM for what is done inside; gives the LM of the reflection, None where it is the same.

    Without `called` nothing is said of the built-in model.

    Raises:
        InputError: No LM is named or configured.
    """
    if job.offline and (job.model or job.reflection_model):
        raise InputError("--offline is the built-in model: leave it out, or --model")
    own = [p.lm for _, p in program.named_sub_modules(dspy.Predict) if p.lm is not None]
    if job.offline:
        if called:
            note(f"offline: {NOTICE}")
        lm: Any = offline_lm(seed=int(job.options.get("seed", "0")))
    elif job.model:
        lm = language_model(job.model, job.lm)
    elif dspy.settings.lm is None and not own:
        raise InputError(
            "no model: pass --model openai/gpt-4o-mini (any LiteLLM string; its key in the environment), or --offline "
            "to try things out without one"
        )
    else:
        lm = dspy.settings.lm
    reflection = language_model(job.reflection_model, job.lm) if job.reflection_model else None
    with dspy.context(lm=lm):
        yield reflection


def language_model(name: str, arguments: Mapping[str, str]) -> dspy.LM:
    """A `dspy.LM` from its model string and arguments given as text.

    Raises:
        InputError: An argument holds a secret.
    """
    found = {key: _value(text) for key, text in arguments.items()}
    if held := [key for key, value in found.items() if secrets_of({key: value})]:
        raise InputError(
            f"--lm {held[0]}=***: a secret on the command line stays in the shell's history; set the provider's "
            "environment variable, such as OPENAI_API_KEY, or configure the LM in TARGET"
        )
    try:
        lm = dspy.LM(name, **found)
    except (ValueError, TypeError) as error:
        raise InputError(f"--model {name}: {error}") from error
    remember(lm.kwargs)
    return lm


def _priced(options: Mapping[str, Any], job: Job, *lms: Any) -> dict[str, Any]:
    """The options with the price that was given, for the LMs of the job; the built-in model costs nothing."""
    text = "0,0" if job.offline else job.price
    budget = options.get("budget")
    if not text or budget is None:
        return dict(options)
    try:
        prompt, reply = map(float, text.split(","))
    except ValueError:
        raise InputError(f"--price {text}: write two amounts, prompt and reply, as in --price 0.15,0.60") from None
    prices = {lm.model: (prompt, reply) for lm in (*lms, dspy.settings.lm) if lm is not None}
    return {**options, "budget": replace(budget, prices=prices)}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def new_run(stem: str) -> Path:
    """Make the directory of a new run: `runs/NAME-1`, the next number where that is taken."""
    number, name = 1, re.sub(r"[^\w.-]+", "_", stem)  # no name that a shell would want quoted
    while True:
        path = RUNS / f"{name}-{number}"
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            number += 1


@dataclass(frozen=True)
class _Keep:
    """A listener that keeps the command in the run's directory, once the run has claimed it."""

    job: Job
    run: Path
    left_out: set[str]
    """Takes the verdict, which is shown with the results and need not be a log line too."""

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunEnded):
            self.left_out.add(event.verdict)
        if isinstance(event, RunStarted):
            write_text(self.run / FILE, self.job.to_json())
            (self.run / FILE).chmod(0o600)


def run_estimate(job: Job, sample: int) -> Estimate:
    """What compiling a job's program would take; `sample` trial attempts are made."""
    subject = subject_of(job)
    metric, settings = subject.target.metric, built(TrainingFreeGRPO, job.options)
    with models_of(job, subject.program, called=sample > 0) as reflection:
        return TrainingFreeGRPO(metric=metric, reflection_lm=reflection, **settings).estimate(
            subject.program, trainset=subject.examples("trainset"), valset=subject.valset, sample=sample
        )


def run_compile(job: Job, run: Path | None, left_out: set[str]) -> Path:
    """Compile a job's program; gives the run's directory, which holds all that was found.

    Args:
        job: The job.
        run: The run's directory; None makes a new one.
        left_out: Takes the lines of the log that are shown with the results.

    Raises:
        FatalError: Nothing can go on; what was found until then is saved.
    """
    subject = subject_of(job)
    metric = subject.target.metric
    options = built(TrainingFreeGRPO, job.options)
    trainset = subject.examples("trainset")
    valset = subject.valset
    with models_of(job, subject.program) as reflection:
        listeners = options.pop("callbacks", ())
        options = {**_priced(options, job, reflection), "reflection_lm": reflection}
        expected = TrainingFreeGRPO(metric=metric, **options).estimate(
            subject.program, trainset=trainset, valset=valset
        )  # refuses what can't be used before a directory is made
        run = run or new_run(subject.target.stem)
        optimizer = TrainingFreeGRPO(
            metric=metric, log_dir=run, callbacks=[*listeners, _Keep(job, run, left_out)], **options
        )
        sets = f"{len(trainset)} training and {len(valset or ())} validation examples"
        note(f"{shortest(run)}: {sets}, about {expected.calls:,.0f} LM calls, at most {expected.at_most:,.0f}")
        try:
            compiled = optimizer.compile(subject.program, trainset=trainset, valset=valset)
        except FatalError as error:
            if job.save and isinstance(error.program, dspy.Module):
                _save(error.program, job.save)
            if "prices=" in str(error):
                note("no price is known for a model: pass --price 0.15,0.60, or cap with --set budget.max_lm_calls=500")
            note(f"what was paid for is kept; once it is mended, go on with: trgrpo resume {shortest(run)}")
            raise
        if job.save:
            _save(compiled, job.save)
    return run


def _save(program: dspy.Module, path: str) -> None:
    try:
        program.save(path)
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"--save {path}: {error}; the best program is also in the run's directory") from error


def run_measure(job: Job, run: Path | None) -> Any:
    """Evaluate or compare a job's programs; gives the `Evaluation` or `PairedComparison`."""
    subject = subject_of(job)
    metric = subject.target.metric
    if metric is None:
        raise InputError(f"{subject.target.name} has metric = None: to measure takes a metric")
    options = built(EvaluationOptions, job.options)
    devset = subject.examples(f"{job.on}set" if job.on else "testset" if subject.sets["testset"] else "valset")
    programs = [variant(subject.program, name) for name in job.programs]
    if job.verb == "compare" and len(programs) == 1:
        programs.insert(0, subject.program)
    with models_of(job, subject.program):
        options = _priced(options, job)
        if run is not None:
            options |= {"log_dir": run, "callbacks": [*options.pop("callbacks", ()), _Keep(job, run, set())]}
        k = options.get("k", 1)
        note(f"{len(devset)} examples, {k} attempt{'s' * (k > 1)} each")
        if job.verb == "compare":
            return compare(*programs, devset, metric, **options)
        return evaluate(programs[0] if programs else subject.program, devset, metric, **options)


def ended_with(stop_reason: str, run: Path | None) -> ExitCode:
    """Say how a run that ended early can go on; gives the exit code."""
    if stop_reason == "completed":
        return ExitCode.OK
    where = f"trgrpo resume {run}" if run is not None else "the same command with --log-dir, which keeps what was paid"
    if stop_reason == "interrupted":
        note(f"interrupted; go on with: {where}")
        return ExitCode.INTERRUPTED
    if stop_reason.startswith("max_"):
        raised = " --max-cost 10" if stop_reason == "max_cost" else f" --set budget.{stop_reason}=..."
        more = "" if stop_reason == "max_seconds" else raised
        note(f"ended by {stop_reason}; go on with: {where}{more}")
        return ExitCode.BUDGET
    note(f"ended early ({stop_reason}): mend what is said above, then: {where}")
    return ExitCode.FAILED


@contextmanager
def inside(folder: str) -> Iterator[None]:
    """Work in the folder where a command was given."""
    before = os.getcwd()
    try:
        if folder and Path(folder).is_dir():
            os.chdir(folder)
            sys.path.insert(0, folder)
        yield
    finally:
        os.chdir(before)
