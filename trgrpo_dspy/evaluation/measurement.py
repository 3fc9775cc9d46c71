"""A program, measured: every attempt with its score and what it took. Plain records: no dspy, no LM.

What has no verdict is left out of every mean and counted. An evaluation that was ended early holds the examples that
were finished until then and says why it ended.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trgrpo_dspy.evaluation.statistics.comparison import Comparison, ending, paired_comparison
from trgrpo_dspy.evaluation.statistics.intervals import Mean, mean_with_interval, pass_at_k
from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.meter import Spend, total_spend
from trgrpo_dspy.program.rollout import Rollout
from trgrpo_dspy.saved import Saved

__all__ = ["FAILED", "MANY_UNSCORED", "UNSCORED", "Evaluation", "PerAttempt", "attempt_warnings"]

SCHEMA_VERSION = 1
MANY_UNSCORED = 0.2
"""Share of unscored attempts from which the user is told."""
MANY_FAILED = 0.5
"""Share of attempts in which the program itself failed from which the user is told."""
UNSCORED = tuple(outcome.value for outcome in Outcome if outcome.scoreless)
"""Outcomes without a score."""
FAILED = tuple(outcome.value for outcome in Outcome if outcome.failed)
"""Outcomes in which the program itself failed."""


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
        """Pass@k, the unbiased estimator, over the examples with at least k scored attempts; None if there are none.

        Args:
            k: Attempts allowed, at least 1.
            threshold: Score from which an attempt has passed.
        """
        return self.pass_at_with_interval(k, threshold).value

    def pass_at_with_interval(self, k: int, threshold: float = 1.0) -> Mean:
        """Pass@k with its 95% interval over examples; those with fewer than k scored attempts count as unscored.

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
        return mean_with_interval(values)

    @property
    def per_attempt(self) -> PerAttempt:
        """What an attempt took on average: calls, tokens, cost and time."""
        counted = [r for attempts in self.rollouts for r in attempts if r.outcome is not Outcome.INFRASTRUCTURE]
        return PerAttempt(
            attempts=len(counted),
            lm_calls=_average(r.lm_calls for r in counted),
            tool_calls=_average(r.tool_calls for r in counted),
            prompt_tokens=_average(r.prompt_tokens for r in counted),
            completion_tokens=_average(r.completion_tokens for r in counted),
            cost=_average(r.cost for r in counted),
            seconds=_average(r.seconds for r in counted),
        )

    def rows(self) -> list[dict[str, Any]]:
        """One row of plain data an example, lists with one entry an attempt: for JSON or `datasets.Dataset.from_list`.

        The columns: `example` (its index), `score` (the mean), and by attempt `scores`, `outcomes`, `answers`,
        `errors`, `lm_calls`, `tool_calls`, `prompt_tokens`, `completion_tokens`, `cost` (US dollars, None is unknown)
        and `seconds`.
        """
        return [
            {
                "example": index,
                "score": score,
                "scores": [r.score for r in attempts],
                "outcomes": [r.outcome.value for r in attempts],
                "answers": [r.answer for r in attempts],
                "errors": [r.error for r in attempts],
                "lm_calls": [r.lm_calls for r in attempts],
                "tool_calls": [r.tool_calls for r in attempts],
                "prompt_tokens": [r.prompt_tokens for r in attempts],
                "completion_tokens": [r.completion_tokens for r in attempts],
                "cost": [r.cost for r in attempts],
                "seconds": [r.seconds for r in attempts],
            }
            for index, (score, attempts) in enumerate(zip(self.scores, self.rollouts, strict=True))
        ]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What kept attempts from being scored, or the program from working, where that was often."""
        errors: dict[str, str] = {}
        for r in (r for attempts in self.rollouts for r in attempts if r.error):
            errors.setdefault(r.outcome.value, r.error)
        return attempt_warnings(self.outcomes, errors)

    def versus(self, other: Evaluation, seed: int = 0) -> Comparison:
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
        found = paired_comparison(other.scores, self.scores, seed=seed)
        return replace(found, stop_reason=other.stop_reason if other.partial else self.stop_reason)

    def __str__(self) -> str:
        """Mean@k and Pass@k with their intervals, what was left out, what was spent, and whether it is all."""
        parts = [self._told_scores()]
        if self.spend:
            total = total_spend(self.spend)
            cost = "unknown" if total.cost is None else f"${total.cost:.2f}"
            parts.append(
                f"{total.calls} LM calls, {total.prompt_tokens + total.completion_tokens:,} tokens, cost {cost}"
            )
        if self.partial:
            done = sum(bool(attempts) for attempts in self.rollouts)
            parts.append(f"partial, {ending(self.stop_reason)}: {done} of {len(self.rollouts)} examples done")
        return ". ".join(["; ".join(parts), *self.warnings])

    def _told_scores(self) -> str:
        """Mean@k and Pass@k, and over how many examples each of them is."""
        if self.k == 1:
            text, few = _told(self.mean), ""
        else:
            graded = any(r.score not in (None, 0.0, 1.0) for attempts in self.rollouts for r in attempts)
            found = self.pass_at_with_interval(self.k)
            text = f"Mean@{self.k} {_told(self.mean)}, "
            text += f"Pass@{self.k}{' (score at least 1)' if graded else ''} {_told(found)}"
            few = f", Pass@{self.k} over the {found.n} with {self.k} scores" if found.n < self.mean.n else ""
        text += f" over {self.mean.n} examples{few}"
        return text + (f", {self.mean.unscored} unscored" if self.mean.unscored else "")


def attempt_warnings(outcomes: Mapping[str, int], errors: Mapping[str, str]) -> tuple[str, ...]:
    """What is to be said of attempts many of which have no score, or in many of which the program itself failed.

    Args:
        outcomes: Attempts by outcome.
        errors: The first error of each outcome.
    """
    found, attempts = [], sum(outcomes.values())
    unscored = sum(outcomes.get(name, 0) for name in UNSCORED)
    failed = sum(outcomes.get(name, 0) for name in FAILED)
    if unscored > attempts * MANY_UNSCORED:
        found.append(
            f"{unscored} of {attempts} attempts have no score: an LM or a tool that is down or too slow, or a metric "
            f"that raises or returns no number ({_first(outcomes, errors, UNSCORED)})."
        )
    if failed > attempts * MANY_FAILED:
        found.append(
            f"In {failed} of {attempts} attempts the program itself failed ({_first(outcomes, errors, FAILED)})."
        )
    return tuple(found)


def _first(outcomes: Mapping[str, int], errors: Mapping[str, str], names: Sequence[str]) -> str:
    """Counts of these outcomes, each with the first error that was met."""
    found = [name for name in names if outcomes.get(name)]
    return "; ".join(f"{outcomes[n]} {n}" + (f", the first: {errors[n]}" if n in errors else "") for n in found)


def _reaches(score: float, threshold: float) -> bool:
    return score >= threshold or math.isclose(score, threshold, rel_tol=1e-9, abs_tol=1e-12)


def _average(values: Iterable[float | None]) -> float | None:
    """The mean; None if there is nothing, or anything is unknown."""
    found = list(values)
    known = [value for value in found if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(found) else None


def _told(mean: Mean) -> str:
    text = "unscored" if mean.value is None else f"{mean.value:.3f}"
    if mean.interval is None:
        return text
    return f"{text} ({100 * mean.interval.level:.0f}% interval {mean.interval.low:.3f} to {mean.interval.high:.3f})"
