"""Competition mathematics, the task that made Training-Free GRPO known: with and without a Python tool.

Programs: `direct` (chain of thought) and `agent` (ReAct with Python in a sandbox). `program` is the direct one, or the
agent where `TRGRPO_MATH_MODE=agent`.

Data (`math_data`): `dapo` (DAPO-Math-17k, 100 problems to learn from), `aime` (2024 and 2025, to evaluate), `gsm8k`,
and `sample`, 32 problems shipped here for trying things offline. `TRGRPO_MATH_DATA` says what `trainset`, `valset` and
`testset` are made of: "dapo" (the default; `testset` is AIME 2024 and 2025 then), "gsm8k" or "sample".
`TRGRPO_DATA_SEED` says which problems are drawn.

Metric: exact comparison and `math-verify` (`math_checker`). What the agent's Python has, and what the paper's had: see
`sandbox`.
"""

from __future__ import annotations

import os
from typing import Any

import dspy

from programs.math_checker import CheckerError, check
from programs.math_data import aime, dapo, gsm8k, sample
from programs.python_tool import fresh_sandboxes, python_tool
from trgrpo_dspy import FatalError

__all__ = [
    "MathAgent", "MathProblem", "agent", "aime", "dapo", "direct", "gsm8k", "metric", "program", "sample", "testset",
    "trainset", "valset",
]  # fmt: skip

SEED = int(os.environ.get("TRGRPO_DATA_SEED", "0"))
"""Which problems are drawn."""
SIZES = {"train": 100, "val": 50, "test": 500}
"""How many; those for `val` and `test` are this project's choice."""


class MathProblem(dspy.Signature):
    """Solve the mathematical problem."""

    problem: str = dspy.InputField()
    answer: str = dspy.OutputField(desc="The final answer alone: a number or a LaTeX expression.")


class MathAgent(dspy.ReAct):
    """ReAct whose Python tool has a sandbox of its own in each attempt."""

    def forward(self, **inputs: Any) -> dspy.Prediction:
        """Solve one problem in a fresh sandbox."""
        with fresh_sandboxes():
            return super().forward(**inputs)

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """Solve one problem in a fresh sandbox, asynchronously."""
        with fresh_sandboxes():
            return await super().aforward(**inputs)


def direct() -> dspy.Module:
    """Return a fresh program that thinks step by step."""
    return dspy.ChainOfThought(MathProblem)


def agent(interpreter: Any = "monty", *, max_iters: int = 10) -> dspy.Module:
    """Return a fresh agent with the tool `run_python`.

    Args:
        interpreter: Where its code runs: "monty", "dspy", or a function that creates a `CodeInterpreter`.
        max_iters: Steps it may take.
    """
    return MathAgent(MathProblem, tools=[python_tool(interpreter)], max_iters=max_iters)


def program(mode: str | None = None, *, max_iters: int = 10) -> dspy.Module:
    """Return a fresh program: `direct()`, or `agent()` by `mode` or the environment's `TRGRPO_MATH_MODE`."""
    mode = mode or os.environ.get("TRGRPO_MATH_MODE") or "direct"
    if mode not in ("direct", "agent"):
        raise ValueError(f"mode (or TRGRPO_MATH_MODE) is {mode!r}; it must be 'direct' or 'agent'")
    return agent(max_iters=max_iters) if mode == "agent" else direct()


def metric(example: dspy.Example, prediction: Any, trace: Any = None) -> dspy.Prediction:
    """Score 1 for the right answer, else 0; without a verdict the score is None.

    Args:
        example: The problem with its `answer`.
        prediction: The output of the program; a missing answer is wrong.
        trace: Ignored; part of the interface of metrics.

    Raises:
        FatalError: `math-verify` is not installed.
    """
    text = str(getattr(prediction, "answer", None) or "")
    try:
        verdict = check(example.answer, text)
    except ModuleNotFoundError as error:
        raise FatalError(str(error)) from None
    except CheckerError as error:
        return dspy.Prediction(score=None, feedback=f"Not scored: {error}.")
    got = f"got {_short(verdict.given)}" if verdict.given else "got nothing"
    if verdict.right:
        return dspy.Prediction(score=1.0, feedback=f"Right: expected {example.answer}, {got}.")
    reason = f" ({verdict.problem})" if verdict.problem and verdict.given else ""
    return dspy.Prediction(score=0.0, feedback=f"Wrong: expected {example.answer}, {got}{reason}.")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 200 else f"{text[:150]} ... {text[-40:]}"


def trainset() -> list[dspy.Example]:
    """Return 100 problems to learn from (14 of the sample)."""
    return _target("train")


def valset() -> list[dspy.Example]:
    """Return 50 problems to choose between libraries with (8 of the sample); none is in the trainset."""
    return _target("val")


def testset() -> list[dspy.Example]:
    """Return AIME 2024 and 2025, 500 problems of GSM8K's test split, or 10 of the sample."""
    return _target("test")


def _target(part: str) -> list[dspy.Example]:
    chosen = os.environ.get("TRGRPO_MATH_DATA") or "dapo"
    if chosen not in ("dapo", "gsm8k", "sample"):
        raise ValueError(f"TRGRPO_MATH_DATA is {chosen!r}; it must be 'dapo', 'gsm8k' or 'sample'")
    if chosen == "sample":
        return sample(part)
    if part == "test":
        return [*aime(2024), *aime(2025)] if chosen == "dapo" else gsm8k("test", SIZES["test"], seed=SEED)
    drawn = (dapo if chosen == "dapo" else gsm8k)(size=SIZES["train"] + SIZES["val"], seed=SEED)
    return drawn[: SIZES["train"]] if part == "train" else drawn[SIZES["train"] :]
