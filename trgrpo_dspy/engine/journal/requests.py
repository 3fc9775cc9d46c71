"""What decides an LM's reply: the sampling settings, and the hash of a request under which its reply is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .plain import digest

if TYPE_CHECKING:
    import dspy

__all__ = ["HASHED", "request_hash", "sampling"]

_SAMPLING = (
    "temperature", "max_tokens", "max_completion_tokens", "seed", "top_p", "top_k", "min_p", "n", "stop",
    "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "reasoning_effort", "reasoning",
    "thinking", "verbosity", "logprobs", "top_logprobs", "response_format", "modalities", "tool_choice",
    "parallel_tool_calls", "rollout_id",
)  # fmt: skip
"""The keyword arguments of an LM that change what it says; all others may hold secrets and stay out."""
HASHED = ("extra_body", "tools")
"""The same, where a value may hold anything, such as the headers of a tool's server: their hash enters."""


def request_hash(lm: dspy.BaseLM, prompt: Any, messages: Any, kwargs: Mapping[str, Any]) -> str:
    """Hash of all that decides a reply: model, sampling settings, and what is asked."""
    return digest([lm.model, lm.model_type, prompt, messages, sampling({**lm.kwargs, **kwargs})])


def sampling(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that change what an LM says; a hash stands for those that may hold anything."""
    found = {name: settings[name] for name in _SAMPLING if settings.get(name) is not None}
    return found | {name: digest(settings[name]) for name in HASHED if settings.get(name)}
