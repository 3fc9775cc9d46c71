"""The types a prompt states, as JSON schemas: whatever an adapter writes about an output becomes one form here.

Guarantees: `from_type` never raises; what it does not understand becomes `{"type": "string"}`.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
import xml.etree.ElementTree as ET
from typing import Any

__all__ = ["Schema", "choices", "from_type", "is_text"]

Schema = dict[str, Any]

_SCALARS = {"str": "string", "Reasoning": "string", "Code": "string", "bool": "boolean", "int": "integer",
            "float": "number", "NoneType": "null", "dict": "object"}  # fmt: skip
_DEPTH = 8


def from_type(annotation: str, note: str = "", skeleton: str = "") -> Schema:
    """The schema of an output field.

    Args:
        annotation: What the field list says, such as `Literal['a', 'b']` or `list[str]`.
        note: What follows `# note: the value you produce` in the prompt.
        skeleton: The nested XML structure the prompt shows for the field.
    """
    with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
        if schema := _of_annotation(ast.parse(annotation.strip(), mode="eval").body):
            return schema
    if found := re.search(r"one of: (.+)", note, re.DOTALL):
        return {"enum": [value.strip() for value in found[1].split("; ")]}
    with contextlib.suppress(ValueError, SyntaxError, RecursionError):
        if found := re.search(r"JSON schema: (.+)", note, re.DOTALL):
            loaded = json.loads(found[1])
            return _inlined(loaded, loaded.get("$defs", {}))
        return _of_element(ET.fromstring(skeleton))
    return {"type": "string"}


def choices(schema: Schema) -> list[Any]:
    """The allowed values of a closed type; empty for an open one."""
    return [True, False] if schema.get("type") == "boolean" else list(schema.get("enum", []))


def is_text(schema: Schema) -> bool:
    """Whether the value is free text."""
    return schema.get("type") == "string" and "enum" not in schema


def _of_annotation(node: ast.expr) -> Schema | None:
    """The schema of a Python annotation; None if it names a class."""
    if isinstance(node, ast.Name):
        return {"type": _SCALARS[node.id]} if node.id in _SCALARS else None
    if not isinstance(node, ast.Subscript) or not isinstance(node.value, ast.Name):
        return None
    head, parts = node.value.id, node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if head == "Literal":
        return {"enum": [ast.literal_eval(part) for part in parts]}
    if head == "dict":
        return {"type": "object"}
    kinds = [_of_annotation(part) for part in parts]
    if head not in ("Union", "Optional"):
        return {"type": "array", "items": kinds[0]} if kinds[0] else None
    return next((kind for kind in kinds if kind != {"type": "null"}), None) if None not in kinds else None


def _inlined(schema: Any, definitions: Schema, depth: int = 0) -> Schema:
    """A schema with its references put in place, bounded in depth, `anyOf` reduced to its first real branch."""
    if not isinstance(schema, dict) or depth > _DEPTH:
        return {"type": "string"}
    if "$ref" in schema:
        return _inlined(definitions.get(schema["$ref"].rpartition("/")[2]), definitions, depth + 1)
    if "anyOf" in schema:
        return _inlined(next((b for b in schema["anyOf"] if b.get("type") != "null"), {}), definitions, depth + 1)
    result = {key: schema[key] for key in ("type", "enum") if key in schema} or {"type": "string"}
    result |= {"enum": [schema["const"]]} if "const" in schema else {}
    result |= {"items": _inlined(schema["items"], definitions, depth + 1)} if "items" in schema else {}
    parts = {key: _inlined(part, definitions, depth + 1) for key, part in schema.get("properties", {}).items()}
    return {**result, "properties": parts} if parts else result


def _of_element(element: ET.Element) -> Schema:
    """The shape of `<field><item>...</item></field>`."""
    parts = {child.tag: _of_element(child) for child in element}
    if set(parts) == {"item"}:
        return {"type": "array", "items": parts["item"]}
    return {"type": "object", "properties": parts} if parts else {"type": "string"}
