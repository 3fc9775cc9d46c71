"""Measuring programs: Mean@k, Pass@k, and paired comparison with intervals.

On the same calls the score equals `dspy.Evaluate`'s: a program's own failure counts as the failure score. What has no
verdict (an outage, a metric that fails) is left out of every mean and counted; two programs are compared only on the
examples scored for both.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import dspy

from .calls import Calls, Unit
from .copies import own_copy
from .errors import InfrastructureError, RunStopped
from .execution import Execution, Flow, Task
from .health import TOO_MANY_LOST
from .meter import Spend, Stage
from .rollout import Rollout
from .runner import Runner
from .scoring import Metric
from .comparison import Comparison, paired_comparison
from .statistics import Mean, mean_at_k, mean_with_interval, pass_at_k

__all__ = ["Evaluation", "check_examples", "compare", "default_threads", "evaluate", "evaluation_flows"]


@dataclass(frozen=True)
class Evaluation:
    """A program, measured."""

    rollouts: tuple[tuple[Rollout, ...], ...]
    """The k attempts at each example, in the devset's order; their transcripts are dropped."""
    scores: tuple[float | None, ...]
    """Mean score of each example over its scored attempts; None is unscored."""
    mean: Mean
    """Mean@k over the examples, with its 95% interval."""
    outcomes: dict[str, int]
    """Attempts by outcome."""
    spend: tuple[Spend, ...]
    """LM calls and tokens by model."""

    @property
    def score(self) -> float | None:
        """Mean@k in the metric's own range; None if nothing was scored."""
        return self.mean.value

    def pass_at(self, k: int, threshold: float = 1.0) -> float | None:
        """Pass@k, the unbiased estimator, over the examples with at least k scored attempts.

        Args:
            k: Attempts allowed.
            threshold: Score from which an attempt has passed.
        """
        per_example = [[r.score for r in attempts if r.score is not None] for attempts in self.rollouts]
        values = [pass_at_k(len(s), sum(x >= threshold for x in s), k) for s in per_example if len(s) >= k]
        return sum(values) / len(values) if values else None

    def versus(self, other: Evaluation, seed: int = 0) -> Comparison:
        """This program minus another one, paired by example; see `compare`.

        Args:
            other: The other program's evaluation on the same examples in the same order.
            seed: Seed of the bootstrap.
        """
        return paired_comparison(other.scores, self.scores, seed=seed)

    def __str__(self) -> str:
        """The score with its interval, and what was left out."""
        text = "unscored" if self.mean.value is None else f"{self.mean.value:.3f}"
        if self.mean.interval is not None:
            text += f" (95% interval {self.mean.interval.low:.3f} to {self.mean.interval.high:.3f})"
        return f"{text} over {self.mean.n} examples" + (
            f", {self.mean.unscored} unscored" if self.mean.unscored else ""
        )


def evaluate(
    program: dspy.Module,
    devset: Sequence[dspy.Example],
    metric: Metric,
    k: int = 1,
    *,
    num_threads: int | None = None,
    failure_score: float = 0.0,
    seed: int = 0,
) -> Evaluation:
    """Measure a program, each example k times, at the program's own temperature.

    Args:
        program: The program; it is not changed.
        devset: At least one example with inputs.
        metric: In any form DSPy knows.
        k: Attempts at each example. The first is made exactly as `dspy.Evaluate` would; each further one has its own
            `rollout_id`, and its own seed where the LM carries one.
        num_threads: Attempts at a time; None is DSPy's setting.
        failure_score: Score where the program itself fails, as in `dspy.Evaluate`.
        seed: Where rollout ids come from.

    Returns:
        Scores, outcomes and spend.

    Raises:
        ValueError: An argument is out of range, or the devset is empty or without inputs.
        FatalError: A wrong key, no credit, an unknown model or a configuration that can't work.
        InfrastructureError: More than half of the recent LM calls were lost to outages.
    """
    check_examples("devset", devset)
    _check_numbers(k=k, num_threads=default_threads(num_threads))
    if metric is None:
        raise TypeError("metric=None: to measure a program takes a metric(example, prediction, trace=None)")
    calls = Calls(seed=seed)
    runner = Runner(calls, metric, failure_score=failure_score)
    with Execution(calls, default_threads(num_threads)) as execution:
        own = own_copy(program, calls.observe)
        try:
            rollouts = execution.run(evaluation_flows(runner, own, devset, k, Stage.EVALUATION, 0))
        except RunStopped as stopped:
            raise InfrastructureError(f"the evaluation was given up: {TOO_MANY_LOST}") from stopped
    return summarize_evaluation(rollouts, calls.meter.spend())


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
) -> Comparison:
    """Tell whether program b beats program a, paired by example; arguments as in `evaluate`.

    Returns:
        The mean difference b - a with its 95% interval, wins, ties and losses of b, the examples whose score differs,
        and the difference this many examples can detect. Below 30 examples it is marked as unreliable.
    """
    first, second = (
        evaluate(program, devset, metric, k, num_threads=num_threads, failure_score=failure_score, seed=seed)
        for program in (a, b)
    )
    return second.versus(first, seed=seed)


def evaluation_flows(
    runner: Runner,
    program: dspy.Module,
    examples: Sequence[dspy.Example],
    k: int,
    stage: Stage,
    step: int,
    *,
    timeout: float | None = None,
    basis: str = "",
) -> list[Flow[tuple[Rollout, ...]]]:
    """One flow per example: its k attempts at the program's own temperature.

    Seeds depend on example and repeat alone, not on the step: libraries are compared on the same draws.
    """

    def flow(index: int) -> Flow[tuple[Rollout, ...]]:
        tasks = []
        for repeat in range(k):
            unit = Unit(stage, step, (stage.value, index, repeat), resample=repeat > 0, basis=basis)
            run = functools.partial(runner.attempt, program, examples[index], unit, index=index, attempt=repeat)
            late = functools.partial(runner.abandon, unit, index=index, attempt=repeat, seconds=timeout or 0.0)
            held = functools.partial(getattr, unit, "held")
            tasks.append(Task(stage, run, timeout=timeout, held=held, on_timeout=late))
        rollouts = yield tasks
        return tuple(replace(r, transcript="") for r in rollouts)

    return [flow(index) for index in range(len(examples))]


def summarize_evaluation(rollouts: Sequence[tuple[Rollout, ...]], spend: tuple[Spend, ...]) -> Evaluation:
    """Scores, mean and outcomes of attempts, grouped by example."""
    scores = mean_at_k([[r.score for r in attempts] for attempts in rollouts])
    outcomes = Counter(r.outcome.value for attempts in rollouts for r in attempts)
    return Evaluation(tuple(rollouts), tuple(scores), mean_with_interval(scores), dict(sorted(outcomes.items())), spend)


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


def _check_numbers(**values: int) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}={value!r} must be a whole number")
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")


def default_threads(num_threads: int | None) -> int:
    """The number of threads asked for, else DSPy's setting."""
    return num_threads if num_threads is not None else max(1, int(dspy.settings.num_threads or 8))
