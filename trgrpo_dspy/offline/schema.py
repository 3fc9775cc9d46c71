"""The types a prompt states, as JSON schemas: whatever an adapter writes about an output becomes one form here.

Guarantees: `from_type` never raises; what it does not understand becomes `{"type": "string"}`.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

__all__ = ["Schema", "choices", "from_type", "is_text"]

Schema = dict[str, Any]

_SCALARS = {"str": "string", "bool": "boolean", "int": "integer", "float": "number", "NoneType": "null"}
_NOTE_VALUES = re.compile(r"must (?:exactly match \(no extra characters\) |be )one of: (.+)", re.DOTALL)
_NOTE_SCHEMA = re.compile(r"must adhere to the JSON schema: (.+)", re.DOTALL)
_TAG = re.compile(r"<(\w+)>")


def from_type(type_text: str, note: str = "", skeleton: str = "") -> Schema:
    """The schema of an output field.

    Args:
        type_text: What the field list says, such as `Literal['a', 'b']` or `list[str]`.
        note: What follows `# note: the value you produce` in the prompt.
        skeleton: The nested XML structure the prompt shows for the field.
    """
    if schema := _from_annotation(type_text.strip()):
        return schema
    if found := _NOTE_VALUES.search(note):
        return {"enum": [value.strip() for value in found.group(1).strip().split("; ")]}
    if found := _NOTE_SCHEMA.search(note):
        try:
            loaded = json.loads(found.group(1).strip())
        except ValueError:
            loaded = None
        if isinstance(loaded, dict):
            return _inline(loaded, loaded.get("$defs", {}), 0)
    if skeleton:
        return _from_skeleton(skeleton)
    return {"type": "string"}


def choices(schema: Schema) -> list[Any]:
    """The allowed values of a closed type; empty for an open one."""
    if schema.get("type") == "boolean":
        return [True, False]
    return list(schema.get("enum", []))


def is_text(schema: Schema) -> bool:
    """Whether the value is free text."""
    return schema.get("type") == "string" and "enum" not in schema


def _from_annotation(text: str) -> Schema | None:
    if text in _SCALARS:
        return {"type": _SCALARS[text]}
    if text in ("Reasoning", "Code"):
        return {"type": "string"}
    if text == "ToolCalls":
        return {"type": "tool_calls"}
    found = re.fullmatch(r"(\w+)\[(.*)\]", text, re.DOTALL)
    if not found:
        return None
    head, inner = found.groups()
    if head == "Literal":
        return _literal(inner)
    if head in ("list", "set", "tuple", "Sequence"):
        item = _from_annotation(inner.removesuffix(", ..."))
        return {"type": "array", "items": item} if item else None
    if head == "dict":
        return {"type": "object", "additionalProperties": True}
    if head in ("Union", "Optional"):
        parts = [_from_annotation(part) for part in _split(inner)]
        real = [part for part in parts if part and part.get("type") != "null"]
        return real[0] if real and None not in parts else None
    return None


def _literal(inner: str) -> Schema | None:
    try:
        return {"enum": list(ast.literal_eval(f"[{inner}]"))}
    except (ValueError, SyntaxError):
        return None


def _split(text: str) -> list[str]:
    """Parts of a type's arguments at top-level commas."""
    parts, depth, start = [], 0, 0
    for i, ch in enumerate(text):
        depth += (ch in "[(") - (ch in "])")
        if ch == "," and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    return [*parts, text[start:].strip()]


def _inline(schema: Any, definitions: dict[str, Any], depth: int) -> Schema:
    """A schema with its references put in place, bounded in depth, `anyOf` reduced to its first real branch."""
    if not isinstance(schema, dict) or depth > 8:
        return {"type": "string"}
    if ref := schema.get("$ref"):
        return _inline(definitions.get(str(ref).rsplit("/", 1)[-1]), definitions, depth + 1)
    if branches := schema.get("anyOf"):
        real = [b for b in branches if isinstance(b, dict) and b.get("type") != "null"]
        return _inline(real[0] if real else {}, definitions, depth + 1)
    result = {k: v for k, v in schema.items() if k in ("type", "enum", "additionalProperties", "default")}
    if "const" in schema:
        result["enum"] = [schema["const"]]
    if "items" in schema:
        result["items"] = _inline(schema["items"], definitions, depth + 1)
    if isinstance(schema.get("properties"), dict):
        result["properties"] = {k: _inline(v, definitions, depth + 1) for k, v in schema["properties"].items()}
    return result if result else {"type": "string"}


def _from_skeleton(text: str) -> Schema:
    """The shape of `<field><item>...</item></field>`."""
    inner = re.sub(r"\A<(\w+)>(.*)</\1>\Z", r"\2", text.strip(), flags=re.DOTALL)
    if inner == "...":
        return {"type": "object", "additionalProperties": True}
    properties: dict[str, Schema] = {}
    position = 0
    while found := _TAG.search(inner, position):
        tag = found.group(1)
        end = inner.find(f"</{tag}>", found.end())
        if end < 0:
            break
        end += len(tag) + 3
        part = inner[found.start() : end]
        properties[tag] = {"type": "string"} if part == f"<{tag}>...</{tag}>" else _from_skeleton(part)
        position = end
    if set(properties) == {"item"}:
        return {"type": "array", "items": properties["item"]}
    return {"type": "object", "properties": properties} if properties else {"type": "string"}
