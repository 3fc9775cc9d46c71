"""The LMs of an experiment. Nothing is taken from DSPy's cache: figures are of replies that were asked for here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dspy
import litellm

from trgrpo_dspy import FatalError
from trgrpo_dspy.offline.server import OfflineServer

from .plan import Plan

__all__ = ["OFFLINE_MODEL", "Models", "models", "sampling", "sampling_text"]

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
            lm = server.lm(**sampling(plan, OFFLINE_MODEL))
            yield Models(lm, lm, lm)
        return
    made = {model: _lm(model, sampling(plan, model)) for model in plan.models}
    yield Models(made[plan.model], made[plan.reflection_model or plan.model], made[plan.judge or plan.model])


def sampling(plan: Plan, model: str) -> dict[str, Any]:
    """The plan's `max_tokens` and `top_p` as a model takes them, by what LiteLLM knows; an unknown model takes both."""
    try:
        known = litellm.get_supported_openai_params(model) or ["top_p"]
    except Exception:  # LiteLLM's reading of the string; `_lm` says what is wrong with it
        known = ["top_p"]
    try:
        limit = litellm.get_model_info(model).get("max_output_tokens")
    except Exception:  # LiteLLM has no record of the model
        limit = None
    settings: dict[str, Any] = {"max_tokens": min(plan.max_tokens, limit or plan.max_tokens)}
    return {**settings, "top_p": plan.top_p} if "top_p" in known else settings


def sampling_text(plan: Plan, model: str) -> str:
    """What `sampling` makes of the plan, beside what was asked for where that differs."""
    taken = sampling(plan, model)
    text = f"replies of at most {taken['max_tokens']:,} tokens"
    if taken["max_tokens"] < plan.max_tokens:
        text += f" (the model's limit; {plan.max_tokens:,} were asked for)"
    return text + (f", top_p {plan.top_p:g}" if "top_p" in taken else ", no top_p: the model does not take it")


def _lm(model: str, settings: dict[str, Any]) -> dspy.LM:
    try:
        return dspy.LM(model, cache=False, **settings)
    except Exception as error:  # DSPy's and LiteLLM's reading of the string
        raise FatalError(f"--model {model!r} can't be used: {str(error).splitlines()[0]}") from error
