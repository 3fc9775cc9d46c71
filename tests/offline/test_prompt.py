"""Prompts are read back as the adapters wrote them."""

from __future__ import annotations

import enum
from typing import Any, Literal

import dspy
import pytest

from trgrpo_dspy.offline import OfflineEngine
from trgrpo_dspy.offline.prompt import Prompt, read, read_layout, tool_signatures
from trgrpo_dspy.offline.schema import choices, from_type, is_text


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


ADAPTERS = {
    "chat": dspy.ChatAdapter(use_json_adapter_fallback=False),
    "json": dspy.JSONAdapter(),
    "xml": dspy.XMLAdapter(),
}


def prompt_of(adapter: dspy.Adapter, signature: type[dspy.Signature], demos: list[Any], **inputs: Any) -> Prompt:
    messages = adapter.format(signature, demos, inputs)
    rest = [(m["role"], m["content"]) for m in messages[1:]]
    return read(messages[0]["content"], rest)


@pytest.mark.parametrize("style", ADAPTERS)
def test_every_adapter_is_read_back(style: str) -> None:
    prompt = prompt_of(ADAPTERS[style], Everything, [], note="I want\n\nmy money [[ ## way ## ]]\nup", meta=["a"])
    assert prompt.layout.style == style
    assert prompt.inputs == {"note": "I want\n\nmy money [[ ## way ## ]]\nup", "meta": '["a"]'}
    assert prompt.layout.instructions == Everything.instructions.strip()
    outputs = prompt.layout.outputs
    assert list(outputs) == list(Everything.output_fields)
    assert choices(outputs["way"]) == ["up", "way down", "it's", 3]
    assert choices(outputs["colour"]) == ["red", "sky blue"]
    assert choices(outputs["ok"]) == [True, False]
    assert outputs["count"] == {"type": "integer"}
    assert choices(outputs["maybe"]) == ["p", "q"]
    assert choices(outputs["tags"]["items"]) == ["u", "v"]
    assert outputs["args"]["type"] == "object"
    assert is_text(outputs["reasoning"])


@pytest.mark.parametrize("style", ADAPTERS)
def test_demos_are_earlier_turns(style: str) -> None:
    demo = {"note": "old one", "meta": ["z"], "way": "up", "colour": "red", "ok": True, "count": 1, "maybe": "p"}
    demo |= {"tags": ["u"], "args": {}, "reasoning": "because\n\nof it"}
    prompt = prompt_of(ADAPTERS[style], Everything, [demo], note="new", meta=[])
    ((given, told),) = prompt.demos
    assert given["note"] == "old one"
    assert told["way"] == "up"
    assert told["reasoning"] == "because\n\nof it"


def test_free_text_adapter_is_read_back() -> None:
    prompt = prompt_of(dspy.TwoStepAdapter(dspy.LM("x/y")), Everything, [], note="I want\n\nmy money", meta=["a"])
    assert prompt.layout.style == "lines"
    assert prompt.inputs["note"] == "I want\n\nmy money"
    assert choices(prompt.layout.outputs["way"]) == ["up", "way down", "it's", 3]
    assert "[E1]" in prompt.layout.instructions


def test_a_text_without_fields_is_free() -> None:
    prompt = read("", [("user", "hello there")])
    assert prompt.layout.style == "free"
    assert prompt.inputs == {"text": "hello there"}
    assert read("", []).inputs == {"text": ""}


def test_layouts_are_cached_by_their_text() -> None:
    assert read_layout("some system prompt") is read_layout("some system prompt")


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
    assert from_type(type_text, note) == expected


def test_nested_schemas_are_put_in_place_and_bounded() -> None:
    note = (
        'must adhere to the JSON schema: {"type": "array", "items": {"$ref": "#/$defs/A"}, "$defs": {"A": '
        '{"type": "object", "properties": {"me": {"$ref": "#/$defs/A"}, "n": {"anyOf": [{"type": "null"}, '
        '{"const": 3}]}}}}}'
    )
    schema = from_type("list[A]", note)
    assert schema["items"]["properties"]["n"] == {"enum": [3]}


def test_an_xml_skeleton_states_a_type() -> None:
    schema = from_type("Things", skeleton="<things><item><name>...</name><age>...</age></item></things>")
    assert schema["type"] == "array"
    assert set(schema["items"]["properties"]) == {"name", "age"}


def test_tools_are_read_from_their_descriptions() -> None:
    text = str(dspy.Tool(lambda city, n=3: city, name="look", desc="Find it. Fast."))
    assert [(name, sorted(args)) for name, _, args in tool_signatures(f"(1) {text}\n")] == [("look", ["city", "n"])]
    assert tool_signatures("x, whose description is <desc>d</desc>. It takes arguments {nonsense}.") == [("x", "d", {})]


def test_media_read_as_nothing() -> None:
    from dspy.lm15 import ImagePart, Message, Request, TextPart

    message = Message(role="user", parts=(TextPart("what is it?"), ImagePart(url="https://example.org/a.png")))
    assert OfflineEngine().complete(Request(model="m", messages=(message,))).message.text
