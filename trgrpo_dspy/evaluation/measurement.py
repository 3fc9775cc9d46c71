"""A program, measured: every attempt with its score and what it took. Plain records: no dspy, no LM.

What has no verdict is left out of every mean and counted. An evaluation that was ended early holds the examples that
were finished until then and says why it ended.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from trgrpo_dspy.evaluation.statistics.comparison import PairedComparison, ending, paired_comparison
from trgrpo_dspy.evaluation.statistics.intervals import Mean, mean_at_k, mean_with_interval, pass_at_k
from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.library.saved import Saved
from trgrpo_dspy.meter.meter import Spend, total_spend
from trgrpo_dspy.program.rollout import Rollout

from .html import details, page, table
from .warnings import attempt_warnings

__all__ = ["Evaluation", "PerAttempt", "average", "calls_text", "summarize_evaluation"]

SCHEMA_VERSION = 1
_SHOWN = 10
"""Examples that a notebook shows."""


@dataclass(frozen=True)
class PerAttempt:
    """What an attempt took on average; attempts that met an outage are left out. None is unknown."""

    attempts: int
    """Attempts behind the averages."""
    lm_calls: float | None
    """LM calls as DSPy makes them."""
    tool_calls: float | None
    prompt_tokens: float | None
    """Prompt tokens billed; cached replies cost nothing."""
    completion_tokens: float | None
    """Completion tokens billed."""
    cost: float | None
    """US dollars; None as soon as one attempt's cost is unknown."""
    seconds: float | None
    """Wall time, in seconds."""


@dataclass(frozen=True)
class Evaluation(Saved):
    """A program, measured."""

    saved_as = "evaluation"
    rollouts: tuple[tuple[Rollout, ...], ...]
    """The k attempts at each example, in the devset's order; none where an early end came first. Their transcripts are
    dropped."""
    scores: tuple[float | None, ...]
    """Mean score of each example over its scored attempts; None is unscored."""
    mean: Mean
    """Mean@k over the examples, with its 95% interval."""
    outcomes: dict[str, int]
    """Attempts by outcome."""
    spend: tuple[Spend, ...]
    """LM calls and tokens by model; of an evaluation that was resumed, of all its parts."""
    k: int = 1
    """Attempts at each example."""
    stop_reason: str = "completed"
    """Why it ended: 'completed', 'interrupted', 'unscored' (nothing could be scored), or the cap that was reached, such
    as 'max_cost'."""
    data: str = ""
    """The number of examples and a hash of them, so that others are not taken for the same; empty is unknown."""
    inputs: tuple[int, ...] = ()
    """For each example the index of the first one with equal inputs: copies count once in every interval. Empty: each
    example counts as its own."""
    tasks: tuple[tuple[str, str], ...] = ()
    """Input and expected answer of each example, as bounded text; empty is unknown."""
    calls_before: int = field(default=0, compare=False)
    """LM calls of `spend` that earlier processes made; the others were made now."""
    schema_version: int = SCHEMA_VERSION
    """Version of this record."""

    @property
    def score(self) -> float | None:
        """Mean@k in the metric's own range; None if nothing was scored."""
        return self.mean.value

    @property
    def partial(self) -> bool:
        """Whether it was ended before all examples were done."""
        return self.stop_reason != "completed"

    def pass_at(self, k: int, threshold: float = 1.0) -> float | None:
        """The value of `pass_at_with_interval`; None if no example has k scored attempts."""
        return self.pass_at_with_interval(k, threshold).value

    def pass_at_with_interval(self, k: int, threshold: float = 1.0) -> Mean:
        """Pass@k, the unbiased estimator, with its 95% interval over the examples with at least k scored attempts.

        Args:
            k: Attempts allowed, at least 1.
            threshold: Score from which an attempt has passed; an error of rounding below it makes no difference.

        Raises:
            TypeError: `k` is no whole number.
            ValueError: `k` is below 1, or `threshold` is no number.
        """
        if isinstance(k, bool) or not isinstance(k, int):
            raise TypeError(f"k={k!r} must be a whole number")
        if k < 1:
            raise ValueError(f"k={k} must be at least 1")
        if math.isnan(threshold):
            raise ValueError("threshold=nan must be a number: the score from which an attempt has passed")
        per_example = [[r.score for r in attempts if r.score is not None] for attempts in self.rollouts]
        values = [
            pass_at_k(len(s), sum(_reaches(x, threshold) for x in s), k) if len(s) >= k else None for s in per_example
        ]
        return mean_with_interval(values, units=self.inputs or None)

    @property
    def per_attempt(self) -> PerAttempt:
        """What an attempt took on average: calls, tokens, cost and time."""
        counted = [r for attempts in self.rollouts for r in attempts if r.outcome is not Outcome.INFRASTRUCTURE]
        means = {f.name: average(getattr(r, f.name) for r in counted) for f in fields(PerAttempt)[1:]}
        return PerAttempt(len(counted), **means)

    def rows(self) -> list[dict[str, Any]]:
        """One row of plain data an example, lists with one entry an attempt: for JSON or `datasets.Dataset.from_list`.

        The columns: `example` (its index), `task`, `expected`, `score` (the mean), and by attempt `scores`, `outcomes`,
        `answers`, `errors` and what `PerAttempt` averages.
        """
        return [
            {
                "example": index,
                "task": self._task(index)[0],
                "expected": self._task(index)[1],
                "score": score,
                "scores": [r.score for r in attempts],
                "outcomes": [r.outcome.value for r in attempts],
                "answers": [r.answer for r in attempts],
                "errors": [r.error for r in attempts],
                **{f.name: [getattr(r, f.name) for r in attempts] for f in fields(PerAttempt)[1:]},
            }
            for index, (score, attempts) in enumerate(zip(self.scores, self.rollouts, strict=True))
        ]

    def _task(self, index: int) -> tuple[str, str]:
        return self.tasks[index] if index < len(self.tasks) else ("", "")

    def to_inspect(self, path: str | os.PathLike[str], name: str = "evaluation") -> None:
        """Write all attempts as a log for `inspect view` (extra `inspect`): a task of this name.

        Raises:
            ImportError: inspect_ai is not installed.
            ValueError: The path ends in neither `.eval` nor `.json`.
        """
        from .inspect_log import LoggedAttempt, write_inspect_log

        attempts = [
            LoggedAttempt(index + 1, rollout, *self._task(index))
            for index, attempts in enumerate(self.rollouts)
            for rollout in attempts
        ]
        seconds = sum(one.rollout.seconds or 0.0 for one in attempts)
        write_inspect_log(path, attempts, self.mean, spend=self.spend, name=name, partial=self.partial, seconds=seconds)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What kept attempts from being scored, or the program from working, where that was often."""
        errors: dict[str, str] = {}
        for r in (r for attempts in self.rollouts for r in attempts if r.error):
            errors.setdefault(r.outcome.value, r.error)
        return attempt_warnings(self.outcomes, errors)

    def versus(self, other: Evaluation, seed: int = 0) -> PairedComparison:
        """This program minus another one, paired by example; see `compare`.

        Args:
            other: The other program's evaluation on the same examples in the same order.
            seed: Seed of the bootstrap.

        Raises:
            TypeError: `other` is no `Evaluation`.
            ValueError: The evaluations are not of the same examples.
        """
        if not isinstance(other, Evaluation):
            raise TypeError(f"other must be an Evaluation, got {type(other).__name__}")
        if len(self.scores) != len(other.scores):
            raise ValueError(
                f"the evaluations have {len(self.scores)} and {len(other.scores)} examples; "
                "compare evaluations of the same devset"
            )
        if self.data and other.data and self.data != other.data:
            raise ValueError(
                f"the evaluations are of different examples ({self.data}; {other.data}); "
                "compare evaluations of the same devset, in the same order"
            )
        found = paired_comparison(other.scores, self.scores, seed=seed, units=self.inputs or other.inputs or None)
        return replace(found, stop_reason=other.stop_reason if other.partial else self.stop_reason)

    def __str__(self) -> str:
        """Mean@k and Pass@k with their intervals, over how many examples, what was spent, and whether it is all."""
        parts = [self._scores_text()]
        if self.spend:
            total = total_spend(self.spend)
            cost = "unknown" if total.cost is None else f"${total.cost:.2f}"
            tokens = total.prompt_tokens + total.completion_tokens
            parts.append(f"{calls_text(total.calls, self.calls_before)}, {tokens:,} tokens, cost {cost}")
        if self.partial:
            done = sum(bool(attempts) for attempts in self.rollouts)
            parts.append(f"partial, {ending(self.stop_reason)}: {done} of {len(self.rollouts)} examples done")
        return ". ".join(["; ".join(parts), *self.warnings])

    def _repr_html_(self) -> str:
        """What a notebook shows: the figures, the attempts by outcome, and the examples with the lowest scores."""
        by_score = sorted(range(len(self.scores)), key=lambda i: math.inf if (s := self.scores[i]) is None else s)
        rows = [
            [i, "unscored" if self.scores[i] is None else f"{self.scores[i]:.3f}", *self._task(i),
             "; ".join(dict.fromkeys(r.answer or r.error for r in self.rollouts[i]))]
            for i in by_score[:_SHOWN]
        ]  # fmt: skip
        outcomes = table(["outcome", "attempts"], self.outcomes.items())
        lowest = table(["example", "score", "task", "expected", "answers"], rows)
        said = [details("warnings", self.warnings)] if self.warnings else []
        return page(str(self).split(". ")[0] if said else str(self), [outcomes, *said, lowest])

    def _scores_text(self) -> str:
        """Mean@k and Pass@k, and over how many examples each of them is."""
        if self.k == 1:
            return f"{self.mean} over {self.mean.examples}"
        graded = any(r.score not in (None, 0.0, 1.0) for attempts in self.rollouts for r in attempts)
        passed = self.pass_at_with_interval(self.k)
        few = f", Pass@{self.k} over the {passed.n} with {self.k} scores" if passed.n < self.mean.n else ""
        return (
            f"Mean@{self.k} {self.mean}, Pass@{self.k}{' (score at least 1)' if graded else ''} {passed} "
            f"over {self.mean.examples}{few}"
        )


def summarize_evaluation(
    rollouts: Sequence[tuple[Rollout, ...]], spend: tuple[Spend, ...], inputs: Sequence[int] = ()
) -> Evaluation:
    """Scores, mean and outcomes of attempts, grouped by example; `inputs` as in `Evaluation`."""
    scores = mean_at_k([[r.score for r in attempts] for attempts in rollouts])
    outcomes = dict(sorted(Counter(r.outcome.value for attempts in rollouts for r in attempts).items()))
    k = max((len(attempts) for attempts in rollouts), default=1)
    mean = mean_with_interval(scores, units=inputs or None)
    return Evaluation(tuple(rollouts), tuple(scores), mean, outcomes, spend, k, inputs=tuple(inputs))


def calls_text(calls: int, before: int) -> str:
    """How many LM calls were made, and how many of them by earlier processes."""
    return f"{calls} LM calls" + (f" ({before} of them before, {calls - before} now)" if before else "")


def _reaches(score: float, threshold: float) -> bool:
    return score >= threshold or math.isclose(score, threshold, rel_tol=1e-9, abs_tol=1e-12)


def average(values: Iterable[float | None]) -> float | None:
    """The mean; None if there is nothing, or anything is unknown."""
    found = list(values)
    known = [value for value in found if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(found) else None
