"""Any family of `reasoning-gym`: more than a hundred generators of puzzles, each with a verifier.

`dataset` makes tasks of one family by seed and difficulty; `metric` gives the verifier's score as it is, partial
credit included. As a target, `TRGRPO_GYM_FAMILY` says which family is learned ("countdown" by default; `families`
lists them) and `TRGRPO_DATA_SEED` which tasks. `TRGRPO_GYM_DIFFICULTY` is the level of the family's curriculum for
`trainset` and `valset`, and `TRGRPO_GYM_TEST_DIFFICULTY` for `testset`, which is how a program is tested on tasks
harder than those it learned from; without them the family's own default holds.

No question is in two of the three sets. Tasks and verdicts come from worker processes (`gym_verifier`), because some
verifiers evaluate the answer, and because what some generators make depends on the interpreter's hash seed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from typing import Any

import dspy

from programs.workers import TOO_HARD, WorkerError, shared
from trgrpo_dspy import FatalError

__all__ = ["Puzzle", "dataset", "families", "metric", "program", "testset", "trainset", "valset"]

FAMILY = os.environ.get("TRGRPO_GYM_FAMILY") or "countdown"
SEED = int(os.environ.get("TRGRPO_DATA_SEED", "0"))
SIZES = {"train": 60, "val": 40, "test": 100}
"""How many tasks each set has; fewer where the family has no more distinct ones."""
_MAKING_SECONDS = 60.0
"""CPU time for making one set; a few families search for their puzzles."""
_DRAWS = 4
"""Tasks that are made for each that is wanted, at most: small families repeat themselves."""


class Puzzle(dspy.Signature):
    """Solve the puzzle. Give the answer in exactly the form the question asks for."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField(desc="The final answer alone.")


def program() -> dspy.Module:
    """Return a fresh program that thinks step by step."""
    return dspy.ChainOfThought(Puzzle)


def families() -> list[str]:
    """Name the families of the installed `reasoning-gym`."""
    return list(_ask({})["families"])


def dataset(
    family: str, seed: int = 0, size: int = 100, difficulty: int | None = None, *, without: Collection[str] = ()
) -> list[dspy.Example]:
    """Make distinct tasks of a family; fewer than `size` where it has no more.

    Args:
        family: Name of the family.
        seed: Decides which tasks; another seed gives others.
        size: How many.
        difficulty: Level of the family's curriculum, from 0 on; None for the family's default.
        without: Questions that must not be among them.

    Raises:
        ValueError: There is no such family or level.
        ModuleNotFoundError: `reasoning-gym` is not installed.
    """
    # Task i of a generator is made from its seed + i: seeds that stand side by side would share their tasks.
    digest = hashlib.sha256(f"{family}/{seed}".encode()).digest()
    examples: list[dspy.Example] = []
    for draws in (1, _DRAWS):
        generator = [family, int.from_bytes(digest[:4], "big") >> 1, size * draws, difficulty]
        examples = _examples(generator, set(without))
        if len(examples) >= size:
            break
    return examples[:size]


def _examples(generator: list[Any], seen: set[str]) -> list[dspy.Example]:
    examples = []
    for index, (question, answer) in enumerate(_ask({"make": generator}, cpu_seconds=_MAKING_SECONDS)["tasks"]):
        if question in seen:
            continue
        seen.add(question)
        # DSPy leaves fields with this prefix out of what it shows, and so do the reflection prompts.
        fields = {"question": question, "dspy_task": json.dumps({"score": generator, "index": index})}
        if answer is not None:  # several families accept any valid solution and name none
            fields["answer"] = str(answer)
        examples.append(dspy.Example(**fields).with_inputs("question"))
    return examples


def metric(example: dspy.Example, prediction: Any, trace: Any = None) -> dspy.Prediction:
    """Score an answer with the family's verifier, from 0 to 1; without a verdict the score is None.

    Args:
        example: A task made by `dataset`.
        prediction: The output of the program; a missing answer scores 0.
        trace: Ignored; part of the interface of metrics.

    Raises:
        FatalError: `reasoning-gym` is not installed.
    """
    text = str(getattr(prediction, "answer", None) or "").strip()
    if not text:
        return dspy.Prediction(score=0.0, feedback="There is no answer.")
    try:
        reply = _ask({**json.loads(example.dspy_task), "answer": text})
    except ModuleNotFoundError as error:
        raise FatalError(str(error)) from None
    except WorkerError as error:
        return dspy.Prediction(score=None, feedback=f"Not scored: the verifier failed: {error}.")
    if reply == TOO_HARD:
        reply = {"score": 0.0, "problem": "it could not be verified within the limits"}
    score = reply["score"]
    if score >= 1:
        return dspy.Prediction(score=score, feedback="Right.")
    expected = f"expected {_short(example.answer)}" if "answer" in example else "any valid solution counts"
    reason = f" ({reply['problem']})" if "problem" in reply else ""
    return dspy.Prediction(score=score, feedback=f"Score {score:.3g} of 1: {expected}, got {_short(text)}{reason}.")


def _ask(question: dict[str, Any], cpu_seconds: float | None = None) -> dict[str, Any]:
    reply = shared("programs.gym_verifier").ask(question, cpu_seconds=cpu_seconds)
    if "missing" in reply:
        raise ModuleNotFoundError("Puzzles need reasoning-gym: pip install 'trgrpo-dspy[reasoning-gym]'")
    if "problem" in reply and "score" not in reply:
        raise ValueError(reply["problem"])
    return reply


def _short(text: str) -> str:
    return text if len(text) <= 400 else f"{text[:300]} ... {text[-80:]}"


def trainset() -> list[dspy.Example]:
    """Return 60 tasks to learn from."""
    return _target("train")


def valset() -> list[dspy.Example]:
    """Return 40 other tasks of the same difficulty, to choose between libraries with."""
    return _target("val")


def testset() -> list[dspy.Example]:
    """Return 100 other tasks, of the difficulty for the test."""
    return _target("test")


def _target(part: str) -> list[dspy.Example]:
    level = os.environ.get("TRGRPO_GYM_DIFFICULTY")
    levels = {"train": level, "val": level, "test": os.environ.get("TRGRPO_GYM_TEST_DIFFICULTY") or level}
    earlier: set[str] = set()
    for name, size in SIZES.items():
        difficulty = int(levels[name]) if levels[name] else None
        examples = dataset(FAMILY, len(SIZES) * SEED + list(SIZES).index(name), size, difficulty, without=earlier)
        if name == part:
            break
        earlier.update(example.question for example in examples)
    return examples
