"""Doing a job: run it, and say how to go on."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dspy

from trgrpo_dspy import attach
from trgrpo_dspy.errors import FatalError
from trgrpo_dspy.evaluation.evaluate import compare, evaluate
from trgrpo_dspy.evaluation.options import EvaluationOptions
from trgrpo_dspy.events import Event, RunEnded, RunStarted
from trgrpo_dspy.meter.estimate import Estimate
from trgrpo_dspy.optimizer import TrainingFreeGRPO

from .console import note
from .directories import RUNS, shortest
from .errors import ExitCode, InputError, exit_code
from .job import FILE, Job
from .settings import built
from .sources import other_fields, read_source, saved_fields, write_text
from .subject import Subject, models_of

__all__ = ["ended_with", "inside", "run_compile", "run_estimate", "run_measure"]


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


def _variant(program: dspy.Module, name: str) -> dspy.Module:
    """The target's program as a file has it: a saved program's state, or a library; 'input' is the program itself."""
    if name == "input":
        return program
    source = read_source(name)
    if source.format != "program":
        return attach(program, source.library)
    own = {
        name: [str((field.json_schema_extra or {}).get("prefix")) for field in predictor.signature.fields.values()]
        for name, predictor in program.named_predictors()
    }
    if other := other_fields(saved_fields(source.text), own):  # DSPy loads such a state all the same
        raise InputError(f"{name} is a state of another program: {other}")
    loaded = program.deepcopy()
    try:
        loaded.load(str(source.path))
    except Exception as error:  # DSPy raises anything on a state that is not this program's
        raise InputError(f"{name} is no saved state of this program: {type(error).__name__}: {error}") from error
    return loaded


# -- a run and its directory -------------------------------------------------------------------------------------------


def _new_run(stem: str) -> Path:
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
    subject = Subject.of(job)
    metric, settings = subject.target.metric, built(TrainingFreeGRPO, job.options)
    with models_of(job, subject.program) as reflection:
        return TrainingFreeGRPO(metric=metric, reflection_lm=reflection, **settings).estimate(
            subject.program, trainset=subject.examples("trainset"), valset=subject.valset, sample=sample
        )


def run_compile(job: Job, run: Path | None, left_out: set[str]) -> Path:
    """Compile a job's program; gives the run's directory, which holds all that was found.

    Args:
        job: The job.
        run: The run's directory; None makes a new one.
        left_out: Takes the lines of the log that are shown with the results.
    """
    subject = Subject.of(job)
    options = built(TrainingFreeGRPO, job.options)
    sets: dict[str, Any] = {"trainset": subject.examples("trainset"), "valset": subject.valset}
    with models_of(job, subject.program) as reflection:
        listeners = options.pop("callbacks", ())
        options = {**_priced(options, job, reflection), "reflection_lm": reflection, "metric": subject.target.metric}
        # The estimate refuses what can't be used before a directory is made.
        expected = TrainingFreeGRPO(**options).estimate(subject.program, **sets)
        run = run or _new_run(subject.target.stem)
        keep = _Keep(job, run, left_out)
        optimizer = TrainingFreeGRPO(log_dir=run, callbacks=[*listeners, keep], **options)
        size = f"{len(sets['trainset'])} training and {len(sets['valset'] or ())} validation examples"
        calls = f"about {expected.calls:,.0f} LM calls, at most {expected.at_most:,.0f}"
        note(f"{shortest(run)}: {size}{_by(job)}, {calls}")
        try:
            compiled = optimizer.compile(subject.program, **sets)
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


def _by(job: Job) -> str:
    return ", offline model (no LLM)" if job.offline else ""


def _save(program: dspy.Module, path: str) -> None:
    try:
        program.save(path)
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"--save {path}: {error}; the best program is also in the run's directory") from error


def run_measure(job: Job, run: Path | None) -> Any:
    """Evaluate or compare a job's programs; gives the `Evaluation` or `PairedComparison`."""
    subject = Subject.of(job)
    metric = subject.target.metric
    if metric is None:
        raise InputError(f"{subject.target.name} has metric = None: to measure takes a metric")
    options = built(EvaluationOptions, job.options)
    devset = subject.examples(f"{job.on}set" if job.on else "testset" if subject.sets["testset"] else "valset")
    programs = [_variant(subject.program, name) for name in job.programs]
    if len(programs) < (2 if job.verb == "compare" else 1):
        programs.insert(0, subject.program)
    with models_of(job, subject.program):
        options = _priced(options, job)
        if run is not None:
            options |= {"log_dir": run, "callbacks": [*options.pop("callbacks", ()), _Keep(job, run, set())]}
        k = options.get("k", 1)
        note(f"{len(devset)} examples, {k} attempt{'s' * (k > 1)} each{_by(job)}")
        return (compare if job.verb == "compare" else evaluate)(*programs, devset, metric, **options)


def ended_with(stop_reason: str, run: Path | None) -> ExitCode:
    """Say how a run that ended early can go on; gives the exit code."""
    code = exit_code(stop_reason)
    where = f"trgrpo resume {run}" if run is not None else "the same command with --log-dir, which keeps what was paid"
    if code == ExitCode.INTERRUPTED:
        note(f"interrupted; go on with: {where}")
    elif code == ExitCode.BUDGET:
        more = " --max-cost 10" if stop_reason == "max_cost" else f" --set budget.{stop_reason}=..."
        note(f"ended by {stop_reason}; go on with: {where}{'' if stop_reason == 'max_seconds' else more}")
    elif code == ExitCode.FAILED:
        note(f"ended early ({stop_reason}): mend what is said above, then: {where}")
    return code


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
