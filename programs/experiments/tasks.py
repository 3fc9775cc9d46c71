"""The tasks of the paper: programs, metrics, the problems to learn from and to measure on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dspy

from programs import math_data, math_reasoning, reasoning_gym, web_data, web_search, web_site
from programs.sandbox import AVAILABLE

from .plan import Plan

__all__ = ["DataSet", "Task", "open_task"]


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
_WEB = (
    "Search engine: {search}. A visited page gives the agent the passages found for its goal, neither the whole page "
    "nor a language model's summary. The judge, its prompt and the draw of questions are this project's own"
)
_SUBSET = "WebWalkerQA (51)"
_GYM = (
    "Not of the paper: puzzles of reasoning-gym, scored by the family's verifier with its partial credit; Pass@k "
    "counts full scores. No puzzle of a test was learned from; those of the second test are of another level as well."
)
_NO_TOOL = "The program has no tool, as in the paper's direct setting."


@contextmanager
def open_task(plan: Plan, judge: dspy.BaseLM | None = None) -> Iterator[Task]:
    """Load the data and make the program; what it needs is there while the context lasts.

    Args:
        plan: What is measured.
        judge: LM of the web task's judge; None is the configured one.

    Raises:
        FatalError: The search engine has no key.
        FileNotFoundError: The hub can't be reached and there is no local copy.
        ImportError: A package of the task's extra is not installed.
        ValueError: There are fewer problems than asked for.
    """
    if plan.task == "math":
        yield _math(plan)
    elif plan.task == "gym":
        yield _gym(plan)
    elif plan.offline:
        with web_site.site() as site:
            asked = _stand_in(_SUBSET, web_site.questions("test"), "questions on a made-up site")
            yield _web(
                plan,
                judge,
                web_search.offline_agent(site, max_iters=plan.max_iters),
                web_site.questions("train"),
                asked,
            )
    else:
        # Made first: without a key or a folder there is no need to load the data.
        program = web_search.agent(plan.search, max_iters=plan.max_iters)
        yield _web(plan, judge, program, web_data.afm(plan.train, plan.seed), _webwalkerqa(plan))


def _math(plan: Plan) -> Task:
    sets: tuple[DataSet, ...]
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
    program = math_reasoning.program(plan.mode, max_iters=plan.max_iters)
    differs = _PYTHON if plan.mode == "agent" else _NO_TOOL
    return Task(program, math_reasoning.metric, train, sets, ("Mean@32",), differs)


def _gym(plan: Plan) -> Task:
    """Puzzles of one family: some to learn from, others of their difficulty, and others of another difficulty."""
    family, size = plan.family or "", plan.size or 1
    seen: set[str] = set()
    found = []
    for part, (wanted, level) in enumerate(
        [(plan.train, plan.difficulty), (size, plan.difficulty), (size, plan.test_difficulty)]
    ):
        puzzles = reasoning_gym.dataset(family, 3 * plan.seed + part, wanted, level, without=seen)
        if len(puzzles) < wanted:
            raise ValueError(
                f"--train and --size: {family} has {len(puzzles)} more puzzles at level {level}, not {wanted}"
            )
        seen.update(puzzle.question for puzzle in puzzles)
        found.append(puzzles)
    train, *tests = found
    titles = ("the difficulty learned from", "out of distribution")
    levels = (plan.difficulty, plan.test_difficulty)
    sets = tuple(DataSet(f"level {level}", f"{family}, level {level}: {title}, {size} puzzles", examples)
                 for level, title, examples in zip(levels, titles, tests, strict=True))  # fmt: skip
    return Task(reasoning_gym.program(), reasoning_gym.metric, train, sets, ("Mean",), _GYM)


def _webwalkerqa(plan: Plan) -> DataSet:
    drawn = web_data.webwalkerqa(plan.size, plan.seed)
    if plan.size is None:
        return DataSet("WebWalkerQA", f"WebWalkerQA, all {len(drawn)} questions", drawn)
    if len(drawn) < plan.size:
        raise ValueError(f"--size {plan.size}: WebWalkerQA has {len(drawn)} questions; 'all' is the whole")
    title = f"WebWalkerQA, {len(drawn)} questions drawn by difficulty and kind"
    return DataSet(f"WebWalkerQA ({plan.size})", title, drawn)


def _web(
    plan: Plan, judge: dspy.BaseLM | None, program: dspy.Module, train: list[dspy.Example], asked: DataSet
) -> Task:
    _check_size(plan, train)
    differs = _WEB.format(search="the made-up site's own" if plan.offline else plan.search)
    return Task(program, web_search.make_metric(judge), train[: plan.train], (asked,), ("pass@1", "pass@3"), differs)


def _stand_in(name: str, examples: list[dspy.Example], what: str = "shipped sample problems") -> DataSet:
    return DataSet(name, f"{len(examples)} {what}, in place of {name}", examples)


def _check_size(plan: Plan, train: list[dspy.Example]) -> None:
    if len(train) < plan.train:
        where = "the shipped sample has" if plan.offline else "the data set has"
        raise ValueError(f"--train {plan.train}: {where} {len(train)} problems to learn from")
