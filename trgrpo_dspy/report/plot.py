"""The geometry of the report's charts: where lines, bands, marks and ticks lie in an SVG of a fixed size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .curve import Curve, Point, Series
from .text import number, score

__all__ = ["GainBar", "Line", "Mark", "Plot", "Tick", "gain_bar", "plot"]

WIDTH, HEIGHT = 560, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 14, 30


@dataclass(frozen=True)
class Tick:
    """A tick of an axis."""

    at: float
    """Its coordinate."""
    label: str
    """Its text."""


@dataclass(frozen=True)
class Mark:
    """A point of a line."""

    x: float
    y: float
    low: float | None
    """Coordinate of the interval's lower end."""
    high: float | None
    """Coordinate of its upper end."""
    label: str
    """What it says: 'Step 2: 0.742 (95% interval 0.655 to 0.813), 60 examples'."""


@dataclass(frozen=True)
class Line:
    """A series."""

    name: str
    path: str
    """Through all points."""
    band: str
    """Around the intervals; empty where one has none."""
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
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM

    @property
    def description(self) -> str:
        """The chart in words, for who does not see it."""
        return " ".join(f"{line.name.capitalize()}: {'; '.join(m.label for m in line.marks)}." for line in self.lines)


def plot(curve: Curve, returned: int | None) -> Plot:
    """Lay out a chart; the vertical axis begins at 0 unless a value is below."""
    values = [v for s in curve.series for p in s.points for v in (p.value, p.low, p.high) if v is not None]
    ticks = nice_ticks(min([0.0, *values]), max(values))
    low, high = ticks[0], ticks[-1]
    steps = curve.steps
    first, last = steps[0], max(steps[-1], steps[0] + 1)

    def x(step: float) -> float:
        return round(_LEFT + 14 + (WIDTH - _LEFT - _RIGHT - 28) * (step - first) / (last - first), 1)

    def y(value: float) -> float:
        return round(HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * (value - low) / (high - low), 1)

    write = score if curve.name == "score" else number
    return Plot(
        curve,
        tuple(_line(series, x, y, write) for series in curve.series),
        tuple(Tick(x(step), "input" if step == 0 else str(step)) for step in _thinned(steps)),
        tuple(Tick(y(tick), f"{tick:g}" if abs(tick) < 10000 else number(tick)) for tick in ticks),
        x(returned) if returned in steps else None,
    )


def _line(
    series: Series, x: Callable[[float], float], y: Callable[[float], float], write: Callable[[float | None], str]
) -> Line:
    marks = tuple(
        Mark(
            x(p.step),
            y(p.value),
            None if p.low is None else y(p.low),
            None if p.high is None else y(p.high),
            _label(p, write),
        )
        for p in series.points
    )
    path = "M" + " L".join(f"{m.x} {m.y}" for m in marks)
    band = ""
    if len(marks) > 1 and all(m.low is not None and m.high is not None for m in marks):
        band = "M" + " L".join([*(f"{m.x} {m.high}" for m in marks), *(f"{m.x} {m.low}" for m in reversed(marks))])
    return Line(series.name, path, band and f"{band} Z", marks)


def _label(point: Point, write: Callable[[float | None], str]) -> str:
    where = "input" if point.step == 0 else f"step {point.step}"
    interval = (
        f" (95% interval {write(point.low)} to {write(point.high)})"
        if point.low is not None and point.high is not None
        else ""
    )
    return f"{where} {write(point.value)}{interval}, {point.n} examples"


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from at most `low` to at least `high`."""
    span = high - low or max(1.0, abs(high))
    rough = span / wanted
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    begin, end = math.floor(low / step + 1e-9), math.ceil((low + span) / step - 1e-9)
    return [round(i * step, 12) for i in range(begin, end + 1)]


def _thinned(steps: Sequence[int], most: int = 12) -> Iterable[int]:
    """At most so many of the steps, evenly spread."""
    every = math.ceil(len(steps) / most)
    return steps[::every]


@dataclass(frozen=True)
class GainBar:
    """The gain with its interval on a line that shows zero."""

    zero: float
    low: float
    gain: float
    high: float
    ticks: tuple[Tick, ...]
    width: int = 480
    height: int = 64


def gain_bar(gain: float | None, interval: tuple[float, float] | None) -> GainBar | None:
    """Lay out the gain; None where there is none or no interval."""
    if gain is None or interval is None:
        return None
    ticks = nice_ticks(min(0.0, *interval), max(0.0, *interval), 6)
    low, high = ticks[0], ticks[-1]

    def x(value: float) -> float:
        return round(24 + 428 * (value - low) / (high - low), 1)

    shown = tuple(Tick(x(t), f"{t:+g}".replace("-", "\N{MINUS SIGN}") if t else "0") for t in ticks)
    return GainBar(x(0.0), x(interval[0]), x(gain), x(interval[1]), shown)
