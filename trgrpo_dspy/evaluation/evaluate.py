"""Measuring programs: Mean@k, Pass@k, and paired comparison with intervals.

On the same calls the score equals `dspy.Evaluate`'s: a program's own failure counts as the failure score. What has no
verdict (an outage, a metric that fails) is left out of every mean and counted; two programs are compared only on the
examples scored for both. Copies of an example count in every mean, and as one in every interval.

Attempts run in the same session as the optimizer's: retries, budget, journal, events. With a `log_dir` what was paid
for is not paid again. An evaluation that ends early, as by Ctrl-C or a budget, returns the examples that were finished.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dspy

from trgrpo_dspy.engine.attempts import evaluation_flows
from trgrpo_dspy.engine.calls.backends import TOO_MANY_LOST
from trgrpo_dspy.engine.journal.fingerprint import examples_digest, fingerprint
from trgrpo_dspy.engine.journal.logdir import LogDir
from trgrpo_dspy.engine.options import signature_with
from trgrpo_dspy.engine.session import Session
from trgrpo_dspy.errors import InfrastructureError, RunStopped
from trgrpo_dspy.events import RunEnded, RunStarted
from trgrpo_dspy.meter.meter import Stage
from trgrpo_dspy.program.calling import check_program
from trgrpo_dspy.program.examples import expected_text, task_text
from trgrpo_dspy.program.rollout import Rollout

from .examples import check_examples, contradiction, distinct_inputs
from .measurement import Evaluation, summarize_evaluation
from .options import EvaluationOptions

if TYPE_CHECKING:
    from trgrpo_dspy.engine.flows import Flow
    from trgrpo_dspy.program.scoring import Metric

    from .statistics.comparison import PairedComparison

__all__ = ["compare", "evaluate"]

logger = logging.getLogger(__name__)


@signature_with(EvaluationOptions)
def evaluate(
    program: dspy.Module, devset: Sequence[dspy.Example], metric: Metric, k: int = 1, **options: Any
) -> Evaluation:
    """Measure a program, each example k times.

    Args:
        program: The program; it is not changed.
        devset: At least one example with inputs.
        metric: In any form DSPy knows.
        k: Attempts at each example. The first is made exactly as `dspy.Evaluate` would; each further one has its own
            `rollout_id`, and its own seed where the LM carries one.
        **options: `num_threads`, `seed`, `budget`, `log_dir`, `temperature` and the others that `inspect.signature`
            shows; `EvaluationOptions` says what each is for.

    Returns:
        Attempts, scores, outcomes and spend. After Ctrl-C or a budget, or where the first 20 attempts had no score,
        those of the examples that were finished; the others are unscored, and `stop_reason` says why.

    Raises:
        TypeError: An argument is of the wrong type, or there is no such option.
        ValueError: An argument is out of range, or the devset is empty or without inputs.
        FatalError: A wrong key, no credit, an unknown model or a configuration that can't work.
        InfrastructureError: More than half of the recent LM calls were lost to outages.
        JournalError: `log_dir` is in use, can't be written, or holds something else.
    """
    (found,) = _measure({"program": program}, devset, metric, EvaluationOptions.of("evaluate", k, options))
    return found


@signature_with(EvaluationOptions)
def compare(
    a: dspy.Module, b: dspy.Module, devset: Sequence[dspy.Example], metric: Metric, k: int = 1, **options: Any
) -> PairedComparison:
    """Say whether program b beats program a, paired by example; arguments and errors as in `evaluate`.

    Both run side by side, with one journal, one budget and the same draws. In `log_dir` each program's evaluation is
    left in `a/results.json` and `b/results.json` (`Evaluation.from_json`).

    Returns:
        The mean difference b - a with its 95% interval, wins, ties and losses of b, the examples whose score differs,
        and the difference that this many examples and attempts can detect. The interval is over distinct inputs: copies
        of an example add nothing. Below 30 distinct inputs it is marked as unreliable. After Ctrl-C or a budget it is
        of the examples finished for both, and says so.
    """
    first, second = _measure({"a": a, "b": b}, devset, metric, EvaluationOptions.of("compare", k, options))
    return second.versus(first, seed=options.get("seed", 0))


def _measure(
    programs: Mapping[str, dspy.Module], devset: Sequence[dspy.Example], metric: Metric, options: EvaluationOptions
) -> list[Evaluation]:
    """Measure programs side by side; each is a step of the meter, so that each has its own spend."""
    check_examples("devset", devset)
    for name, program in programs.items():
        check_program(name, program)
    if metric is None:
        raise TypeError("metric=None: to measure a program takes a metric(example, prediction, trace=None)")
    alone, started = len(programs) == 1, time.monotonic()
    session = Session(
        options,
        metric=metric,
        kind="evaluate" if alone else "compare",
        fingerprint=lambda: fingerprint(
            kind="an evaluation" if alone else "a comparison",
            settings=options.decisive,
            programs=programs,
            data={"devset": devset},
            metric=metric,
            lms={"lm": dspy.settings.lm},
        ),
    )
    tasks = tuple((task_text(example), expected_text(example)) for example in devset)
    if warning := contradiction("devset", devset):
        logger.warning("%s", warning)
    with session:
        if session.calls_before:
            logger.info("going on in %s: %d LM calls were made before", options.log_dir, session.calls_before)
        attempts = len(programs) * len(devset) * options.k
        session.emit(RunStarted(run=session.kind, options=options.as_record(), valset=tasks, attempts=attempts))
        found = [replace(evaluation, tasks=tasks) for evaluation in _run(session, programs, devset, options)]
        if session.journal is not None:
            for name, evaluation in zip(programs, found, strict=True):
                LogDir.inside(session.journal.directory, "" if alone else name).results(evaluation.to_json())
        session.emit(
            RunEnded(
                stop_reason=found[0].stop_reason,
                verdict=str(found[0]) if alone else str(found[1].versus(found[0], seed=options.seed)),
                spend=session.meter.spend(),
                warnings=tuple(warning for evaluation in found for warning in evaluation.warnings),
                seconds=time.monotonic() - started,
            )
        )
    _warn(dict(zip(programs, found, strict=True)), session.problem, journaled=session.journal is not None)
    return found


def _run(
    session: Session, programs: Mapping[str, dspy.Module], devset: Sequence[dspy.Example], options: EvaluationOptions
) -> list[Evaluation]:
    """Make all attempts, or as many as the session lets through, and sum them up by program."""
    done: list[list[tuple[Rollout, ...]]] = [[()] * len(devset) for _ in programs]
    flows = [
        evaluation_flows(
            session.runner, session.copy(program), devset, options.k, Stage.EVALUATION, step,
            timeout=options.rollout_timeout, temperature=options.temperature, library=name if len(programs) > 1 else "",
        )
        for step, (name, program) in enumerate(programs.items())
    ]  # fmt: skip
    by_example = enumerate(zip(*flows, strict=True))  # so that an early end leaves pairs
    ended = "completed"
    try:
        session.run([_keep(flow, done[i], index) for index, row in by_example for i, flow in enumerate(row)])
    except RunStopped as stopped:
        if session.stop_reason == "error_rate":
            raise InfrastructureError(f"the evaluation was given up: {TOO_MANY_LOST}") from stopped
        ended = session.stop_reason
    inputs, data = distinct_inputs(devset), examples_digest(devset)
    found = []
    for step, rollouts in enumerate(done):
        summary = summarize_evaluation(rollouts, session.meter.spend(step), inputs)
        found.append(replace(summary, k=options.k, stop_reason=ended, data=data))
    return [replace(found[0], calls_before=session.calls_before)] if len(found) == 1 else found


def _warn(found: Mapping[str, Evaluation], problem: str, *, journaled: bool) -> None:
    """Say what kept attempts from being scored and why it ended early."""
    ended = next(iter(found.values())).stop_reason
    if ended == "unscored":
        logger.warning("the evaluation ended early: %s", problem)
        return
    for name, evaluation in found.items():
        for warning in evaluation.warnings:
            logger.warning("%s: %s", name, warning)
    if ended != "completed":
        more = "" if ended in ("interrupted", "max_seconds") else f" and a larger {ended}"
        again = f"run it again with the same log_dir{more} to go on" if journaled else "with a log_dir= it could go on"
        logger.warning("the evaluation ended early (%s); %s", ended, again)


def _keep(flow: Flow[tuple[Rollout, ...]], done: list[tuple[Rollout, ...]], index: int) -> Flow[None]:
    """Keep the flow's result in its slot: an early end then leaves what the other flows found."""
    done[index] = yield from flow
