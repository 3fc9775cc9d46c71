"""A prompt as an adapter wrote it, read back: instructions, inputs, outputs with types, demos, format of the reply.

Guarantees:

- `read` never raises. A text that is no signature prompt becomes one input and one text output in free form.
- A field is found at the markers of the names the prompt itself declares, so a marker inside a value is the value's.
- Parsing of a system prompt is cached; it is a pure function of the text.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any

from .schema import Schema, from_type

__all__ = ["Layout", "Prompt", "read", "read_layout", "tool_signatures"]

_FIELDS = re.compile(r"^\d+\. `(\w+)` \((.*?)\):(?: (.*))?$", re.MULTILINE)
_INPUT_HEADS = ("Your input fields are:", "As input, you will be provided with:")
_OUTPUT_HEADS = ("Your output fields are:", "Your outputs must contain:")
_INSTRUCTION_HEADS = ("In adhering to this structure, your objective is:", "Specific instructions:")
_NOTE = r"\{%s\}        # note: the value you produce (.*)"
_REMINDERS = (
    "Respond with the corresponding output fields",
    "Respond with a JSON object in the following order of fields",
)


@dataclass(frozen=True)
class Layout:
    """What a system prompt says."""

    style: str
    """How to reply: `chat` markers, a `json` object, `xml` tags, named `lines`, or `free` text."""
    inputs: tuple[str, ...] = ()
    """Names of the input fields, in order."""
    outputs: dict[str, Schema] = field(default_factory=dict)
    """Types of the output fields by name, in order."""
    descriptions: dict[str, str] = field(default_factory=dict)
    """What the prompt says about each field."""
    instructions: str = ""
    """The user's instructions, advice included."""


@dataclass(frozen=True)
class Prompt:
    """A whole prompt."""

    layout: Layout
    """What the system prompt says."""
    inputs: dict[str, str]
    """Values of the input fields that are there."""
    demos: tuple[tuple[dict[str, str], dict[str, str]], ...] = ()
    """Inputs and outputs of earlier turns."""
    turns: str = ""
    """Everything said before the last message, as one text."""

    @property
    def text(self) -> str:
        """All input values as one text."""
        return "\n".join(self.inputs.values())


def read(system: str, messages: Sequence[tuple[str, str]]) -> Prompt:
    """Read a prompt.

    Args:
        system: The system prompt; may be empty.
        messages: Role and text of every message, in order.
    """
    layout = read_layout(system)
    last = messages[-1][1] if messages else ""
    if layout.style == "free":
        return Prompt(layout, {"text": last})
    inputs = _split_fields(_without_reminder(last), layout.inputs, layout.style)
    demos = []
    for (role, asked), (next_role, told) in pairwise(messages):
        if (role, next_role) == ("user", "assistant"):
            given = _split_fields(_without_reminder(asked), layout.inputs, layout.style)
            demos.append((given, _split_outputs(told, layout)))
    return Prompt(layout, inputs, tuple(demos), "\n".join(text for _, text in messages[:-1]))


@lru_cache(maxsize=256)
def read_layout(system: str) -> Layout:
    """Read a system prompt."""
    head, instructions = _cut(system, _INSTRUCTION_HEADS)
    before, outputs_part = _cut(head, _OUTPUT_HEADS)
    _, inputs_part = _cut(before, _INPUT_HEADS)
    outputs_part, _, structure = outputs_part.partition("\nAll interactions will be structured")
    found_outputs = _FIELDS.findall(outputs_part)
    if not found_outputs:
        return Layout("free", outputs={"text": {"type": "string"}}, instructions=system)
    found_inputs = _FIELDS.findall(inputs_part)
    style = _style(structure, found_outputs[0][0])
    return Layout(
        style,
        tuple(name for name, _, _ in found_inputs),
        {name: _output(name, type_text, structure) for name, type_text, _ in found_outputs},
        {name: text for name, _, text in (*found_inputs, *found_outputs)},
        "\n".join(line.removeprefix(" " * 8) for line in instructions.strip().split("\n")),
    )


def _without_reminder(text: str) -> str:
    """A user message without the last reminder of the reply's format."""
    at = max(text.rfind(reminder) for reminder in _REMINDERS)
    return text[:at].rstrip() if at >= 0 else text


def _cut(text: str, heads: Iterable[str]) -> tuple[str, str]:
    """The text before and after the first of the heads that is there."""
    for head in heads:
        before, found, after = text.partition(head)
        if found:
            return before, after
    return text, ""


def _style(structure: str, output: str) -> str:
    if "JSON object" in structure:
        return "json"
    if f"<{output}>" in structure:
        return "xml"
    return "chat" if "[[ ## " in structure else "lines"


def _output(name: str, type_text: str, structure: str) -> Schema:
    note = ""
    if found := re.search(_NOTE % name, structure):
        note = found.group(1)
        if f'"{name}": "{{{name}}}' in structure:  # inside a JSON string
            try:
                note = json.loads(f'"{note.rstrip().rstrip(",")}')
            except ValueError:
                note = note.rstrip().rstrip(",").rstrip('"')
    skeleton = re.search(rf"^<{name}>(?!\n).*</{name}>$", structure, re.MULTILINE)
    return from_type(type_text, note, skeleton.group() if skeleton else "")


def _split_fields(text: str, names: Sequence[str], style: str) -> dict[str, str]:
    """Values at the markers of the declared names, each searched after the one before."""
    if style == "xml":
        found_tags = ((name, re.search(rf"<{name}>\n?(.*?)\n?</{name}>", text, re.DOTALL)) for name in names)
        return {name: match.group(1).strip() for name, match in found_tags if match}
    marks: list[tuple[str, int, int]] = []
    position = 0
    for name in names:
        marker = rf"(?:^|\n\n){name}: ?" if style == "lines" else rf"(?:^|\n)\[\[ ## {name} ## \]\]\n?"
        if match := re.compile(marker).search(text, position):
            marks.append((name, match.start(), match.end()))
            position = match.end()
    ends = [start for _, start, _ in marks[1:]] + [len(text)]
    return {name: text[begin:end].strip() for (name, _, begin), end in zip(marks, ends, strict=False)}


def _split_outputs(text: str, layout: Layout) -> dict[str, str]:
    if layout.style == "json":
        try:
            loaded: Any = json.loads(text)
        except ValueError:
            return {}
        return (
            {k: v if isinstance(v, str) else json.dumps(v) for k, v in loaded.items()}
            if isinstance(loaded, dict)
            else {}
        )
    values = _split_fields(text, list(layout.outputs), layout.style)
    return {k: re.sub(r"\s*\[\[ ## completed ## \]\]\s*\Z", "", v) for k, v in values.items()}


def tool_signatures(text: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Tools described in a text: name, description, arguments, in order."""
    found = re.findall(
        r"\b(\w{1,64})(?:, whose description is <desc>(.*?)</desc>)?\. It takes arguments (\{.*?\})\.(?=[\s\"\]]|\Z)",
        text,
    )
    result = []
    for name, description, arguments in found:
        try:
            parsed = ast.literal_eval(arguments)
        except (ValueError, SyntaxError):
            parsed = {}
        result.append((name, description, parsed if isinstance(parsed, dict) else {}))
    return result
