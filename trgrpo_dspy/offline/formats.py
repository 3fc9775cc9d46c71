"""Prompts as DSPy's adapters write them, read back with their types, and replies in the format they ask for.

Guarantees: `read` never raises; a text that is no signature prompt becomes one input and one text output, and a type
that is not understood becomes text. A field is found at the marker of a name that the prompt itself declares, so a
marker inside a value is the value's. What `write` wrote, the adapter's parser reads.
"""

import ast
import contextlib
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

Schema = dict[str, Any]
"""The type of a value, as a JSON schema."""

_FIELD = re.compile(r"^\d+\. `(\w+)` \((.*?)\):(?: .*)?$", re.MULTILINE)
_INPUTS = re.compile(r"Your input fields are:|As input, you will be provided with:")
_OUTPUTS = re.compile(r"Your output fields are:|Your outputs must contain:")
_STRUCTURE = re.compile(r"\nAll interactions will be structured")
_OBJECTIVE = re.compile(r"In adhering to this structure, your objective is:|Specific instructions:")
_REMINDER = re.compile(r"\s*Respond with (?:the corresponding output fields|a JSON object in the following order)")

_SCALARS = {"str": "string", "Reasoning": "string", "Code": "string", "bool": "boolean", "int": "integer",
            "float": "number", "NoneType": "null", "dict": "object"}  # fmt: skip


@dataclass(frozen=True)
class Prompt:
    """A whole prompt: names of its inputs, types of its outputs, the user's instructions with any advice, values."""

    style: str
    """How to reply: `chat` markers, a `json` object, `xml` tags, named `lines`, or `free` text."""
    names: tuple[str, ...]
    outputs: dict[str, Schema]
    instructions: str
    inputs: dict[str, str] = field(default_factory=dict)
    """Values of the input fields that are there."""

    @property
    def text(self) -> str:
        """All input values as one text."""
        return "\n".join(self.inputs.values())


def read(system: str, last: str) -> Prompt:
    """Read a prompt: the system prompt, which may be empty, and the last message."""
    prompt = _read(system)
    reminders = list(_REMINDER.finditer(last))
    asked = last[: reminders[-1].start()] if reminders else last
    return replace(prompt, inputs={"text": last} if prompt.style == "free" else _values(asked, prompt))


@lru_cache(maxsize=256)
def _read(system: str) -> Prompt:
    head, instructions = (*_OBJECTIVE.split(system, 1), "")[:2]
    before, after = (*_OUTPUTS.split(head, 1), "")[:2]
    declared, structure = (*_STRUCTURE.split(after, 1), "")[:2]
    outputs = _FIELD.findall(declared)
    if not outputs:
        return Prompt("free", (), {"text": {"type": "string"}}, system)
    markers = {"JSON object": "json", f"<{outputs[0][0]}>": "xml", "[[ ## ": "chat", "": "lines"}
    return Prompt(
        next(style for marker, style in markers.items() if marker in structure),
        tuple(name for name, _ in _FIELD.findall(_INPUTS.split(before, 1)[-1])),
        {name: from_type(name, annotation, structure) for name, annotation in outputs},
        "\n".join(line.removeprefix(" " * 8) for line in instructions.strip().split("\n")),
    )


def _values(text: str, prompt: Prompt) -> dict[str, str]:
    """Values at the markers of the declared names, each searched after the one before."""
    if prompt.style == "xml":
        tags = {name: re.search(rf"<{name}>\n?(.*?)\n?</{name}>", text, re.DOTALL) for name in prompt.names}
        return {name: found[1].strip() for name, found in tags.items() if found}
    found: list[tuple[str, int, int]] = []
    for name in prompt.names:
        marker = rf"(?:^|\n\n){name}: ?" if prompt.style == "lines" else rf"(?:^|\n)\[\[ ## {name} ## \]\]\n?"
        if mark := re.compile(marker).search(text, found[-1][2] if found else 0):
            found.append((name, mark.start(), mark.end()))
    ends = [start for _, start, _ in found[1:]] + [len(text)]
    return {name: text[begin:end].strip() for (name, _, begin), end in zip(found, ends, strict=False)}


def write(style: str, values: dict[str, Any]) -> str:
    """A reply: values by output field, in order, in a prompt's style."""
    if style == "json":
        return json.dumps(values, ensure_ascii=False)
    if style == "xml":
        return "\n\n".join(_xml(name, value) for name, value in values.items())
    texts = {name: _plain(value) for name, value in values.items()}
    if style != "chat":
        return "\n\n".join(f"{name}: {text}" if style == "lines" else text for name, text in texts.items())
    # A value opens no field of its own.
    texts = {name: re.sub(r"^(\s*)\[\[ ## ", r"\1[ [ ## ", text, flags=re.MULTILINE) for name, text in texts.items()}
    return "\n\n".join([*(f"[[ ## {name} ## ]]\n{text}" for name, text in texts.items()), "[[ ## completed ## ]]"])


def _plain(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)


def _xml(tag: str, value: Any) -> str:
    if isinstance(value, list):
        return f"<{tag}>{''.join(_xml('item', item) for item in value)}</{tag}>"
    if isinstance(value, dict) and all(key.isidentifier() for key in value):
        return f"<{tag}>{''.join(_xml(key, part) for key, part in value.items())}</{tag}>"
    clean = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]", "", _plain(value))
    return f"<{tag}>{clean.replace('&', '&amp;').replace('<', '&lt;')}</{tag}>"


def from_type(name: str, annotation: str, structure: str) -> Schema:
    """The schema of an output: from its annotation, else from what the prompt notes of its values, or from its XML."""
    with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
        if schema := _of_annotation(ast.parse(annotation.strip(), mode="eval").body):
            return schema
    found = re.search(rf'("?)\{{{name}\}} {{8}}# note: the value you produce (.*)', structure)
    skeleton = re.search(rf"^<{name}>.+</{name}>$", structure, re.MULTILINE)
    with contextlib.suppress(ValueError, SyntaxError, RecursionError, AttributeError, TypeError):
        note = json.loads('"' + found[2].rstrip().rstrip(",")) if found and found[1] else found[2] if found else ""
        if schemas := re.search(r"JSON schema: (.+)", note, re.DOTALL):
            loaded = json.loads(schemas[1])
            return _inlined(loaded, loaded.get("$defs", {}))
        if values := re.search(r"one of: (.+)", note, re.DOTALL):
            return {"enum": [value.strip() for value in values[1].split("; ")]}
        return _of_element(ET.fromstring(skeleton[0] if skeleton else ""))
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
    if not isinstance(schema, dict) or depth > 8:
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
