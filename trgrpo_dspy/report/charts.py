"""The learning curve of a run, and where its lines, bands, marks and ticks lie in an SVG of a fixed size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from trgrpo_dspy.evaluation.statistics.intervals import mean_with_interval
from trgrpo_dspy.program.rollout import Rollout

from .records import by_example
from .text import number, score

if TYPE_CHECKING:
    from .history import RunHistory

__all__ = ["Curve", "GainBar", "Plot", "Point", "curves", "gain_bar", "nice_ticks", "plot"]


class Point(NamedTuple):
    """A mean over `n` examples with its 95% interval, where the data say something of their spread."""

    step: int
    """The step that made the library it was found with; 0 is the input."""
    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Curve:
    """One chart."""

    name: str
    """'score', 'tool calls' or 'tokens'."""
    title: str
    unit: str
    """What the vertical axis shows."""
    series: dict[str, tuple[Point, ...]]
    """Points in order of steps, under 'validation' and 'training'."""

    @property
    def steps(self) -> tuple[int, ...]:
        """All steps that have a point."""
        return tuple(sorted({point.step for points in self.series.values() for point in points}))

    def at(self, name: str, step: int) -> Point | None:
        """The point of a series at a step; None if there is none."""
        return next((point for point in self.series.get(name, ()) if point.step == step), None)

    def write(self, value: float | None) -> str:
        """A value of this chart as text."""
        return score(value) if self.name == "score" else number(value)


def curves(history: RunHistory) -> tuple[Curve, ...]:
    """Score, tool calls and tokens; a chart without any point is left out, and tool calls where there were none."""
    found = [
        Curve("score", "Score", "mean score", _score(history)),
        Curve("tokens", "Tokens", "tokens an attempt", _usage(history, _tokens)),
    ]
    if any(r.tool_calls for r in history.attempts):
        found.insert(1, Curve("tool calls", "Tool calls", "calls an attempt", _usage(history, lambda r: r.tool_calls)))
    return tuple(curve for curve in found if curve.series)


def _score(history: RunHistory) -> dict[str, tuple[Point, ...]]:
    validation = []
    for step, measured in sorted(history.measured.items()):
        result = measured.result
        if result is not None and result.mean is not None:
            low, high = result.interval or (None, None)
            validation.append(Point(step, result.mean, low, high, result.scored))
        elif result is None and history.started.run != "compile":
            validation += _point(step, list(measured.scores.values()))
    return _series(validation, [p for s in history.steps for p in _point(s.step - 1, [g.score for g in s.groups])])


def _usage(history: RunHistory, measure: Callable[[Rollout], int]) -> dict[str, tuple[Point, ...]]:
    """What a scored attempt took, on average over the examples."""

    def point(step: int, attempts: Iterable[Rollout]) -> list[Point]:
        scored = by_example(r for r in attempts if r.score is not None)
        return _point(step, [sum(map(measure, found)) / len(found) for found in scored.values()])

    return _series(
        [p for step, measured in sorted(history.measured.items()) for p in point(step, measured.attempts)],
        [p for s in history.steps for p in point(s.step - 1, (r for group in s.groups for r in group.attempts))],
    )


def _tokens(rollout: Rollout) -> int:
    return rollout.prompt_tokens + rollout.completion_tokens


def _series(validation: Sequence[Point], training: Sequence[Point]) -> dict[str, tuple[Point, ...]]:
    found = {"validation": tuple(validation), "training": tuple(training)}
    return {name: points for name, points in found.items() if points}


def _point(step: int, values: Sequence[float | None]) -> list[Point]:
    """The mean of a value for each example, if there is one."""
    mean = mean_with_interval(values) if values else None
    if mean is None or mean.value is None:
        return []
    low, high = (mean.interval.low, mean.interval.high) if mean.interval is not None else (None, None)
    return [Point(step, mean.value, low, high, mean.n)]


# -- where they lie ----------------------------------------------------------------------------------------------------


class Tick(NamedTuple):
    """A tick of an axis: its coordinate and its text."""

    at: float
    label: str


class Mark(NamedTuple):
    """A point with the ends of its interval; its label is 'step 2 0.742 (95% interval 0.655 to 0.813), 60 examples'."""

    x: float
    y: float
    low: float | None
    high: float | None
    label: str


class Line(NamedTuple):
    """A series: a path through all points, and a band around their intervals, empty where one has none."""

    name: str
    path: str
    band: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Plot:
    """A chart."""

    curve: Curve
    lines: tuple[Line, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    returned: float | None
    """Where the returned library stands across; None if it has no point."""
    width, height, left, right, top, bottom = 560, 260, 52, 544, 14, 230

    @property
    def description(self) -> str:
        """The chart in words, for who does not see it."""
        return " ".join(f"{line.name.capitalize()}: {'; '.join(m.label for m in line.marks)}." for line in self.lines)


def plot(curve: Curve, returned: int | None) -> Plot:
    """Lay out a chart; the vertical axis begins at 0 unless a value is below."""
    points = [point for points in curve.series.values() for point in points]
    values = [v for p in points for v in (p.value, p.low, p.high) if v is not None]
    ticks, steps = nice_ticks(min([0.0, *values]), max(values)), curve.steps
    x = _axis(steps[0], max(steps[-1], steps[0] + 1), Plot.left + 14, Plot.right - 14)
    y = _axis(ticks[0], ticks[-1], Plot.bottom, Plot.top)
    shown = steps[:: math.ceil(len(steps) / 12)]
    return Plot(
        curve,
        tuple(_line(curve, name, points, x, y) for name, points in curve.series.items()),
        tuple(Tick(x(step), "input" if step == 0 else str(step)) for step in shown),
        tuple(Tick(y(tick), f"{tick:g}" if abs(tick) < 10000 else number(tick)) for tick in ticks),
        x(returned) if returned in steps else None,
    )


def _axis(low: float, high: float, begin: float, end: float) -> Callable[[float], float]:
    """Gives the coordinate of a value."""
    return lambda value: round(begin + (end - begin) * (value - low) / (high - low), 1)


def _line(
    curve: Curve, name: str, points: Sequence[Point], x: Callable[[float], float], y: Callable[[float], float]
) -> Line:
    marks = []
    for p in points:
        where, low, high = ("input" if p.step == 0 else f"step {p.step}"), None, None
        label = f"{where} {curve.write(p.value)}"
        if p.low is not None and p.high is not None:
            low, high = y(p.low), y(p.high)
            label += f" (95% interval {curve.write(p.low)} to {curve.write(p.high)})"
        marks.append(Mark(x(p.step), y(p.value), low, high, f"{label}, {p.n} examples"))
    path = "M" + " L".join(f"{m.x} {m.y}" for m in marks)
    band = ""
    if len(marks) > 1 and all(m.low is not None for m in marks):
        around = [*(f"{m.x} {m.high}" for m in marks), *(f"{m.x} {m.low}" for m in reversed(marks))]
        band = f"M{' L'.join(around)} Z"
    return Line(name, path, band, tuple(marks))


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from at most `low` to at least `high`."""
    span = high - low or max(1.0, abs(high))
    rough = span / wanted
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    begin, end = math.floor(low / step + 1e-9), math.ceil((low + span) / step - 1e-9)
    return [round(i * step, 12) for i in range(begin, end + 1)]


@dataclass(frozen=True)
class GainBar:
    """The gain with its interval on a line that shows zero."""

    zero: float
    low: float
    gain: float
    high: float
    ticks: tuple[Tick, ...]
    width, height = 480, 64


def gain_bar(gain: float | None, interval: tuple[float, float] | None) -> GainBar | None:
    """Lay out the gain; None where there is none or no interval."""
    if gain is None or interval is None:
        return None
    ticks = nice_ticks(min(0.0, *interval), max(0.0, *interval), 6)
    x = _axis(ticks[0], ticks[-1], 24, 452)
    shown = tuple(Tick(x(t), f"{t:+g}".replace("-", "\N{MINUS SIGN}") if t else "0") for t in ticks)
    return GainBar(x(0.0), x(interval[0]), x(gain), x(interval[1]), shown)
