"""Prompts as DSPy's adapters write them, read back, and replies in the format they ask for.

Guarantees: `read` never raises; a text that is no signature prompt becomes one input and one text output. A field is
found at the marker of a name that the prompt itself declares, so a marker inside a value is the value's. What `write`
wrote, the adapter's parser reads.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from .types import Schema, from_type

__all__ = ["Layout", "Prompt", "read", "write"]

_FIELD = re.compile(r"^\d+\. `(\w+)` \((.*?)\):(?: .*)?$", re.MULTILINE)
_INPUTS = re.compile(r"Your input fields are:|As input, you will be provided with:")
_OUTPUTS = re.compile(r"Your output fields are:|Your outputs must contain:")
_STRUCTURE = re.compile(r"\nAll interactions will be structured|(?=\Z)")
_OBJECTIVE = re.compile(r"In adhering to this structure, your objective is:|Specific instructions:")
_REMINDER = re.compile(r"\s*Respond with (?:the corresponding output fields|a JSON object in the following order)")


@dataclass(frozen=True)
class Layout:
    """What a system prompt says."""

    style: str
    """How to reply: `chat` markers, a `json` object, `xml` tags, named `lines`, or `free` text."""
    inputs: tuple[str, ...] = ()
    """Names of the input fields, in order."""
    outputs: dict[str, Schema] = field(default_factory=dict)
    """Types of the output fields by name, in order."""
    instructions: str = ""
    """The user's instructions, advice included."""


@dataclass(frozen=True)
class Prompt:
    """A whole prompt."""

    layout: Layout
    """What the system prompt says."""
    inputs: dict[str, str]
    """Values of the input fields that are there."""

    @property
    def text(self) -> str:
        """All input values as one text."""
        return "\n".join(self.inputs.values())


def read(system: str, last: str) -> Prompt:
    """Read a prompt: the system prompt, which may be empty, and the last message."""
    layout = _layout(system)
    if layout.style == "free":
        return Prompt(layout, {"text": last})
    reminders = list(_REMINDER.finditer(last))
    return Prompt(layout, _values(last[: reminders[-1].start()] if reminders else last, layout))


@lru_cache(maxsize=256)
def _layout(system: str) -> Layout:
    head, instructions = _cut(system, _OBJECTIVE)
    before, after = _cut(head, _OUTPUTS)
    declared, structure = _cut(after, _STRUCTURE)
    outputs = _FIELD.findall(declared)
    if not outputs:
        return Layout("free", outputs={"text": {"type": "string"}}, instructions=system)
    markers = {"JSON object": "json", f"<{outputs[0][0]}>": "xml", "[[ ## ": "chat", "": "lines"}
    return Layout(
        next(style for marker, style in markers.items() if marker in structure),
        tuple(name for name, _ in _FIELD.findall(_cut(before, _INPUTS)[1])),
        {name: _type(name, annotation, structure) for name, annotation in outputs},
        "\n".join(line.removeprefix(" " * 8) for line in instructions.strip().split("\n")),
    )


def _cut(text: str, head: re.Pattern[str]) -> tuple[str, str]:
    found = head.search(text)
    return (text[: found.start()], text[found.end() :]) if found else (text, "")


def _type(name: str, annotation: str, structure: str) -> Schema:
    found = re.search(rf'("?)\{{{name}\}} {{8}}# note: the value you produce (.*)', structure)
    note = found[2] if found else ""
    if found and found[1]:  # inside a JSON string
        with contextlib.suppress(ValueError):
            note = json.loads('"' + note.rstrip().rstrip(","))
    skeleton = re.search(rf"^<{name}>.+</{name}>$", structure, re.MULTILINE)
    return from_type(annotation, note, skeleton[0] if skeleton else "")


def _values(text: str, layout: Layout) -> dict[str, str]:
    """Values at the markers of the declared names, each searched after the one before."""
    if layout.style == "xml":
        tags = {name: re.search(rf"<{name}>\n?(.*?)\n?</{name}>", text, re.DOTALL) for name in layout.inputs}
        return {name: found[1].strip() for name, found in tags.items() if found}
    found: list[tuple[str, int, int]] = []
    for name in layout.inputs:
        marker = rf"(?:^|\n\n){name}: ?" if layout.style == "lines" else rf"(?:^|\n)\[\[ ## {name} ## \]\]\n?"
        if mark := re.compile(marker).search(text, found[-1][2] if found else 0):
            found.append((name, mark.start(), mark.end()))
    ends = [start for _, start, _ in found[1:]] + [len(text)]
    return {name: text[begin:end].strip() for (name, _, begin), end in zip(found, ends, strict=False)}


def write(style: str, values: dict[str, Any]) -> str:
    """A reply: values by output field, in order, in a layout's style."""
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
