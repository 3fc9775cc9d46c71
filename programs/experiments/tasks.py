"""The tasks of the paper: programs, metrics, the problems to learn from and to measure on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dspy

from programs import math_data, math_reasoning
from programs.sandbox import AVAILABLE

from .plan import Plan

__all__ = ["DataSet", "Task", "load_task"]


@dataclass(frozen=True)
class DataSet:
    """Problems to measure on."""

    name: str
    """The paper's name of the data set."""
    title: str
    """What stands above its table: the name, or what is used in its place."""
    examples: list[dspy.Example]

    @property
    def slug(self) -> str:
        """The name as a file name."""
        return "".join(c for c in self.name.lower() if c.isalnum())


@dataclass(frozen=True)
class Task:
    """What an experiment is made of."""

    program: dspy.Module
    """The input program."""
    metric: Callable[..., Any]
    trainset: list[dspy.Example]
    sets: tuple[DataSet, ...]
    measures: tuple[str, ...]
    """The paper's measures: the mean over attempts first, then, where it has one, that of any attempt."""
    differs: str
    """What the paper's tools had that these have not."""


_PYTHON = (
    "The paper's Python tool ran CPython with sympy and numpy. This one is a sandbox over pydantic-monty, a subset of "
    f"Python. {AVAILABLE}"
)
_NO_TOOL = "The program has no tool, as in the paper's direct setting."


def load_task(plan: Plan) -> Task:
    """Load the data and make the program.

    Raises:
        FileNotFoundError: The hub can't be reached and there is no local copy.
        ValueError: There are fewer problems than asked for.
    """
    return _math(plan)


def _math(plan: Plan) -> Task:
    if plan.offline:
        train = math_data.sample("train")[: plan.train]
        sets = (
            _stand_in("AIME24", math_data.sample("test")),
            _stand_in("AIME25", math_data.sample("val")),
        )
    else:
        train = math_data.dapo(plan.train, seed=plan.seed)
        sets = tuple(DataSet(f"AIME{year % 100}", f"AIME {year}", math_data.aime(year)) for year in (2024, 2025))
    _check_size(plan, train)
    program, differs = math_reasoning.program(plan.mode), _PYTHON if plan.mode == "agent" else _NO_TOOL
    return Task(program, math_reasoning.metric, train, sets, ("Mean@32",), differs)


def _stand_in(name: str, examples: list[dspy.Example]) -> DataSet:
    return DataSet(name, f"{len(examples)} shipped sample problems, in place of {name}", examples)


def _check_size(plan: Plan, train: list[dspy.Example]) -> None:
    if len(train) < plan.train:
        where = "the shipped sample has" if plan.offline else "the data set has"
        raise ValueError(f"--train {plan.train}: {where} {len(train)} problems to learn from")
