"""What a run is: enough to tell whether a journal belongs to it, and nothing secret.

Two runs have the same fingerprint if replaying one's replies in the other makes sense: same program, learning settings,
data, models, metric and reflection prompts. Budgets, threads, timeouts, rates and log levels are not in it. LMs are
told by model name and sampling settings; keys, headers and addresses never enter. What can be read and is no secret is
told in plain, so that a difference can be named (`differences.py`); the rest is told by its hash.
"""

from __future__ import annotations

import functools
import inspect
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dspy
from pydantic import TypeAdapter

from trgrpo_dspy.library import ExperienceLibrary

from .differences import HASH_MARK
from .plain import digest, mark, plain, without_addresses
from .reached import reach
from .sources import Origin, is_code, origin

__all__ = ["examples_digest", "fingerprint", "request_hash"]

_SAMPLING = (
    "temperature", "max_tokens", "max_completion_tokens", "seed", "top_p", "top_k", "min_p", "n", "stop",
    "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "reasoning_effort", "reasoning",
    "thinking", "verbosity", "logprobs", "top_logprobs", "response_format", "modalities", "tool_choice",
    "parallel_tool_calls", "rollout_id",
)  # fmt: skip
"""The keyword arguments of an LM that change what it says; all others may hold secrets and stay out."""
_HASHED = ("extra_body", "tools")
"""The same, where a value may hold anything, such as the headers of a tool's server: told by their hash."""


def request_hash(lm: dspy.BaseLM, prompt: Any, messages: Any, kwargs: Mapping[str, Any]) -> str:
    """Hash of all that decides a reply: model, sampling settings, and what is asked."""
    return digest([lm.model, lm.model_type, prompt, messages, _sampling({**lm.kwargs, **kwargs})])


def _sampling(settings: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: settings[name] for name in _SAMPLING if settings.get(name) is not None}
    return found | {name: digest(settings[name]) for name in _HASHED if settings.get(name)}


def _told(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same as a fingerprint tells it."""
    return {n: HASH_MARK + v if n in _HASHED else plain(v) for n, v in _sampling(settings).items()}


def fingerprint(
    *,
    kind: str,
    settings: Mapping[str, Any],
    programs: Mapping[str, dspy.Module],
    data: Mapping[str, Sequence[dspy.Example]],
    metric: Any,
    lms: Mapping[str, dspy.BaseLM | None],
    library: ExperienceLibrary | None = None,
) -> dict[str, Any]:
    """Describe a run part by part, so that a mismatch can name what differs.

    Args:
        kind: The kind of work, such as 'an evaluation': a journal belongs to one.
        settings: The options that decide the result.
        programs: The modules that run, by the name they are told by.
        data: The examples, likewise.
        metric: The metric; None is the label-free mode.
        lms: The LMs, likewise; None is one that the program brings along.
        library: The library a run starts from.
    """
    return {
        "kind": kind,
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{name: _option(value) for name, value in settings.items()},
        **{name: _program(program) for name, program in programs.items()},
        **({} if library is None else {"starting library": f"{len(library)} entries {mark(library.digest)}"}),
        **{name: [mark(_example(example)) for example in examples] for name, examples in data.items()},
        "metric": _metric(metric),
        **{name: _lm(lm) for name, lm in lms.items()},
        "adapter": _adapter(),
    }


def examples_digest(examples: Sequence[dspy.Example]) -> str:
    """How many examples there are, and a hash of them: the same for the same ones in the same order."""
    return f"{len(examples)} examples, {digest([_example(e) for e in examples])}"


def _example(example: dspy.Example) -> Any:
    return [plain(dict(example.items())), sorted(example.inputs().keys())]


def _adapter() -> Any:
    adapter = dspy.settings.adapter
    name = type(adapter).__name__ if adapter else "ChatAdapter"
    own = adapter is not None and origin(type(adapter)) == Origin.OWN
    return {"class": name, **_reached({"": adapter})} if own else name


def _program(program: dspy.Module) -> dict[str, Any]:
    parts = dict(program.named_sub_modules(dspy.Module))
    predictors = {name: part for name, part in parts.items() if isinstance(part, dspy.Predict)}
    others = {name: part for name, part in parts.items() if type(part) is not dspy.Predict and not _is_ours(part)}
    return {
        "modules": {name: type(part).__qualname__ for name, part in parts.items()},
        **_reached(others, known=predictors.values()),
        **{name: _predictor(predictor) for name, predictor in predictors.items()},
    }


def _is_ours(module: dspy.Module) -> bool:
    return type(module).__module__.startswith("trgrpo_dspy.")


def _reached(roots: Mapping[str, Any], known: Iterable[Any] = ()) -> dict[str, Any]:
    found = reach(roots, lambda one: _lm(one) if isinstance(one, dspy.BaseLM) else _predictor(one), known)
    return {"code": dict(found.code), "holds": dict(found.values), "packages": dict(found.packages)}


def _option(value: Any) -> Any:
    """An option: as it is, or, where it is code of the user's own, with all that this reaches."""
    return _metric(value) if callable(value) and origin(value) == Origin.OWN else plain(value)


def _metric(metric: Any) -> Any:
    if metric is None:
        return "none (label-free)"
    if isinstance(metric, dspy.Module):
        return _program(metric)
    return {"function": plain(_target(metric)), **_reached({"": metric})}


def _target(metric: Any) -> Any:
    """The function or class that a metric is made of."""
    found = metric.func if isinstance(metric, functools.partial) else metric
    found = inspect.unwrap(found) if is_code(found) else found
    return found if inspect.isroutine(found) or inspect.isclass(found) else type(found)


def _predictor(predictor: dspy.Predict) -> dict[str, Any]:
    signature = predictor.signature
    return {
        "instructions": signature.instructions,
        "fields": {name: _field(name, field) for name, field in signature.fields.items()},
        "order of fields": ", ".join(signature.fields),
        "demos": f"{len(predictor.demos)} {mark(predictor.demos)}",
        "settings": _told(predictor.config),
        "LM": _lm(predictor.lm),
    }


def _field(name: str, field: Any) -> str:
    """A field's type, the description it was given, and all else by hash."""
    extra = field.json_schema_extra or {}
    kind = without_addresses(inspect.formatannotation(field.annotation))
    description = extra.get("desc", "")
    told = kind if description in ("", f"${{{name}}}") else f"{kind}, {description!r}"
    return f"{told} {mark([extra, _schema(field)])}"


def _schema(field: Any) -> Any:
    """A field's type with all that is in it, where it has a schema."""
    try:
        return TypeAdapter(field.annotation).json_schema()
    except Exception:  # any type may stand here, with any code of its own
        return without_addresses(str(field.annotation))


def _lm(lm: Any) -> str:
    if lm is None:
        return "the configured LM"
    settings = _told(getattr(lm, "kwargs", {}))
    if not settings:
        return str(lm.model)
    hidden = {name: settings[name] for name in _HASHED if name in settings}
    told = json.dumps({**settings, **dict.fromkeys(hidden, "...")}, sort_keys=True)
    return f"{lm.model} {told} {mark(hidden)}" if hidden else f"{lm.model} {told}"
