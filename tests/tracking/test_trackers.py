"""The option `report_to`, also where no tracker is installed."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from support.scripted import told

from trgrpo_dspy import TrainingFreeGRPO


@pytest.mark.parametrize("found", [None, type(sys)("mlflow")], ids=["absent", "a directory of that name"])
def test_a_missing_extra_and_an_unknown_tracker_are_one_line_before_any_call(
    monkeypatch: pytest.MonkeyPatch, found: Any
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", found)
    with pytest.raises(ImportError, match=r"report_to='mlflow' needs MLflow: pip install 'trgrpo-dspy\[mlflow\]'"):
        TrainingFreeGRPO(metric=told, report_to="mlflow")
    with pytest.raises(ValueError, match="report_to='wandb' must be 'mlflow'"):
        TrainingFreeGRPO(metric=told, report_to="wandb")  # type: ignore[arg-type]
