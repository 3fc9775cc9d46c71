"""Every example over the run: what it scored with each library, and where it was fixed or broken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from trgrpo_dspy.program.rollout import Rollout

from .records import by_example, mean_score

if TYPE_CHECKING:
    from .history import RunHistory

__all__ = ["LEVELS", "Cell", "Grid", "Row", "grids"]

LEVELS = 10
"""Steps of the colour scale."""
_SPELLED = 8
"""Columns at most whose headlines have a word beside their number."""


class Cell(NamedTuple):
    """An example's attempts at one time."""

    link: str
    """The group's address in the page: 'g-2-41' or 'v-1-5'."""
    step: int
    """The step; for validation the step that made the library."""
    score: float | None
    """Mean score; None is unscored."""
    attempts: int
    level: int | None
    """The score on the colour scale, 0 to `LEVELS`; None is unscored."""
    change: str = ""
    """Against the example's first cell: 'fixed' (all attempts are right now), 'broken' (they were), or ''."""


@dataclass(frozen=True)
class Row:
    """One example."""

    example: int
    task: str
    cells: tuple[Cell | None, ...]
    """One a column; None where the example was not run."""
    state: str
    """How it ended against its first cell: 'fixed', 'broken', 'better', 'worse', 'right', 'wrong' or 'unscored'."""


@dataclass(frozen=True)
class Grid:
    """All examples of one set."""

    name: str
    """'validation', 'training' or 'evaluation'."""
    columns: tuple[str, ...]
    """Headlines of the columns."""
    rows: tuple[Row, ...]

    def count(self, state: str) -> int:
        """Rows that ended in this state."""
        return sum(row.state == state for row in self.rows)


@dataclass(frozen=True)
class _Scale:
    """From the lowest to the highest score of the run; metrics are taken to go from 0 to 1 at least."""

    low: float
    high: float

    def level(self, score: float | None) -> int | None:
        share = None if score is None else (score - self.low) / (self.high - self.low)
        return None if share is None else max(0, min(LEVELS, round(LEVELS * share)))

    def is_right(self, score: float) -> bool:
        return score >= self.high - 1e-9 * max(1.0, abs(self.high))

    def change(self, before: float, after: float) -> str:
        if self.is_right(before) == self.is_right(after):
            return ""
        return "fixed" if self.is_right(after) else "broken"


class _Column(NamedTuple):
    """Attempts that stand in one column, by example."""

    number: int
    step: int
    attempts: Mapping[int, Sequence[Rollout]]


def grids(history: RunHistory) -> tuple[Grid, ...]:
    """The grids that have a row: validation by measured library, training by epoch.

    An epoch has each example once, so an epoch is a column, whatever the size of a batch.
    """
    scores = [r.score for r in history.attempts if r.score is not None]
    scale = _Scale(min([0.0, *scores]), max(scores) if scores and max(scores) > 1 else 1.0)
    started, measured = history.started, sorted(history.measured.items())
    name, titles = "evaluation", [f"Program {step + 1}" for step, _ in measured]
    if started.run == "compile":
        name, titles = "validation", ["Input" if step == 0 else f"Step {step}" for step, _ in measured]
    epochs = sorted({step.epoch for step in history.steps})
    made = [{g.example: g.attempts for g in step.groups if g.attempts} for step in history.steps]
    validation = [_Column(i, step, by_example(m.attempts)) for i, (step, m) in enumerate(measured)]
    training = [_Column(epochs.index(s.epoch), s.step, a) for s, a in zip(history.steps, made, strict=True)]
    found = (
        Grid(name, _spelled(titles), _rows("v", validation, started.valset, scale)),
        Grid(
            "training", _spelled([f"Epoch {epoch}" for epoch in epochs]), _rows("g", training, started.trainset, scale)
        ),
    )
    return tuple(grid for grid in found if grid.rows)


def _spelled(titles: Sequence[str]) -> tuple[str, ...]:
    """Of many columns the numbers alone."""
    return tuple(titles if len(titles) <= _SPELLED else (title.split()[-1] for title in titles))


def _rows(kind: str, found: Iterable[_Column], tasks: Sequence[tuple[str, str]], scale: _Scale) -> tuple[Row, ...]:
    columns, cells = 0, dict[int, dict[int, Cell]]()
    for column in found:
        columns = max(columns, column.number + 1)
        for example, attempts in column.attempts.items():
            score = mean_score(attempts)
            cell = Cell(f"{kind}-{column.step}-{example}", column.step, score, len(attempts), scale.level(score))
            cells.setdefault(example, {})[column.number] = cell
    return tuple(
        _row(example, tasks[example][0] if example < len(tasks) else "", [row.get(i) for i in range(columns)], scale)
        for example, row in sorted(cells.items())
    )


def _row(example: int, task: str, cells: Sequence[Cell | None], scale: _Scale) -> Row:
    """The cells, with what was fixed or broken since the first scored one."""
    scores = [cell.score for cell in cells if cell is not None and cell.score is not None]
    if not scores:
        return Row(example, task, tuple(cells), "unscored")
    first, last = scores[0], scores[-1]
    marked = [c if c is None or c.score is None else c._replace(change=scale.change(first, c.score)) for c in cells]
    if not (state := scale.change(first, last)):
        state = "right" if scale.is_right(last) else "wrong"
        if abs(last - first) > 1e-9:
            state = "better" if last > first else "worse"
    return Row(example, task, tuple(marked), state)
