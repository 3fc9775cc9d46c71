"""What a run is: enough to tell whether a journal belongs to it, and nothing secret.

Two runs have the same fingerprint if replaying one's replies in the other makes sense: same program, learning settings,
data, models, metric and reflection prompts. Budgets, threads, timeouts, rates and log levels are not in it. LMs are
told by model name and sampling settings; keys, headers and addresses never enter.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

import dspy
from pydantic import BaseModel

from .library import ExperienceLibrary

__all__ = ["fingerprint", "plain", "request_hash"]

_SAMPLING = (
    "temperature", "max_tokens", "max_completion_tokens", "seed", "top_p", "top_k", "n", "stop", "presence_penalty",
    "frequency_penalty", "reasoning_effort", "logprobs", "response_format", "tools", "tool_choice", "rollout_id",
)  # fmt: skip
"""The keyword arguments of an LM that change what it says; all others may hold secrets and stay out."""


def plain(value: Any) -> Any:
    """The value as JSON data that is the same in every process: no memory address, no dictionary order."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in sorted(value.items(), key=lambda pair: str(pair[0]))}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(v) for v in value), key=str)
    if isinstance(value, dspy.Example):
        return plain(dict(value.items()))
    if isinstance(value, BaseModel):
        return plain(value.model_dump())
    if isinstance(value, type) and issubclass(value, BaseModel):
        return plain(value.model_json_schema())
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, functools.partial):
        return [plain(value.func), plain(value.args), plain(value.keywords)]
    if callable(value):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    text = repr(value)
    return f"{type(value).__module__}.{type(value).__qualname__}" if " at 0x" in text else text


def request_hash(lm: dspy.BaseLM, prompt: Any, messages: Any, kwargs: Mapping[str, Any]) -> str:
    """Hash of all that decides a reply: model, sampling settings, and what is asked."""
    settings = {**lm.kwargs, **kwargs}
    asked = {k: v for k, v in kwargs.items() if k == "request"}
    return _hash([lm.model, lm.model_type, prompt, messages, _sampling(settings), asked])


def _sampling(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: settings[name] for name in _SAMPLING if settings.get(name) is not None}


def _hash(value: Any) -> str:
    text = json.dumps(plain(value), ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def fingerprint(
    *,
    program: dspy.Module,
    reflector: dspy.Module,
    library: ExperienceLibrary,
    trainset: Sequence[dspy.Example],
    valset: Sequence[dspy.Example],
    metric: Any,
    settings: Mapping[str, Any],
    lm: dspy.BaseLM | None,
    reflection_lm: dspy.BaseLM | None,
) -> dict[str, Any]:
    """Describe a run part by part, so that a mismatch can name what differs."""
    return {
        **{name: plain(value) for name, value in settings.items()},
        "program": _program(program),
        "reflector": _program(reflector),
        "starting library": _hash(str(library)),
        "trainset": f"{len(trainset)} examples, {_hash([_example(e) for e in trainset])}",
        "valset": f"{len(valset)} examples, {_hash([_example(e) for e in valset])}",
        "metric": _metric(metric),
        "lm": _lm(lm),
        "reflection_lm": _lm(reflection_lm),
        "adapter": type(dspy.settings.adapter).__name__ if dspy.settings.adapter else "ChatAdapter",
    }


def _example(example: dspy.Example) -> Any:
    return [plain(dict(example.items())), sorted(example.inputs().keys())]


def _program(program: dspy.Module) -> dict[str, Any]:
    modules = [[name, type(m).__qualname__, _tools(m)] for name, m in program.named_sub_modules(dspy.Module)]
    found: dict[str, Any] = {"structure": _hash(modules)}
    for name, predictor in program.named_sub_modules(dspy.Predict):
        state = [predictor.signature.dump_state(), _fields(predictor.signature), predictor.demos, predictor.config]
        found[name] = f"{_hash(state)} with {_lm(predictor.lm)}"
    return found


def _fields(signature: Any) -> list[list[str]]:
    return [[name, str(field.annotation)] for name, field in signature.fields.items()]


def _tools(module: Any) -> list[str]:
    tools = module.__dict__.get("tools")
    return sorted(map(str, tools)) if isinstance(tools, Mapping) else []


def _lm(lm: Any) -> str:
    if lm is None:
        return "the configured LM"
    settings = _sampling(getattr(lm, "kwargs", {}))
    return f"{lm.model} {json.dumps(plain(settings), sort_keys=True)}" if settings else str(lm.model)


def _metric(metric: Any) -> str:
    if metric is None:
        return "none (label-free)"
    target = inspect.unwrap(metric.func if isinstance(metric, functools.partial) else metric)
    if not inspect.isroutine(target) and not inspect.isclass(target):
        target = type(target)
    try:
        source = _hash(inspect.getsource(target))
    except (OSError, TypeError):
        source = "source not readable"
    return f"{plain(metric)}, {source}"
