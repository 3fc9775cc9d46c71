"""The program as the reflection is shown it: what its predictors are asked for, and which tools they have.

Guarantees: the text is the same for equal programs (no memory addresses), never exceeds its bound in tokens, and holds
nothing of our block. What a program says about itself is quoted safely, as everything in a prompt.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import dspy
import pydantic

from .instructions import original_instructions, teachable_predictors
from .transcript.rendering import fit_blocks, one_line, text_of

__all__ = ["describe"]

_DEPTH = 4
"""Levels of nested types that are spelled out."""
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_NO_DESCRIPTION = re.compile(r"\$\{\w+\}")
"""What DSPy writes where the user gave no description."""
_SAID = frozenset({"type", "enum", "const", "anyOf", "oneOf", "items", "prefixItems", "properties", "required",
    "additionalProperties", "minItems", "maxItems", "$ref", "$defs", "title", "description", "default"})  # fmt: skip
"""Keys of a JSON schema that `_schema_text` puts into words; other keys are limits, shown as they are."""


def describe(
    program: dspy.Module, names: Iterable[str] | None = None, objective: str = "", max_tokens: int = 4000
) -> str:
    """Describe a program: objective, each taught predictor's own instructions and fields, and the tools.

    Of predictors that are not taught (`names` None means that all are) only the fields are named. Beyond the bound the
    longest parts are cut first, each in its middle.
    """
    taught = teachable_predictors(program, names)
    tools = _tools(program)
    blocks = [("", list(_about(program, objective)))]
    for name, predictor in taught.items():
        signature = predictor.signature
        fields = [
            ("instructions", _instructions(predictor, tools)),
            ("inputs", _fields_text(signature.input_fields)),
            ("outputs", _fields_text(signature.output_fields)),
        ]
        blocks.append((f"Predictor `{one_line(name)}`", fields))
    blocks += _answers(program).items()
    if others := [(one_line(n), _flow(p)) for n, p in _others(program, taught)]:
        blocks.append(("Predictors that are not taught", others))
    if tools:
        blocks.append(("Tools", [(_call_text(tool), _text(tool.desc or "")) for tool in tools]))
    return fit_blocks([block for block in blocks if block[1]], max_tokens)


def _about(program: dspy.Module, objective: str) -> Iterator[tuple[str, str]]:
    kind = type(program)
    if kind.__doc__ and not kind.__module__.startswith("dspy."):  # DSPy's own docstrings are long and general
        yield f"Program {one_line(kind.__name__)}", _text(kind.__doc__)
    if objective.strip():
        yield "Objective", _text(objective)


def _others(program: dspy.Module, taught: Mapping[str, dspy.Predict]) -> Iterator[tuple[str, dspy.Predict]]:
    known = {id(predictor) for predictor in taught.values()}
    for name, predictor in program.named_sub_modules(dspy.Predict):
        if id(predictor) not in known:
            yield name.removeprefix("self."), predictor


def _answers(program: dspy.Module) -> dict[str, list[tuple[str, str]]]:
    """Outputs of modules that no predictor names: `dspy.ReActV2` has its model hand them to a tool."""
    named = {name for _, p in program.named_sub_modules(dspy.Predict) for name in p.signature.output_fields}
    found: dict[str, list[tuple[str, str]]] = {}
    for name, module in program.named_sub_modules(dspy.Module):
        outputs = getattr(getattr(module, "signature", None), "output_fields", None) or {}
        if not named.issuperset(outputs):
            found[f"Answer of `{one_line(name)}`"] = [("outputs", _fields_text(outputs))]
    return found


def _flow(predictor: dspy.Predict) -> str:
    signature = predictor.signature
    return f"{', '.join(signature.input_fields)} -> {', '.join(signature.output_fields)}"


def _instructions(predictor: dspy.Predict, tools: list[dspy.Tool]) -> str:
    """The predictor's own instructions; `dspy.ReAct` writes whole tools into them, which stand in a block of theirs."""
    text = original_instructions(predictor)
    for tool in tools:
        text = text.replace(str(tool), str(tool.name))
    return _text(text)


def _text(text: str) -> str:
    return _ADDRESS.sub("", text_of(inspect.cleandoc(text)))


# -- fields and types -----------------------------------------------------------------------------------------------


def _fields_text(fields: Mapping[str, Any]) -> str:
    return "\n".join(_field_text(name, field) for name, field in fields.items())


def _field_text(name: str, field: Any) -> str:
    extra = field.json_schema_extra or {}
    description = extra.get("desc") or ""
    kind = _type_text(field.annotation)
    if limits := extra.get("constraints"):
        kind = f"{kind}; {limits}"
    head = f"{one_line(name)} ({_text(kind)})"
    return head if _NO_DESCRIPTION.fullmatch(description) else _described(head, description)


def _described(head: str, description: str) -> str:
    description = " ".join(_text(description).split())
    return f"{head}: {description}" if description else head


def _type_text(kind: Any) -> str:
    """A type in words, with the values it allows."""
    name = getattr(kind, "__name__", str(kind))
    if isinstance(kind, type) and issubclass(kind, (dspy.Type, dspy.History)):  # DSPy renders these in its own way
        return name
    try:
        schema = pydantic.TypeAdapter(kind).json_schema()
    except Exception:  # a class of the user's own somewhere in it
        inner = [_type_text(part) for part in getattr(kind, "__args__", ())]
        return f"{name} of {', '.join(inner)}" if inner else name
    return _schema_text(schema, schema.get("$defs", {}))


def _schema_text(schema: Any, named: Mapping[str, Any], depth: int = 0) -> str:
    """A JSON schema in words."""
    if not isinstance(schema, Mapping):
        return "any"
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        inner = {key: value for key, value in named.items() if key != name}  # a type that holds itself is named there
        return _schema_text(named[name], inner, depth) if name in named and depth < _DEPTH else name
    limits = [f"{key} {_json(value)}" for key, value in schema.items() if key not in _SAID]
    return "; ".join([_kind_text(schema, named, depth + 1), *limits])


def _kind_text(schema: Mapping[str, Any], named: Mapping[str, Any], depth: int) -> str:
    kind = str(schema.get("type", "any"))
    if values := schema.get("enum") or ([schema["const"]] if "const" in schema else []):
        return ("one of " if len(values) > 1 else "") + ", ".join(map(_json, values))
    if kinds := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(_schema_text(part, named, depth) for part in kinds)
    if kind == "boolean":
        return "true or false"
    if kind == "array":
        parts = schema.get("prefixItems") or [schema.get("items")]
        return "list of " + ", ".join(_schema_text(part, named, depth) for part in parts)
    if "properties" in schema and depth <= _DEPTH:
        fields = [
            _described(f"{name} ({_schema_text(part, named, depth)})", part.get("description", ""))
            for name, part in schema["properties"].items()
        ]
        return f"{schema.get('title', kind)} {{{', '.join(fields)}}}"
    if isinstance(inner := schema.get("additionalProperties"), Mapping):
        return f"object of {_schema_text(inner, named, depth)}"
    return str(schema.get("title", kind)) if kind == "object" else kind


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


# -- tools ----------------------------------------------------------------------------------------------------------


def _tools(program: dspy.Module) -> list[dspy.Tool]:
    """The tools that the program's modules hold as attributes or in lists and dicts, in order, each once."""
    found: dict[str, dspy.Tool] = {}
    for _, module in program.named_sub_modules(dspy.Module):
        for value in vars(module).values():
            held = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
            for tool in held:
                if isinstance(tool, dspy.Tool):
                    found.setdefault(str(tool), tool)
    return list(found.values())


def _call_text(tool: dspy.Tool) -> str:
    """A tool's name and what it takes."""
    return f"{one_line(tool.name)}({', '.join(_argument_text(*item) for item in (tool.args or {}).items())})"


def _argument_text(name: str, schema: Any) -> str:
    schema = schema if isinstance(schema, Mapping) else {}
    text = f"{one_line(name)}: {_schema_text(schema, schema.get('$defs', {}))}"
    if "default" in schema:
        text += f" = {_json(schema['default'])}"
    return _text(_described(text, str(schema.get("description", ""))))
