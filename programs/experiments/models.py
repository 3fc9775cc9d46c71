"""The LMs of an experiment. Nothing is taken from DSPy's cache: figures are of replies that were asked for here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import dspy

from trgrpo_dspy import FatalError
from trgrpo_dspy.offline.server import OfflineServer

from .plan import Plan

__all__ = ["OFFLINE_MODEL", "Models", "models"]

OFFLINE_MODEL = "openai/offline"
"""Model string of the built-in text model behind its server."""


@dataclass(frozen=True)
class Models:
    """Who answers."""

    program: dspy.BaseLM
    """The program's LM."""
    reflection: dspy.BaseLM
    judge: dspy.BaseLM


@contextmanager
def models(plan: Plan) -> Iterator[Models]:
    """The plan's LMs; offline, the built-in text model's server on loopback while the context lasts."""
    if plan.offline:
        with OfflineServer(model_seed=plan.seed) as server:
            lm = server.lm(max_tokens=plan.max_tokens)
            yield Models(lm, lm, lm)
        return
    made = {model: _lm(model, plan.max_tokens) for model in plan.models}
    yield Models(made[plan.model], made[plan.reflection_model or plan.model], made[plan.judge or plan.model])


def _lm(model: str, max_tokens: int | None) -> dspy.LM:
    try:
        return dspy.LM(model, max_tokens=max_tokens, cache=False)
    except Exception as error:  # DSPy's and LiteLLM's reading of the string
        raise FatalError(f"--model {model!r} can't be used: {str(error).splitlines()[0]}") from error
