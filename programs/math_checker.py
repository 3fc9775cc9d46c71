"""Whether a mathematical answer is right.

Guarantees: safe from any number of threads; no check hangs; the answer, which a model wrote, is never evaluated in this
process. What exact arithmetic and comparing texts decide is decided here (`math_notation`); everything else goes to
worker processes, which read it with `math-verify` (`math_algebra`). Identical checks asked at the same time are made
once.

An answer that can't be read whole, or that takes more than the limits to evaluate, is wrong. What the checker itself
could not do is no verdict: `CheckerError`.
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass

from programs.math_answers import final_answer
from programs.math_notation import repaired, tidy
from programs.math_structure import agree
from programs.workers import TOO_HARD, WorkerError, shared

__all__ = ["CheckerError", "Verdict", "check", "final_answer"]


class CheckerError(Exception):
    """There is no verdict: the checker failed, not the answer."""


@dataclass(frozen=True)
class Verdict:
    """What was found out about an answer."""

    right: bool
    """Whether it equals the expected one."""
    given: str
    """The answer as it was found in the text; all of the text if there is none."""
    problem: str = ""
    """Why it could not be compared; empty if it was."""


def check(expected: str, text: str) -> Verdict:
    """Compare the final answer in a text with the expected answer.

    Raises:
        CheckerError: There is no verdict.
        ModuleNotFoundError: `math-verify` is needed and not installed.
    """
    # Before anything strips the control characters that a LaTeX command's backslash was turned into.
    return _cached_check(repaired(str(expected)).strip(), repaired(str(text)).strip())


@functools.lru_cache(maxsize=20_000)
def _cached_check(expected: str, text: str) -> Verdict:
    expected = final_answer(expected) if "boxed" in expected else expected
    given = final_answer(text)
    if not given:
        return Verdict(False, text, "it states no answer")
    one, other = tidy(expected), tidy(given)
    try:
        decided = agree(one, other, lambda a, b: None)
    except RecursionError:  # brackets in brackets
        return Verdict(False, given, "it could not be evaluated within the limits")
    if decided is not None:
        return Verdict(decided, given)
    if importlib.util.find_spec("math_verify") is None:
        raise ModuleNotFoundError("The math metric needs math-verify: pip install 'trgrpo-dspy[math]'")
    try:
        reply = shared("programs.math_algebra").ask({"expected": one, "given": other})
    except WorkerError as error:
        raise CheckerError(f"the checker failed: {error}") from error
    if reply == TOO_HARD:
        return Verdict(False, given, "it could not be evaluated within the limits")
    return Verdict(bool(reply["right"]), given, str(reply.get("problem", "")))
