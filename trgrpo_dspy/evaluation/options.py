"""How a program is to be measured: the arguments that `evaluate` and `compare` share, checked once."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

from trgrpo_dspy.engine.executors.threads import Executor, check_executor
from trgrpo_dspy.meter import Budget

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """The arguments that `evaluate` and `compare` share."""

    k: int
    num_threads: int | None
    failure_score: float
    seed: int
    temperature: float | None
    log_dir: str | os.PathLike[str] | None
    budget: Budget | None
    rollout_timeout: float | None
    executor: Executor | None = None

    def __post_init__(self) -> None:
        """Check them."""
        _check_whole(k=self.k, num_threads=1 if self.num_threads is None else self.num_threads)
        _check_number("failure_score", self.failure_score)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"seed={self.seed!r} must be a whole number")
        if self.temperature is not None:
            _check_number("temperature", self.temperature)
            if not 0 < self.temperature <= 2:
                raise ValueError(
                    f"temperature={self.temperature} must be above 0 and at most 2; None keeps the program's own"
                )
        if self.rollout_timeout is not None:
            _check_number("rollout_timeout", self.rollout_timeout)
            if self.rollout_timeout <= 0:
                raise ValueError(f"rollout_timeout={self.rollout_timeout} must be above 0; leave it out for no limit")
        if self.budget is not None and not isinstance(self.budget, Budget):
            raise TypeError(f"budget={self.budget!r} must be a Budget, e.g. Budget(max_cost=5.0)")
        if self.log_dir is not None and not isinstance(self.log_dir, (str, os.PathLike)):
            raise TypeError(f"log_dir={self.log_dir!r} must be a path")
        if self.log_dir == "":
            raise ValueError("log_dir='' names no directory; leave it out to keep nothing")
        check_executor(self.executor)

    @property
    def decisive(self) -> dict[str, Any]:
        """What decides the results: part of the journal's fingerprint."""
        names = ("k", "failure_score", "seed", "temperature")
        return {name: getattr(self, name) for name in names}


def _check_whole(**values: int) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}={value!r} must be a whole number")
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}={value!r} must be a number")
    if not math.isfinite(value):
        raise ValueError(f"{name}={value} must be finite")
