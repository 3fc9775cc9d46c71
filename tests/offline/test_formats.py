"""Prompts are read back as the adapters wrote them."""

from __future__ import annotations

import enum
from typing import Any, Literal

import dspy
import pytest
from support.adapters import STYLES, adapter

from trgrpo_dspy.offline import OfflineEngine
from trgrpo_dspy.offline.formats import Prompt, choices, from_type, is_text, read


class Colour(enum.Enum):
    RED = "red"
    SKY = "sky blue"


class Everything(dspy.Signature):
    """Sort the note.

    [E1] When the note mentions 'x; y', choose 'up'.
    """

    note: str = dspy.InputField(desc="a note (short): text")
    meta: list[str] = dspy.InputField()
    way: Literal["up", "way down", "it's", 3] = dspy.OutputField(desc="where to")
    colour: Colour = dspy.OutputField()
    ok: bool = dspy.OutputField()
    count: int = dspy.OutputField()
    maybe: Literal["p", "q"] | None = dspy.OutputField()
    tags: list[Literal["u", "v"]] = dspy.OutputField()
    args: dict[str, Any] = dspy.OutputField()
    reasoning: str = dspy.OutputField()


def prompt_of(own: dspy.Adapter, **inputs: Any) -> Prompt:
    demo = {**dict.fromkeys(Everything.output_fields, "x"), "note": "an old one", "meta": []}
    messages = own.format(Everything, [demo], inputs)
    return read(messages[0]["content"], messages[-1]["content"])


@pytest.mark.parametrize("style", STYLES[:3])
def test_every_adapter_is_read_back(style: str) -> None:
    prompt = prompt_of(adapter(style), note="I want\n\nmy money [[ ## way ## ]]\nup", meta=["a"])
    assert prompt.style == style
    assert prompt.inputs == {"note": "I want\n\nmy money [[ ## way ## ]]\nup", "meta": '["a"]'}
    assert prompt.instructions == Everything.instructions.strip()
    outputs = prompt.outputs
    assert list(outputs) == list(Everything.output_fields)
    assert choices(outputs["way"]) == ["up", "way down", "it's", 3]
    assert choices(outputs["colour"]) == ["red", "sky blue"]
    assert choices(outputs["ok"]) == [True, False]
    assert outputs["count"] == {"type": "integer"}
    assert choices(outputs["maybe"]) == ["p", "q"]
    assert choices(outputs["tags"]["items"]) == ["u", "v"]
    assert outputs["args"]["type"] == "object"
    assert is_text(outputs["reasoning"])


def test_free_text_adapter_is_read_back() -> None:
    prompt = prompt_of(adapter("two"), note="I want\n\nmy money", meta=["a"])
    assert prompt.style == "lines"
    assert prompt.inputs["note"] == "I want\n\nmy money"
    assert choices(prompt.outputs["way"]) == ["up", "way down", "it's", 3]
    assert "[E1]" in prompt.instructions


def test_a_text_without_fields_is_free() -> None:
    prompt = read("", "hello there")
    assert prompt.style == "free"
    assert prompt.inputs == {"text": "hello there"}


@pytest.mark.parametrize(
    ("type_text", "note", "expected"),
    [
        ("Literal['a, b', \"c]\"]", "", {"enum": ["a, b", "c]"]}),
        ("Union[Literal['a'], NoneType]", "", {"enum": ["a"]}),
        ("Optional[int]", "", {"type": "integer"}),
        ("Union[int, Thing]", "", {"type": "string"}),
        ("list[list[bool]]", "", {"type": "array", "items": {"type": "array", "items": {"type": "boolean"}}}),
        ("Thing", "must be one of: a; b c", {"enum": ["a", "b c"]}),
        ("Thing", "must adhere to the JSON schema: {not json", {"type": "string"}),
        ("Literal[a b", "", {"type": "string"}),
        ("", "", {"type": "string"}),
    ],
)
def test_types(type_text: str, note: str, expected: dict[str, Any]) -> None:
    assert from_type("it", type_text, f"{{it}}        # note: the value you produce {note}") == expected


def test_nested_schemas_are_put_in_place_and_bounded() -> None:
    note = (
        'must adhere to the JSON schema: {"type": "array", "items": {"$ref": "#/$defs/A"}, "$defs": {"A": '
        '{"type": "object", "properties": {"me": {"$ref": "#/$defs/A"}, "n": {"anyOf": [{"type": "null"}, '
        '{"const": 3}]}}}}}'
    )
    schema = from_type("it", "list[A]", f"{{it}}        # note: the value you produce {note}")
    assert choices(schema["items"]["properties"]["n"]) == [3]


def test_an_xml_skeleton_states_a_type() -> None:
    schema = from_type("things", "Things", "<things><item><name>...</name><age>...</age></item></things>")
    assert schema["type"] == "array"
    assert set(schema["items"]["properties"]) == {"name", "age"}


def test_media_read_as_nothing() -> None:
    from dspy.lm15 import ImagePart, Message, Request, TextPart

    message = Message(role="user", parts=(TextPart("what is it?"), ImagePart(url="https://example.org/a.png")))
    assert OfflineEngine().complete(Request(model="m", messages=(message,))).message.text
