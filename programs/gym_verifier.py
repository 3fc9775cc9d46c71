"""Tasks and verdicts of `reasoning-gym`; runs in the worker processes of `reasoning_gym` alone.

Several verifiers call `eval` or sympy's `parse_expr`, which is `eval` too, on the answer, which a model wrote. Here
`eval` takes literals only, and `parse_expr` takes arithmetic, names of one letter and elementary functions.
"""

from __future__ import annotations

import ast
import builtins
import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Here and not where they are used: a worker imports this module before the clock of a question starts.
try:
    from reasoning_gym.coaching.base_curriculum import DefaultCurriculumContext, RangeAttributeMode
    from reasoning_gym.factory import CURRICULA, DATASETS, create_curriculum, create_dataset
    from sympy.parsing import sympy_parser
except ModuleNotFoundError:
    DATASETS = None

__all__ = ["answer"]

_FUNCTIONS = re.compile(
    r"E|I|pi|exp|log|ln|sqrt|cbrt|root|a?(sin|cos|tan|cot|sec|csc)h?|atan2|[Aa]bs|sign|floor|ceiling|factorial|erfi?|"
    r"gamma|[SCE]i|li|Rational|Integer|Float"
)
_NOT_ARITHMETIC = re.compile(r"[^\w\s+\-*/^().,!]|\.\s*[A-Za-z_]|\)\s*\.|__")
_Generator = tuple[str, int, int, "int | None"]
"""Family, seed, size, difficulty."""


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Make tasks (`{"make": generator}`), score an answer (`{"score": generator, "index", "answer"}`), name families.

    What can't be made is `{"problem": why}`.
    """
    if DATASETS is None:
        return {"missing": "reasoning-gym"}
    try:
        if "make" in question:
            return {"tasks": _tasks(*question["make"])}
        if "score" in question:
            return _score(tuple(question["score"]), question["index"], question["answer"])
    except _CantMake as error:
        return {"problem": str(error)}
    return {"families": sorted(DATASETS)}


class _CantMake(Exception):
    """There are no such tasks."""


def _tasks(family: str, *settings: Any) -> list[tuple[str, str | None]]:
    generator = _generator(family, *settings)
    try:
        return [(task["question"], task["answer"]) for task in (generator[i] for i in range(len(generator)))]
    except Exception as error:  # a few families fail at levels of their own curriculum
        raise _CantMake(f"family={family!r} can't be made: {error}") from None


@functools.lru_cache(maxsize=32)
def _generator(family: str, seed: int, size: int, difficulty: int | None) -> Any:
    if family not in DATASETS:
        raise _CantMake(f"family={family!r} is none of reasoning-gym's: {', '.join(sorted(DATASETS))}")
    settings = {"seed": seed, "size": size}
    try:
        if difficulty is None:
            return create_dataset(family, **settings)
        if family not in CURRICULA:
            raise _CantMake(f"family={family!r} has no levels of difficulty; leave difficulty= out")
        curriculum = create_curriculum(family)
        levels = max(len(attribute.levels) for attribute in curriculum.attributes.values())
        if not 0 <= difficulty < levels:
            raise _CantMake(f"difficulty={difficulty!r} must be from 0 to {levels - 1} for family={family!r}")
        curriculum.set_global_level(difficulty)
        return DATASETS[family][0](config=curriculum.generate_configuration(settings, _only_this_level()))
    except (AssertionError, ValueError, TypeError) as error:
        raise _CantMake(f"family={family!r} can't be made: {error}") from None


def _only_this_level() -> Any:
    """Ranges that end at the level and begin at the one before; by default they begin at the first."""
    return DefaultCurriculumContext(RangeAttributeMode.UPPER_BOUND)


@functools.lru_cache(maxsize=512)
def _entry(generator: _Generator, index: int) -> Any:
    return _generator(*generator)[index]


def _score(generator: _Generator, index: int, text: str) -> dict[str, Any]:
    tasks, entry = _generator(*generator), _entry(generator, index)
    with _nothing_evaluated(entry):
        try:
            return {"score": float(tasks.score_answer(text, entry))}
        except Exception as error:
            return {"score": 0.0, "problem": f"the verifier can't read it ({type(error).__name__})"}


@contextmanager
def _nothing_evaluated(entry: dict[str, Any]) -> Iterator[None]:
    """Inside, `eval` takes what the task itself holds and literals, and sympy's parser takes arithmetic."""
    true_eval, true_reader = builtins.eval, sympy_parser.stringify_expr

    def read(text: str, *rest: Any) -> str:
        if _NOT_ARITHMETIC.search(text):
            raise ValueError("no arithmetic expression")
        names = re.findall(r"[A-Za-z_]\w*", text)
        if any(len(name) > 1 and not _FUNCTIONS.fullmatch(name) for name in names):
            raise ValueError("an unknown name")
        return true_reader(text, *rest)

    def evaluate(source: Any, *scopes: Any) -> Any:
        trusted = source in (entry["answer"], *entry["metadata"].values())
        return true_eval(source, *scopes) if trusted else ast.literal_eval(source)

    builtins.eval = evaluate
    sympy_parser.eval, sympy_parser.stringify_expr = true_eval, read
    try:
        yield
    finally:
        builtins.eval, sympy_parser.stringify_expr = true_eval, true_reader
