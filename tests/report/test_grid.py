"""What each example scored over the run, and what counts as fixed or broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trgrpo_dspy.events import RunStarted
from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.program.rollout import Rollout
from trgrpo_dspy.report import RunHistory
from trgrpo_dspy.report.grid import LEVELS, grids
from trgrpo_dspy.report.records import Measured


def measured(*columns: list[float | None]) -> RunHistory:
    """One validation example, measured with one library after another; a column holds its attempts' scores."""
    found = {
        step: Measured(step, tuple(Rollout(0, a, Outcome.COMPLETED, score) for a, score in enumerate(scores)), None)
        for step, scores in enumerate(columns)
    }
    return RunHistory(Path(), RunStarted(run="compile", options={}, valset=(("task", "label"),)), measured=found)


@pytest.mark.parametrize(
    ("columns", "state", "changes"),
    [
        ([[0.0], [1.0]], "fixed", ["", "fixed"]),
        ([[1.0], [0.5], [1.0]], "right", ["", "broken", ""]),
        ([[1.0, 1.0], [1.0, 0.0]], "broken", ["", "broken"]),
        ([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]], "worse", ["", "fixed", ""]),
        ([[0.2], [0.4]], "better", ["", ""]),
        ([[0.2], [0.2]], "wrong", ["", ""]),
        ([[None], [None, None]], "unscored", ["", ""]),
        ([[None], [0.0], [1.0, None]], "fixed", ["", "", "fixed"]),
        ([[40.0], [80.0]], "fixed", ["", "fixed"]),  # the highest score that was reached is right
        ([[-3.0], [-1.0]], "better", ["", ""]),
    ],
)
def test_an_example_is_held_against_its_first_score(columns: Any, state: str, changes: list[str]) -> None:
    (grid,) = grids(measured(*columns))
    (row,) = grid.rows
    assert (row.state, [cell.change for cell in row.cells if cell]) == (state, changes)
    assert grid.count(state) == 1 and grid.columns[:2] == ("Input", "Step 1")


def test_levels_span_the_scores_of_the_run() -> None:
    (grid,) = grids(measured([0.0], [50.0], [100.0], [None]))
    assert [cell.level for cell in grid.rows[0].cells if cell] == [0, LEVELS // 2, LEVELS, None]


def test_an_epoch_is_a_column_whatever_the_batch(history: RunHistory) -> None:
    training = grids(history)[1]
    assert training.columns == ("Epoch 1", "Epoch 2") and [row.example for row in training.rows] == list(range(7))
    for step in history.steps:
        for group in step.groups:
            cell = training.rows[group.example].cells[step.epoch - 1]
            assert cell is not None and (cell.step, cell.score) == (step.step, group.score)
