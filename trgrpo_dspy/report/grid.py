"""Every example over the run: what it scored with each library, and where it was fixed or broken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .history import RunHistory
from .records import mean_score

__all__ = ["Cell", "Grid", "Row", "grids"]

LEVELS = 10
"""Steps of the colour scale."""
_SPELLED = 8
"""Columns at most whose headlines have a word beside their number."""


@dataclass(frozen=True)
class Cell:
    """An example's attempts at one time."""

    link: str
    """The group's address in the page: 'g-2-41' or 'v-1-5'."""
    step: int
    """The step; for validation the step that made the library."""
    score: float | None
    """Mean score; None is unscored."""
    attempts: int
    """Attempts made."""
    level: int | None
    """The score on the colour scale, 0 to `LEVELS`; None is unscored."""
    change: str
    """Against the example's first cell: 'fixed' (all attempts are right now), 'broken' (they were), or ''."""


@dataclass(frozen=True)
class Row:
    """One example."""

    example: int
    """Its index."""
    task: str
    """Its inputs."""
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
    """One an example."""

    def count(self, state: str) -> int:
        """Rows that ended in this state."""
        return sum(row.state == state for row in self.rows)


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float

    def level(self, score: float | None) -> int | None:
        if score is None:
            return None
        return max(0, min(LEVELS, round(LEVELS * (score - self.low) / (self.high - self.low))))

    def is_right(self, score: float | None) -> bool:
        return score is not None and score >= self.high - 1e-9 * max(1.0, abs(self.high))


def grids(history: RunHistory) -> tuple[Grid, ...]:
    """The grids that have a row: validation by measured library, training by epoch."""
    scale = _scale(history)
    return tuple(grid for grid in (_validation(history, scale), _training(history, scale)) if grid.rows)


def _scale(history: RunHistory) -> _Scale:
    """From the lowest to the highest score of the run; metrics are taken to go from 0 to 1 at least."""
    scores = [r.score for r in history.attempts if r.score is not None]
    return _Scale(min([0.0, *scores]), max(scores) if scores and max(scores) > 1 else 1.0)


def _validation(history: RunHistory, scale: _Scale) -> Grid:
    steps = sorted(history.measured)
    learning = history.started.run == "compile"
    cells: dict[int, dict[int, Cell]] = {}
    for column, step in enumerate(steps):
        measured = history.measured[step]
        for example, score in measured.scores.items():
            attempts = sum(r.example == example for r in measured.attempts)
            cell = Cell(f"v-{step}-{example}", step, score, attempts, scale.level(score), "")
            cells.setdefault(example, {})[column] = cell
    before = "Step " if len(steps) <= _SPELLED else ""
    titles = tuple(
        ("Input" if step == 0 else f"{before}{step}") if learning else f"Program {step + 1}" for step in steps
    )
    tasks = [task for task, _ in history.started.valset]
    return Grid("validation" if learning else "evaluation", titles, _rows(cells, len(steps), tasks, scale))


def _training(history: RunHistory, scale: _Scale) -> Grid:
    """An epoch has each example once, so a column is an epoch, whatever the size of a batch."""
    epochs = sorted({step.epoch for step in history.steps})
    cells: dict[int, dict[int, Cell]] = {}
    for step in history.steps:
        for group in step.groups:
            if group.attempts:
                score = mean_score(group.attempts)
                link, level = f"g-{step.step}-{group.example}", scale.level(score)
                cell = Cell(link, step.step, score, len(group.attempts), level, "")
                cells.setdefault(group.example, {})[epochs.index(step.epoch)] = cell
    tasks = [task for task, _ in history.started.trainset]
    before = "Epoch " if len(epochs) <= _SPELLED else ""
    return Grid("training", tuple(f"{before}{epoch}" for epoch in epochs), _rows(cells, len(epochs), tasks, scale))


def _rows(
    cells: Mapping[int, Mapping[int, Cell]], columns: int, tasks: Sequence[str], scale: _Scale
) -> tuple[Row, ...]:
    rows = []
    for example, found in sorted(cells.items()):
        task = tasks[example] if example < len(tasks) else ""
        marked = _marked([found.get(i) for i in range(columns)], scale)
        rows.append(Row(example, task, marked, _state(marked, scale)))
    return tuple(rows)


def _marked(cells: Sequence[Cell | None], scale: _Scale) -> tuple[Cell | None, ...]:
    """The cells, with what was fixed or broken since the first scored one."""
    first = next((cell for cell in cells if cell is not None and cell.score is not None), None)
    marked: list[Cell | None] = []
    for cell in cells:
        change = ""
        if cell is not None and first is not None and cell.score is not None:
            was, now = scale.is_right(first.score), scale.is_right(cell.score)
            change = "fixed" if now and not was else "broken" if was and not now else ""
        marked.append(cell and Cell(cell.link, cell.step, cell.score, cell.attempts, cell.level, change))
    return tuple(marked)


def _state(cells: Sequence[Cell | None], scale: _Scale) -> str:
    scores = [cell.score for cell in cells if cell is not None and cell.score is not None]
    if not scores:
        return "unscored"
    first, last = scores[0], scores[-1]
    if scale.is_right(first) != scale.is_right(last):
        return "fixed" if scale.is_right(last) else "broken"
    if abs(last - first) > 1e-9:
        return "better" if last > first else "worse"
    return "right" if scale.is_right(last) else "wrong"
