"""What a program takes in and gives, rendered at the moment it does: values, logs, and the tool calls they name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import dspy
from dspy.primitives.repl_types import REPLHistory

from .events import Call, Log, Turn, Value
from .rendering import named_parts, one_line, text_of, turn_text

__all__ = ["announced", "outputs_of", "value_of"]


def value_of(name: str, value: Any) -> Value:
    """A value as it is now."""
    log = _log(name, value)
    return Value(text_of(value), is_tools=_is_tools(value)) if log is None else Value("", log)


def _is_tools(value: Any) -> bool:
    several = value if isinstance(value, (list, tuple)) else [value]
    return bool(several) and all(isinstance(one, dspy.Tool) for one in several)


def outputs_of(prediction: Any) -> dict[str, Value]:
    """Outputs by name; what has no names is one output named 'value'."""
    return {name: value_of(name, value) for name, value in _named(prediction).items()}


def announced(prediction: Any) -> tuple[Call, ...]:
    """The tool calls that a step's outputs name."""
    outputs = _named(prediction)
    if "next_tool_name" in outputs:  # dspy.ReAct
        return (Call(one_line(outputs["next_tool_name"]), text_of(outputs.get("next_tool_args") or {})),)
    return _calls(outputs)


def _named(prediction: Any) -> dict[str, Any]:
    if prediction is None:
        return {}
    try:
        pairs = named_parts(prediction)
        return {"value": prediction} if pairs is None else {str(name): value for name, value in pairs}
    except Exception:
        return {"value": prediction}


def _batches(fields: Mapping[str, Any]) -> list[dspy.ToolCalls]:
    return [value for value in fields.values() if isinstance(value, dspy.ToolCalls)]


def _calls(fields: Mapping[str, Any]) -> tuple[Call, ...]:
    return tuple(Call(one_line(c.name), text_of(c.args or {})) for batch in _batches(fields) for c in batch.tool_calls)


def _turn(turn: Mapping[str, Any]) -> Turn:
    results = [b.tool_call_results.tool_call_results if b.tool_call_results else [] for b in _batches(turn)]
    texts = tuple(text_of(result.value) for batch in results for result in batch)
    return Turn(turn_text(turn), tuple(text_of(value) for value in turn.values()), _calls(turn), texts)


def _log(name: str, value: Any) -> Log | None:
    """The value as a log; None for other values."""
    try:
        if isinstance(value, dspy.History):
            return Log("history", tuple(_turn(dict(message)) for message in value.messages))
        if isinstance(value, REPLHistory):
            items: Any = [{k: v} for entry in value.entries for k, v in entry.model_dump().items()]
        elif name != "trajectory":
            return None
        elif isinstance(value, str):  # as dspy.ReAct writes it, with an adapter's field headers
            parts = re.split(r"^\[\[ ## (\w+) ## \]\]$", value, flags=re.MULTILINE)
            if parts[0].strip():
                items = [{"part": part} for part in re.split(r"\n{2,}", value)]
            else:
                items = [dict(zip(parts[1::2], map(str.strip, parts[2::2]), strict=True))]
        else:
            items = [value] if isinstance(value, Mapping) else value
        return Log("trajectory", tuple(_turn({str(k): v}) for item in items for k, v in item.items()))
    except Exception:
        return None
