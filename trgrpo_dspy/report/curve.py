"""The learning curve of a run: train, validation, tool calls and tokens by library, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from trgrpo_dspy.evaluation.statistics.intervals import mean_with_interval
from trgrpo_dspy.program.rollout import Rollout

from .history import RunHistory
from .records import by_example

__all__ = ["Curve", "Point", "Series", "curves"]


@dataclass(frozen=True)
class Point:
    """A mean with its 95% interval."""

    step: int
    """The library it was found with: the step that made it; 0 is the input."""
    value: float
    """The mean over the examples."""
    low: float | None
    """Lower end of the interval; None where the data say nothing of their spread."""
    high: float | None
    """Upper end of the interval."""
    n: int
    """Examples in the mean."""


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    name: str
    """'validation' or 'training'."""
    points: tuple[Point, ...]
    """In order of steps."""


@dataclass(frozen=True)
class Curve:
    """One chart."""

    name: str
    """'score', 'tool calls' or 'tokens'."""
    title: str
    """Its headline."""
    unit: str
    """What the vertical axis shows."""
    series: tuple[Series, ...]
    """Its lines."""

    @property
    def steps(self) -> tuple[int, ...]:
        """All steps that have a point."""
        return tuple(sorted({point.step for series in self.series for point in series.points}))

    def at(self, name: str, step: int) -> Point | None:
        """The point of a series at a step; None if there is none."""
        points = (point for series in self.series if series.name == name for point in series.points)
        return next((point for point in points if point.step == step), None)


def curves(history: RunHistory) -> tuple[Curve, ...]:
    """Score, tool calls and tokens; a chart without any point is left out, and tool calls where there were none."""
    found = (
        Curve("score", "Score", "mean score", _score(history)),
        Curve("tool calls", "Tool calls", "calls an attempt", _usage(history, lambda r: float(r.tool_calls))),
        Curve("tokens", "Tokens", "tokens an attempt", _usage(history, _tokens)),
    )
    used = any(r.tool_calls for r in history.attempts)
    return tuple(c for c in found if any(s.points for s in c.series) and (used or c.name != "tool calls"))


def _score(history: RunHistory) -> tuple[Series, ...]:
    validation = []
    for step, measured in sorted(history.measured.items()):
        result = measured.result
        if result is not None and result.mean is not None:
            low, high = result.interval or (None, None)
            validation.append(Point(step, result.mean, low, high, result.scored))
        elif result is None and history.started.run != "compile":
            validation += _point(step, list(measured.scores.values()))
    training = [p for s in history.steps for p in _point(s.step - 1, [group.score for group in s.groups])]
    return _series(validation, training)


def _usage(history: RunHistory, measure: Callable[[Rollout], float]) -> tuple[Series, ...]:
    """What a scored attempt took, on average over the examples."""

    def means(attempts: Iterable[Rollout]) -> list[float | None]:
        scored = by_example(r for r in attempts if r.score is not None)
        return [sum(map(measure, found)) / len(found) for found in scored.values()]

    validation = [p for step, m in sorted(history.measured.items()) for p in _point(step, means(m.attempts))]
    training = [
        p for s in history.steps for p in _point(s.step - 1, means(r for group in s.groups for r in group.attempts))
    ]
    return _series(validation, training)


def _series(validation: Sequence[Point], training: Sequence[Point]) -> tuple[Series, ...]:
    found = (Series("validation", tuple(validation)), Series("training", tuple(training)))
    return tuple(series for series in found if series.points)


def _point(step: int, values: Sequence[float | None]) -> list[Point]:
    """The mean of a value for each example, if there is one."""
    mean = mean_with_interval(values) if values else None
    if mean is None or mean.value is None:
        return []
    low, high = (mean.interval.low, mean.interval.high) if mean.interval is not None else (None, None)
    return [Point(step, mean.value, low, high, mean.n)]


def _tokens(rollout: Rollout) -> float:
    return float(rollout.prompt_tokens + rollout.completion_tokens)
