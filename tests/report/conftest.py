"""A run with steps, failures and refusals that the report's tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.lm15 import ServerError
from support.scripted import Triage, examples, learner, scripted_lm, told

from trgrpo_dspy import DetailedResults, ExperienceLibrary, TrainingFreeGRPO
from trgrpo_dspy.report import RunHistory, read_run


def script(call: Any) -> Any:
    return ServerError("503 from upstream") if "printer" in call.user and call.kind == "program" else learner(call)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DetailedResults]:
    path = tmp_path_factory.mktemp("run")
    with dspy.context(lm=scripted_lm(script)):
        optimizer = TrainingFreeGRPO(metric=told, group_size=3, num_epochs=2, batch_size=4, log_dir=path)
        start = ExperienceLibrary.of("Read the whole ticket.")
        compiled = optimizer.compile(
            dspy.Predict(Triage), trainset=examples(7), valset=examples(5, start=8), library=start
        )
    return path, compiled.detailed_results


@pytest.fixture(scope="session")
def history(run: tuple[Path, DetailedResults]) -> RunHistory:
    return read_run(run[0])
