"""The optimizer's arguments as the parts of a run read them."""

from __future__ import annotations

from typing import Any, Protocol

import dspy

from trgrpo_dspy.engine.executors.threads import Executor
from trgrpo_dspy.engine.journal.fingerprint import plain
from trgrpo_dspy.meter import Budget
from trgrpo_dspy.program.scoring import Metric

from .reflector import Reflector

__all__ = ["LEARNING", "Settings", "settings_record"]


class Settings(Protocol):
    """The optimizer's arguments; `TrainingFreeGRPO` documents them."""

    metric: Metric | None
    group_size: int
    batch_size: int | None
    num_epochs: int
    rollout_temperature: float
    reflection_lm: Any
    reflector: Reflector | None
    experiences_per_group: int
    max_experiences: int
    predictors: list[str] | None
    compare_fields: list[str] | None
    failure_score: float
    val_repeats: int
    evaluate_every: int
    summarize: str
    num_threads: int | None
    seed: int
    budget: Budget | None
    log_dir: str | None
    rollout_timeout: float | None
    requests_per_minute: float | None
    executor: Executor | None


LEARNING = (
    "group_size", "batch_size", "num_epochs", "rollout_temperature", "experiences_per_group", "max_experiences",
    "predictors", "compare_fields", "failure_score", "val_repeats", "evaluate_every", "summarize",
    "seed",
)  # fmt: skip
"""Settings that decide what is learned: part of a run's fingerprint."""


def settings_record(settings: Settings) -> dict[str, Any]:
    """The arguments as plain data; objects by name only, so that no key or address gets in."""

    def name(value: Any) -> Any:
        if isinstance(value, dspy.BaseLM):
            return str(value.model)
        if isinstance(value, (dspy.Module, Executor)) or callable(value):
            return str(getattr(value, "__qualname__", type(value).__qualname__))
        return plain(vars(value) if isinstance(value, Budget) else value)

    return {key: name(value) for key, value in vars(settings).items()}
