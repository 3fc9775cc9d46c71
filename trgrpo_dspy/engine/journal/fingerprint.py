"""What a run is: enough to tell whether a journal belongs to it, and nothing secret.

Two runs have the same fingerprint if replaying one's replies in the other makes sense: same program, learning settings,
data, models, metric and reflection prompts. Budgets, threads, timeouts, rates and log levels are not in it. LMs are
told by model name and sampling settings; keys, headers and addresses never enter. What can be read and is no secret is
told in plain, so that a difference can be named (`differences.py`); the rest is told by its hash.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import dspy
from pydantic import BaseModel, TypeAdapter

from trgrpo_dspy.failures.secrets import names_secret
from trgrpo_dspy.library import ExperienceLibrary

from .differences import HASH_MARK

__all__ = ["evaluation_fingerprint", "examples_digest", "fingerprint", "plain", "request_hash"]

_SAMPLING = (
    "temperature", "max_tokens", "max_completion_tokens", "seed", "top_p", "top_k", "min_p", "n", "stop",
    "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "reasoning_effort", "reasoning",
    "thinking", "verbosity", "logprobs", "top_logprobs", "response_format", "modalities", "tool_choice",
    "parallel_tool_calls", "rollout_id",
)  # fmt: skip
"""The keyword arguments of an LM that change what it says; all others may hold secrets and stay out."""
_HASHED = ("extra_body", "tools")
"""The same, where a value may hold anything, such as the headers of a tool's server: told by their hash."""
_PIECE = 2000
"""Bytes hashed at a time: for 2,048 the interpreter lock is given up, and busy threads are slow to return it."""
_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")


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
    return _plain_object(value)


def _plain_object(value: Any) -> Any:
    if isinstance(value, dspy.Example):
        return plain(dict(value.items()))
    if isinstance(value, BaseModel):
        return plain(value.model_dump())
    if isinstance(value, type) and issubclass(value, BaseModel):
        return plain(value.model_json_schema())
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, functools.partial):
        return [plain(value.func), plain(value.args), plain(value.keywords)]
    if callable(value):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    for content in ("tolist", "tobytes"):  # arrays and images, whose repr is cut short
        if callable(method := getattr(value, content, None)):
            return plain(method())
    return _ADDRESS.sub("", repr(value))


_encode = json.JSONEncoder(sort_keys=True, default=plain).encode


def request_hash(lm: dspy.BaseLM, prompt: Any, messages: Any, kwargs: Mapping[str, Any]) -> str:
    """Hash of all that decides a reply: model, sampling settings, and what is asked."""
    return _hash([lm.model, lm.model_type, prompt, messages, _sampling({**lm.kwargs, **kwargs})])


def _sampling(settings: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: settings[name] for name in _SAMPLING if settings.get(name) is not None}
    return found | {name: _hash(settings[name]) for name in _HASHED if settings.get(name)}


def _told(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same as a fingerprint tells it."""
    return {n: HASH_MARK + v if n in _HASHED else plain(v) for n, v in _sampling(settings).items()}


def _hash(value: Any) -> str:
    """Hash of the value as JSON data; `plain` is asked for what JSON does not know."""
    try:
        text = _encode(value)
    except TypeError:  # names that are no text, or can't be sorted
        text = json.dumps(plain(value), sort_keys=True)
    data, digest = text.encode("ascii"), hashlib.sha256()
    for start in range(0, len(data), _PIECE):
        digest.update(data[start : start + _PIECE])
    return digest.hexdigest()[:32]


def _mark(value: Any) -> str:
    """The value's hash as a fingerprint tells it."""
    return HASH_MARK + _hash(value)[:16]


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
        "starting library": f"{len(library)} entries {_mark(library.digest)}",
        "trainset": _examples(trainset),
        "valset": _examples(valset),
        "metric": _metric(metric),
        "lm": _lm(lm),
        "reflection_lm": _lm(reflection_lm),
        "adapter": _adapter(),
    }


def evaluation_fingerprint(
    *,
    kind: str,
    programs: Mapping[str, dspy.Module],
    devset: Sequence[dspy.Example],
    metric: Any,
    settings: Mapping[str, Any],
    lm: dspy.BaseLM | None,
) -> dict[str, Any]:
    """Describe an evaluation part by part; `kind` tells it from other runs that keep a journal."""
    return {
        "kind": kind,
        **{name: plain(value) for name, value in settings.items()},
        **{name: _program(program) for name, program in programs.items()},
        "devset": _examples(devset),
        "metric": _metric(metric),
        "lm": _lm(lm),
        "adapter": _adapter(),
    }


def examples_digest(examples: Sequence[dspy.Example]) -> str:
    """How many examples there are, and a hash of them: the same for the same ones in the same order."""
    return f"{len(examples)} examples, {_hash([_example(e) for e in examples])}"


def _examples(examples: Sequence[dspy.Example]) -> list[str]:
    return [_mark(_example(example)) for example in examples]


def _adapter() -> str:
    return type(dspy.settings.adapter).__name__ if dspy.settings.adapter else "ChatAdapter"


def _example(example: dspy.Example) -> Any:
    return [plain(dict(example.items())), sorted(example.inputs().keys())]


def _program(program: dspy.Module) -> dict[str, Any]:
    parts = list(program.named_sub_modules(dspy.Module))
    own = {type(m) for _, m in parts if not type(m).__module__.startswith(("dspy.", "trgrpo_dspy."))}
    return {
        "modules": {name: _module(module) for name, module in parts},
        "code": {cls.__qualname__: _source(cls) for cls in sorted(own, key=lambda cls: cls.__qualname__)},
        **{name: _predictor(predictor) for name, predictor in program.named_sub_modules(dspy.Predict)},
    }


def _module(module: Any) -> dict[str, Any]:
    tools = _tools(module)
    return {"class": type(module).__qualname__, **_settings(module), **({"tools": tools} if tools else {})}


def _settings(module: Any) -> dict[str, Any]:
    """A module's own plain settings, such as `max_iters`; a predictor's and our own reflector's are told apart."""
    if isinstance(module, dspy.Predict) or type(module).__module__.startswith("trgrpo_dspy."):
        return {}
    own = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    plain_ones = {name: value for name, value in own.items() if isinstance(value, (bool, int, float, str))}
    return {
        name: _mark(value) if isinstance(value, str) or names_secret(name) else value
        for name, value in plain_ones.items()
    }


def _predictor(predictor: dspy.Predict) -> dict[str, Any]:
    signature = predictor.signature
    return {
        "instructions": signature.instructions,
        "fields": {name: _field(name, field) for name, field in signature.fields.items()},
        "order of fields": ", ".join(signature.fields),
        "demos": f"{len(predictor.demos)} {_mark(predictor.demos)}",
        "settings": _told(predictor.config),
        "LM": _lm(predictor.lm),
    }


def _field(name: str, field: Any) -> str:
    """A field's type, the description it was given, and all else by hash."""
    extra = field.json_schema_extra or {}
    kind = _ADDRESS.sub("", inspect.formatannotation(field.annotation))
    description = extra.get("desc", "")
    told = kind if description in ("", f"${{{name}}}") else f"{kind}, {description!r}"
    return f"{told} {_mark([extra, _schema(field)])}"


def _schema(field: Any) -> Any:
    """A field's type with all that is in it, where it has a schema."""
    try:
        return TypeAdapter(field.annotation).json_schema()
    except Exception:  # any type may stand here, with any code of its own
        return _ADDRESS.sub("", str(field.annotation))


def _tools(module: Any) -> dict[str, str]:
    tools = module.__dict__.get("tools")
    if not isinstance(tools, Mapping):
        return {}
    return {str(name): _source(getattr(tool, "func", tool)) for name, tool in tools.items()}


def _lm(lm: Any) -> str:
    if lm is None:
        return "the configured LM"
    settings = _told(getattr(lm, "kwargs", {}))
    if not settings:
        return str(lm.model)
    hidden = {name: settings[name] for name in _HASHED if name in settings}
    told = json.dumps({**settings, **dict.fromkeys(hidden, "...")}, sort_keys=True)
    return f"{lm.model} {told} {_mark(hidden)}" if hidden else f"{lm.model} {told}"


def _metric(metric: Any) -> Any:
    if metric is None:
        return "none (label-free)"
    if isinstance(metric, dspy.Module):
        return {"class": f"{plain(metric)} {_source(type(metric))}", **_program(metric)}
    target = inspect.unwrap(metric.func if isinstance(metric, functools.partial) else metric)
    if not inspect.isroutine(target) and not inspect.isclass(target):
        target = type(target)
    return {"function": f"{plain(target)} {_source(target)}", "what it holds": _mark(_state(metric, target))}


def _state(metric: Any, target: Any) -> list[Any]:
    """What a metric holds beside its source: arguments of a partial, closure, defaults, an object's plain settings."""
    owner = getattr(metric, "__self__", None if inspect.isroutine(metric) else metric)
    closure = [cell.cell_contents for cell in getattr(target, "__closure__", None) or () if _is_filled(cell)]
    return [
        [metric.args, metric.keywords] if isinstance(metric, functools.partial) else None,
        [value for value in closure if isinstance(value, (bool, int, float, str, list, tuple, dict))],
        getattr(target, "__defaults__", None) and [repr(type(v)) if callable(v) else v for v in target.__defaults__],
        {k: v for k, v in getattr(owner, "__dict__", {}).items() if isinstance(v, (bool, int, float, str))},
    ]


def _is_filled(cell: Any) -> bool:
    try:
        return bool(cell.cell_contents is not cell)
    except ValueError:  # a name that is not bound yet
        return False


def _source(target: Any) -> str:
    try:
        return _mark(inspect.getsource(target))
    except (OSError, TypeError):
        return "source not readable"
