"""The fingerprint of a run: a description by which a journal knows its run, without secrets.

Two runs have the same fingerprint if one may go on from the other's replies: same program, options that decide the
result, data, models, metric and reflection prompts, down to the code that these reach (`reached.py`). Budgets, threads,
timeouts, rates and log levels are left out. Of an LM the model's name and the sampling settings enter, never a key,
header or address. Short values stand as they are, so that a difference can be named (`differences.py`); a hash stands
for the rest.
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

from trgrpo_dspy.library.library import ExperienceLibrary

from .differences import HASH_MARK
from .plain import digest, mark, plain, without_addresses
from .reached import reach
from .requests import HASHED, sampling
from .sources import Origin, is_code, origin

__all__ = ["examples_digest", "fingerprint"]


def _settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling settings as they stand in a fingerprint."""
    return {n: HASH_MARK + v if n in HASHED else plain(v) for n, v in sampling(settings).items()}


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
        programs: The modules that run, by name.
        data: The examples, by name.
        metric: The metric; None is the label-free mode.
        lms: The LMs, by name; None is one that the program brings along.
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
    ours = {name for name, part in parts.items() if type(part).__module__.startswith("trgrpo_dspy.")}
    others = {name: part for name, part in parts.items() if type(part) is not dspy.Predict and name not in ours}
    return {
        "modules": {name: type(part).__qualname__ for name, part in parts.items()},
        **_reached(others, known=predictors.values()),
        **{name: _predictor(predictor) for name, predictor in predictors.items()},
    }


def _reached(roots: Mapping[str, Any], known: Iterable[Any] = ()) -> dict[str, Any]:
    return reach(roots, lambda one: _lm(one) if isinstance(one, dspy.BaseLM) else _predictor(one), known)


def _option(value: Any) -> Any:
    """An option: as it is, or, where it is code of the user's own, with all that this reaches."""
    return _metric(value) if callable(value) and origin(value) == Origin.OWN else plain(value)


def _metric(metric: Any) -> Any:
    if metric is None:
        return "none (label-free)"
    if isinstance(metric, dspy.Module):
        return _program(metric)
    made_of = metric.func if isinstance(metric, functools.partial) else metric
    made_of = inspect.unwrap(made_of) if is_code(made_of) else made_of
    made_of = made_of if inspect.isroutine(made_of) or inspect.isclass(made_of) else type(made_of)
    return {"function": plain(made_of), **_reached({"": metric})}


def _predictor(predictor: dspy.Predict) -> dict[str, Any]:
    signature = predictor.signature
    return {
        "instructions": signature.instructions,
        "fields": {name: _field(name, field) for name, field in signature.fields.items()},
        "order of fields": ", ".join(signature.fields),
        "demos": f"{len(predictor.demos)} {mark(predictor.demos)}",
        "settings": _settings(predictor.config),
        "LM": _lm(predictor.lm),
    }


def _field(name: str, field: Any) -> str:
    """A field's type, the description it was given, and all else by hash: the schema tells all that is in a type."""
    extra = field.json_schema_extra or {}
    kind = without_addresses(inspect.formatannotation(field.annotation))
    description = extra.get("desc", "")
    text = kind if description in ("", f"${{{name}}}") else f"{kind}, {description!r}"
    try:
        schema: Any = TypeAdapter(field.annotation).json_schema()
    except Exception:  # any type may stand here, with any code of its own
        schema = without_addresses(str(field.annotation))
    return f"{text} {mark([extra, schema])}"


def _lm(lm: Any) -> str:
    if lm is None:
        return "the configured LM"
    settings = _settings(getattr(lm, "kwargs", {}))
    hidden = {name: settings[name] for name in HASHED if name in settings}
    shown = json.dumps({**settings, **dict.fromkeys(hidden, "...")}, sort_keys=True) if settings else ""
    return " ".join(filter(None, [str(lm.model), shown, mark(hidden) if hidden else ""]))
