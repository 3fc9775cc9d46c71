"""Measuring programs: Mean@k, Pass@k, and paired comparison with intervals.

On the same calls the score equals `dspy.Evaluate`'s: a program's own failure counts as the failure score. What has no
verdict (an outage, a metric that fails) is left out of every mean and counted; two programs are compared only on the
examples scored for both.

Attempts run through the same gate as the optimizer's: retries, budget, journal. With a `log_dir` what was paid for is
not paid again; where it ends early, as by Ctrl-C or a budget, the examples that were finished are returned as what they
are, a part.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import dspy

from trgrpo_dspy.engine.attempts import attempt_task
from trgrpo_dspy.engine.calls.health import TOO_MANY_LOST
from trgrpo_dspy.engine.calls.units import Unit
from trgrpo_dspy.engine.executors.threads import Executor
from trgrpo_dspy.engine.flows import Flow
from trgrpo_dspy.engine.journal.fingerprint import evaluation_fingerprint, examples_digest
from trgrpo_dspy.engine.journal.logdir import LogDir
from trgrpo_dspy.engine.options import RunOptions
from trgrpo_dspy.engine.runner import Runner
from trgrpo_dspy.engine.session import Session
from trgrpo_dspy.errors import InfrastructureError, RunStopped
from trgrpo_dspy.evaluation.statistics.comparison import Comparison
from trgrpo_dspy.evaluation.statistics.intervals import mean_at_k, mean_with_interval
from trgrpo_dspy.meter import Budget, Spend, Stage
from trgrpo_dspy.program.rollout import Rollout
from trgrpo_dspy.program.scoring import Metric

from .measurement import Evaluation
from .options import Plan

__all__ = ["check_examples", "compare", "default_threads", "evaluate", "evaluation_flows"]

logger = logging.getLogger(__name__)


def evaluate(
    program: dspy.Module,
    devset: Sequence[dspy.Example],
    metric: Metric,
    k: int = 1,
    *,
    num_threads: int | None = None,
    failure_score: float = 0.0,
    seed: int = 0,
    temperature: float | None = None,
    log_dir: str | os.PathLike[str] | None = None,
    budget: Budget | None = None,
    rollout_timeout: float | None = None,
    executor: Executor | None = None,
) -> Evaluation:
    """Measure a program, each example k times.

    Args:
        program: The program; it is not changed.
        devset: At least one example with inputs.
        metric: In any form DSPy knows.
        k: Attempts at each example. The first is made exactly as `dspy.Evaluate` would; each further one has its own
            `rollout_id`, and its own seed where the LM carries one.
        num_threads: Attempts at a time; None is DSPy's setting. Above 100 DSPy's native client, which stops there,
            is given as many connections.
        failure_score: Score where the program itself fails, as in `dspy.Evaluate`.
        seed: Where rollout ids come from.
        temperature: Sampling temperature (the paper evaluates at 0.3), of the first attempt too; a predictor's own and
            models that accept none keep theirs. None is the program's own.
        log_dir: Directory of the evaluation's journal and its `results.json`: run again with the same arguments, and
            it goes on where it ended; `k` may grow.
        budget: Caps on LM calls, tokens, cost and time; reaching one ends the evaluation with what was measured.
        rollout_timeout: Seconds after which an attempt is abandoned and left unscored; None waits.
        executor: Where attempts run in place of this process's threads, as for `TrainingFreeGRPO`.

    Returns:
        Attempts, scores, outcomes and spend. After Ctrl-C or a budget, or where the first 20 attempts had no score,
        those of the examples that were finished; the others are unscored, and `stop_reason` says why.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument is out of range, or the devset is empty or without inputs.
        FatalError: A wrong key, no credit, an unknown model or a configuration that can't work.
        InfrastructureError: More than half of the recent LM calls were lost to outages.
        JournalError: `log_dir` is in use, can't be written, or holds something else.
    """
    plan = Plan(k, num_threads, failure_score, seed, temperature, log_dir, budget, rollout_timeout, executor)
    (found,) = _measure({"program": program}, devset, metric, plan)
    return found


def compare(
    a: dspy.Module,
    b: dspy.Module,
    devset: Sequence[dspy.Example],
    metric: Metric,
    k: int = 1,
    *,
    num_threads: int | None = None,
    failure_score: float = 0.0,
    seed: int = 0,
    temperature: float | None = None,
    log_dir: str | os.PathLike[str] | None = None,
    budget: Budget | None = None,
    rollout_timeout: float | None = None,
    executor: Executor | None = None,
) -> Comparison:
    """Tell whether program b beats program a, paired by example; arguments and errors as in `evaluate`.

    Both run side by side, with one journal, one budget and the same draws. In `log_dir` each program's evaluation is
    left in `a/results.json` and `b/results.json` (`Evaluation.from_json`).

    Returns:
        The mean difference b - a with its 95% interval, wins, ties and losses of b, the examples whose score differs,
        and the difference that this many examples and attempts can detect. Below 30 examples it is marked as
        unreliable. After Ctrl-C or a budget it is of the examples finished for both, and says so.
    """
    plan = Plan(k, num_threads, failure_score, seed, temperature, log_dir, budget, rollout_timeout, executor)
    first, second = _measure({"a": a, "b": b}, devset, metric, plan)
    return second.versus(first, seed=seed)


def _measure(
    programs: Mapping[str, dspy.Module], devset: Sequence[dspy.Example], metric: Metric, plan: Plan
) -> list[Evaluation]:
    """Measure programs side by side; each is a step of the meter, so that its spend can be told."""
    check_examples("devset", devset)
    for name, program in programs.items():
        if not isinstance(program, dspy.Module):
            raise TypeError(f"{name} must be a dspy.Module, got {type(program).__name__}")
    if metric is None:
        raise TypeError("metric=None: to measure a program takes a metric(example, prediction, trace=None)")
    names = ("num_threads", "failure_score", "seed", "log_dir", "budget", "rollout_timeout", "executor")
    options = RunOptions(**{name: getattr(plan, name) for name in names})
    session = Session(
        options,
        metric=metric,
        kind="compare" if len(programs) > 1 else "evaluate",
        fingerprint=lambda: evaluation_fingerprint(
            kind="a comparison" if len(programs) > 1 else "an evaluation",
            programs=programs,
            devset=devset,
            metric=metric,
            settings=plan.decisive,
            lm=dspy.settings.lm,
        ),
    )
    done: list[list[tuple[Rollout, ...]]] = [[()] * len(devset) for _ in programs]
    with session:
        if session.files is not None:
            session.files.config({**options.as_record(), **plan.decisive})
        if session.calls_before:
            logger.info("going on in %s: %d LM calls were made before", plan.log_dir, session.calls_before)
        flows = [
            evaluation_flows(
                session.runner, session.copy(program), devset, plan.k, Stage.EVALUATION, step,
                timeout=plan.rollout_timeout, temperature=plan.temperature, basis=name if len(programs) > 1 else "",
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
        settled: dict[str, Any] = {"k": plan.k, "stop_reason": ended, "data": examples_digest(devset)}
        found = [
            replace(summarize_evaluation(rollouts, session.meter.spend(step)), **settled)
            for step, rollouts in enumerate(done)
        ]
        if session.journal is not None:
            for name, evaluation in zip(programs, found, strict=True):
                directory = LogDir.inside(session.journal.directory, name if len(programs) > 1 else "")
                directory.results(evaluation.to_json())
    _warn(dict(zip(programs, found, strict=True)), session.problem, journaled=session.journal is not None)
    return found


def _warn(found: Mapping[str, Evaluation], problem: str, *, journaled: bool) -> None:
    """Say what kept attempts from being scored and why it ended early."""
    ended = next(iter(found.values())).stop_reason
    if ended == "unscored":
        logger.warning("the evaluation ended early: no attempt could be scored (%s)", problem)
        return
    for name, evaluation in found.items():
        for warning in evaluation.warnings:
            logger.warning("%s: %s", name, warning)
    if ended != "completed":
        more = "" if ended in ("interrupted", "max_seconds") else f" and a larger {ended}"
        again = f"run it again with the same log_dir{more} to go on" if journaled else "with a log_dir= it could go on"
        logger.warning("the evaluation ended early (%s); %s", ended, again)


def _keep(flow: Flow[tuple[Rollout, ...]], done: list[tuple[Rollout, ...]], index: int) -> Flow[None]:
    """Put what a flow comes to in its place, whatever becomes of the others."""
    done[index] = yield from flow


def evaluation_flows(
    runner: Runner,
    program: dspy.Module,
    examples: Sequence[dspy.Example],
    k: int,
    stage: Stage,
    step: int,
    *,
    timeout: float | None = None,
    temperature: float | None = None,
    basis: str = "",
) -> list[Flow[tuple[Rollout, ...]]]:
    """One flow per example: its k attempts, at the program's own temperature unless another is asked for.

    Seeds depend on example and repeat alone, not on the step: libraries are compared on the same draws.
    """

    def flow(index: int) -> Flow[tuple[Rollout, ...]]:
        tasks = []
        for repeat in range(k):
            unit = Unit(
                stage, step, (stage.value, index, repeat),
                resample=repeat > 0 or temperature is not None, temperature=temperature, basis=basis,
            )  # fmt: skip
            tasks.append(
                attempt_task(
                    runner, program, examples[index], unit,
                    index=index, attempt=repeat, timeout=timeout,
                )
            )  # fmt: skip
        rollouts = yield tasks
        return tuple(replace(r, transcript="") for r in rollouts)

    return [flow(index) for index in range(len(examples))]


def summarize_evaluation(rollouts: Sequence[tuple[Rollout, ...]], spend: tuple[Spend, ...]) -> Evaluation:
    """Scores, mean and outcomes of attempts, grouped by example."""
    scores = mean_at_k([[r.score for r in attempts] for attempts in rollouts])
    outcomes = Counter(r.outcome.value for attempts in rollouts for r in attempts)
    k = max((len(attempts) for attempts in rollouts), default=1)
    mean = mean_with_interval(scores)
    return Evaluation(tuple(rollouts), tuple(scores), mean, dict(sorted(outcomes.items())), spend, k)


def check_examples(name: str, examples: Sequence[dspy.Example]) -> None:
    """Refuse a set that is empty, holds what is no example, or examples without inputs."""
    if not isinstance(examples, Sequence) or isinstance(examples, (str, bytes)):
        raise TypeError(f"{name} must be a list of dspy.Example, got {type(examples).__name__}")
    if not examples:
        raise ValueError(f"{name} is empty; it needs at least one dspy.Example")
    for index, example in enumerate(examples):
        if not isinstance(example, dspy.Example):
            raise TypeError(
                f"{name}[{index}] is a {type(example).__name__}; make it a dspy.Example(...).with_inputs(...)"
            )
        if not getattr(example, "_input_keys", None):
            raise ValueError(f"{name}[{index}] has no inputs; say which fields are: example.with_inputs('question')")


def default_threads(num_threads: int | None) -> int:
    """The number of threads asked for, else DSPy's setting."""
    return num_threads if num_threads is not None else max(1, int(dspy.settings.num_threads or 8))
