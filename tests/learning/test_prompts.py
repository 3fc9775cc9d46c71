"""Prompts ask strictly and read forgivingly: good items survive bad ones, whatever the adapter."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import dspy
import pytest
from dspy.adapters.json_adapter import _get_structured_outputs_response_format
from dspy.utils import DummyLM
from dspy.utils.exceptions import AdapterParseError
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scripted import Triage, scripted_lm

from trgrpo_dspy import ExperienceLibrary, Reflector, attach
from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.learning import paper_prompts, prompts
from trgrpo_dspy.learning.group import RolloutGroup
from trgrpo_dspy.learning.paper_prompts import CompareAnswers, CompareAttempts, ProposeEdits
from trgrpo_dspy.learning.prompts import ConsolidateEdits
from trgrpo_dspy.learning.reading import names_of
from trgrpo_dspy.learning.reflection import Context, Lesson
from trgrpo_dspy.learning.replies import EditReplies, LessonReplies
from trgrpo_dspy.library import Edit
from trgrpo_dspy.program.rollout import Rollout

MODULES = (prompts, paper_prompts)
PROMPTS = [getattr(module, name) for module in MODULES for name in module.__all__ if name[1].islower()]
TYPED = [p for p in PROMPTS if not {"summary"} & set(p.output_fields)]

LESSON = {"text": "When x, do y", "predictors": ""}
EDIT = {"operation": "ADD", "id": "", "text": "When x, do y", "predictors": "", "sources": "1"}

# --- What is asked for


def response_format(signature: Any) -> dict[str, Any]:
    return _get_structured_outputs_response_format(signature).model_json_schema()


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        for value in schema.values():
            yield from objects(value)


@pytest.mark.parametrize("signature", TYPED, ids=lambda s: s.__name__)
def test_the_schema_is_strict_and_all_strings(signature: Any) -> None:
    schema = response_format(signature)
    records = list(objects(schema))
    assert len(records) >= 2
    for record in records:
        assert record["additionalProperties"] is False
        assert record["required"] == list(record["properties"])
    for item in (record for record in records if not set(record["properties"]) & set(signature.output_fields)):
        assert {field["type"] for field in item["properties"].values()} == {"string"}
    for refused in ("default", "anyOf", "oneOf", "patternProperties", "prefixItems"):
        assert f'"{refused}"' not in json.dumps(schema)


def test_the_schema_has_the_fields_that_are_read() -> None:
    lesson, edit = (
        response_format(s)["$defs"][name] for s, name in ((CompareAttempts, "LessonReply"), (ProposeEdits, "EditReply"))
    )
    assert list(lesson["properties"]) == list(LESSON)
    assert list(edit["properties"]) == list(EDIT)


@pytest.mark.parametrize("signature", TYPED, ids=lambda s: s.__name__)
def test_what_the_schema_asks_for_is_what_the_format_accepts(signature: Any) -> None:
    items = {"edits": EDIT, "lessons": LESSON, "dispositions": {"proposal": "P1", "outcome": "used"},
             "decisions": {"example": "1", "entry": "E1", "decision": "x"}}  # fmt: skip
    reply = {name: [items[name]] * 2 if name in items else "text" for name in signature.output_fields}
    parsed = _get_structured_outputs_response_format(signature).model_validate(reply)
    assert all(len(getattr(parsed, name).root) == 2 for name in reply if name in items)


@pytest.mark.parametrize("signature", PROMPTS, ids=lambda s: s.__name__)
def test_an_absent_input_is_an_absent_field(signature: Any) -> None:
    for name in signature.input_fields:
        shorter = signature.delete(name)
        assert list(shorter.input_fields) == [field for field in signature.input_fields if field != name]
        assert shorter.instructions == signature.instructions
        inputs = dict.fromkeys(shorter.input_fields, "value")
        messages = dspy.ChatAdapter().format(shorter, [], inputs)
        assert not any(f"[[ ## {name} ## ]]" in message["content"] for message in messages)


@pytest.mark.parametrize("signature", PROMPTS, ids=lambda s: s.__name__)
def test_every_field_is_described_and_every_input_is_text(signature: Any) -> None:
    for name, field in signature.fields.items():
        assert field.json_schema_extra["desc"] not in ("", f"${{{name}}}")
    assert {field.annotation for field in signature.input_fields.values()} == {str}


def test_what_many_calls_share_comes_first() -> None:
    """So that a provider's prompt cache can serve the front."""
    assert {next(iter(prompt.input_fields)) for prompt in PROMPTS} == {"program"}
    with_library = [list(p.input_fields) for p in PROMPTS if "experiences" in p.input_fields]
    assert len(with_library) >= 9 and all(fields.index("experiences") <= 2 for fields in with_library)
    assert list(ConsolidateEdits.input_fields)[-2:] == ["evidence", "proposals"]


@pytest.mark.parametrize("adapter", [dspy.ChatAdapter(), dspy.JSONAdapter()], ids=["chat", "json"])
def test_prompts_of_a_step_begin_alike(adapter: Any) -> None:
    """Rollouts with instructions and library, reflection too; summaries of a group with its task and label."""
    lm, entry = scripted_lm(), "When the ticket says 'laptop', answer 'hardware'."
    library = ExperienceLibrary.of(entry)
    with dspy.context(lm=lm, adapter=adapter):
        program = attach(dspy.Predict(Triage), library)
        for word in ("refund", "login"):
            program(ticket=word)
            group = RolloutGroup(0, f"ticket: {word}", "queue: the same label", tuple(
                Rollout(0, i, Outcome.COMPLETED, float(i), f"queue: {word} {i}", f"{i} said", f"{i} did {word}")
                for i in range(2)
            ))  # fmt: skip
            reflector, context = Reflector(form="paper"), Context("a: x -> y\nb: y -> z", library)
            for rollout in group.usable:
                reflector.summarize(group, rollout, context)
            reflector.compare([group], {0: ["one", "two"]}, context)
            reflector.propose([Lesson(f"When {word}, ...")], context, source=0)

    def shared(kind: str) -> str:
        texts = [call.text for call in lm.engine.of(kind)[:2]]
        assert texts[0] != texts[1]
        return os.path.commonprefix(texts)  # noqa: RUF071  (of texts, not of paths)

    prefix = {kind: shared(kind) for kind in ("program", "summary", "comparison", "proposals")}
    assert all(lm.engine.of(kind)[0].system in text for kind, text in prefix.items()), "the instructions"
    for kind in ("program", "comparison", "proposals"):
        assert entry in prefix[kind]
    for kind in ("comparison", "proposals"):
        assert "a: x -> y\nb: y -> z" in prefix[kind]
    assert "ticket: refund" in prefix["summary"] and "queue: the same label" in prefix["summary"]


def test_without_a_metric_no_prompt_has_a_place_for_label_score_or_feedback() -> None:
    for prompt in (CompareAnswers, prompts.CompareGroupsUnlabelled):
        assert not {"expected", "score", "feedback"} & set(prompt.input_fields)
        assert "score" not in prompt.instructions and "label" not in prompt.instructions


def test_every_prompt_is_exported() -> None:
    values = [value for module in MODULES for value in vars(module).values()]
    found = {value for value in values if isinstance(value, type) and issubclass(value, dspy.Signature)}
    assert found == set(PROMPTS)


# --- What is read

LESSONS = dspy.Signature({"lessons": (LessonReplies, dspy.OutputField())})
EDITS = dspy.Signature({"edits": (EditReplies, dspy.OutputField())})


def parse(adapter: str, signature: Any, value: str) -> Any:
    """What an adapter makes of a reply with this text as its one field."""
    (name,) = signature.output_fields
    if adapter == "chat":
        return dspy.ChatAdapter().parse(signature, f"[[ ## {name} ## ]]\n{value}\n\n[[ ## completed ## ]]")[name]
    if adapter == "json":
        return dspy.JSONAdapter().parse(signature, f'{{"{name}": {value}}}')[name]
    if adapter == "xml":
        text = value.replace("&", "&amp;").replace("<", "&lt;")
        return dspy.XMLAdapter().parse(signature, f"<{name}>{text}</{name}>")[name]
    lm = DummyLM([{name: value}, {name: value}])
    return dspy.TwoStepAdapter(lm).parse(signature, value)[name]


def lesson_texts(adapter: str, value: Any) -> list[str]:
    reply = parse(adapter, LESSONS, value if isinstance(value, str) else json.dumps(value))
    return [item.text for item in reply.root]


def edits(adapter: str, value: Any) -> list[Edit]:
    reply = parse(adapter, EDITS, value if isinstance(value, str) else json.dumps(value))
    return [Edit.parse(item.operation, item.id, item.text) for item in reply.root]


ADAPTERS = ["chat", "json", "two-step"]

GOOD = {"text": "good"}
LESSON_SHAPES: list[tuple[Any, list[str]]] = [
    ([GOOD], ["good"]),
    (GOOD, ["good"]),
    ([], []),
    ({}, []),
    ({"lessons": [GOOD]}, ["good"]),
    ({"lessons": GOOD}, ["good"]),
    ({"lessons": ["good", "better"]}, ["good", "better"]),
    ({"result": {"lessons": [GOOD], "note": "n"}}, ["good"]),
    ({"1": GOOD, "2": {"text": "better"}}, ["good", "better"]),
    ([[GOOD], [[{"text": "better"}]]], ["good", "better"]),
    ([{"lessons": [GOOD]}, GOOD], ["good", "good"]),
    (["good", "better"], ["good", "better"]),
    (["better", GOOD], ["better", "good"]),
    ([["te}"], GOOD], ["good"]),
    ([None, 5, True, GOOD, [], [{"text": "better"}]], ["good", "better"]),
    ([{"Text ": "good", "PREDICTORS": ["a", "b"], "confidence": 0.9}], ["good"]),
    ([{"text": 5}, {"text": None}, {"text": ["a", 1]}, {"text": {"a": 1}}], ["5", "a, 1", '{"a": 1}']),
    ([{"lesson": "under another name"}, GOOD], ["good"]),
    (5, []),
    (True, []),
    ('"words"', []),
    ("null", []),
    ('[{"text": "good"}, {"text": "half a', ["good", "half a"]),
    ('[{"text": "good"}, {"te', ["good"]),
    ("[{'text': 'good',}]", ["good"]),
]


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize(("value", "found"), LESSON_SHAPES, ids=lambda value: str(value)[:50])
def test_lessons_survive_the_shape_they_come_in(adapter: str, value: Any, found: list[str]) -> None:
    assert [text for text in lesson_texts(adapter, value) if text] == found


@pytest.mark.parametrize(
    "text", ["", "no lesson", "When x, do y", "```\n```", "<html>", "\ud83d\ude00", "[[ ## x ## ]]"]
)
def test_prose_is_no_list_of_lessons_and_no_error(text: str) -> None:
    assert lesson_texts("chat", text) == []


@pytest.mark.parametrize("wrapped", ["```json\n{}\n```", "Here they are: {}", "{} That is all."])
def test_a_list_is_found_in_the_words_around_it(wrapped: str) -> None:
    assert lesson_texts("chat", wrapped.replace("{}", '[{"text": "good"}]')) == ["good"]


def test_fields_that_are_lists_become_text() -> None:
    reply = parse("json", LESSONS, '[{"text": "good", "predictors": ["a", "b"]}]')
    assert reply.root[0].predictors == "a, b"


def test_xml_items_are_read() -> None:
    xml = "<lessons><item><text>good</text><predictors>a</predictors></item><item><text>better</text></item></lessons>"
    reply = dspy.XMLAdapter().parse(LESSONS, xml)["lessons"]
    assert [(item.text, item.predictors) for item in reply.root] == [("good", "a"), ("better", "")]
    assert [item.text for item in parse("xml", LESSONS, '[{"text": "good"}]').root] == ["good"]


ADD = Edit.parse("ADD", "", "good")
EDIT_SHAPES: list[tuple[Any, list[Edit]]] = [
    ([{"operation": "add", "text": "good"}], [ADD]),
    ({"edits": [{"operation": "ADD", "text": "good"}]}, [ADD]),
    ({"operation": "ADD", "text": "good"}, [ADD]),
    ([{"operation": "DELETE", "id": "E3"}], [Edit.parse("DELETE", "E3", "")]),
    ([{"operation": "DELETE", "id": 3, "text": None}], [Edit.parse("DELETE", "E3", "")]),
    ([{"operation": "UPDATE", "id": "[E3]", "text": "good"}], [Edit.parse("MODIFY", "E3", "good")]),
    (["ADD good", {"operation": "ADD", "text": "good"}], [Edit("", "", ""), ADD]),
    ([{"op": "ADD"}, {"operation": "ADD", "text": "good"}], [Edit("", "", ""), ADD]),
    ([{"operation": ["ADD"], "text": "good"}], [ADD]),
    ([], []),
]


@pytest.mark.parametrize("adapter", ["chat", "json"])
@pytest.mark.parametrize(("value", "found"), EDIT_SHAPES, ids=lambda value: str(value)[:50])
def test_edits_survive_the_shape_they_come_in(adapter: str, value: Any, found: list[Edit]) -> None:
    assert edits(adapter, value) == found


def test_an_operation_is_never_guessed_from_prose() -> None:
    assert all(edit.operation == "" for edit in edits("json", ["DELETE E1", "ADD: When x, do y"]))


@pytest.mark.parametrize("replies", [LessonReplies, EditReplies])
def test_what_has_been_read_can_be_read_again(replies: Any) -> None:
    once = replies.model_validate([{"operation": "ADD", "text": "good"}, 5])
    assert replies.model_validate(once) == once
    assert replies.model_validate(once.root) == once
    assert replies.model_validate_json(once.model_dump_json()) == once


def test_a_record_of_another_kind_is_read_by_its_fields() -> None:
    lesson = LessonReplies.model_validate(["good"]).root[0]
    assert [item.text for item in EditReplies.model_validate([lesson]).root] == ["good"]


def test_proposals_come_as_text_however_they_are_written() -> None:
    reply = parse("json", EDITS, '[{"sources": [1, "P2"]}, {"proposals": 3}, {"sources": "P4, P5"}]')
    assert [item.sources for item in reply.root] == ["1, P2", "3", "P4, P5"]


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(["text", "edits", "id", "operation"]), st.text(max_size=5)), inner),
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(json_values)
def test_no_value_breaks_the_reading_and_good_items_stay(value: Any) -> None:
    for replies in (LessonReplies, EditReplies):
        read = replies.model_validate(value).root
        assert all(type(field) is str for item in read for field in item.model_dump().values())
    good = {"operation": "ADD", "text": "the good one"}
    assert "the good one" in [item.text for item in EditReplies.model_validate([value, good]).root]
    assert "the good one" in [item.text for item in LessonReplies.model_validate([good, value]).root]


@settings(deadline=None)
@given(st.text(max_size=60))
def test_no_text_breaks_the_reading(text: str) -> None:
    for replies in (LessonReplies, EditReplies):
        assert all(type(item.text) is str for item in replies.model_validate(text).root)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 120))
def test_a_reply_cut_anywhere_keeps_its_whole_items(cut: int) -> None:
    whole = json.dumps([{"text": f"lesson {i}", "predictors": ""} for i in range(4)])[:-1]
    cut = min(cut, len(whole))
    complete = whole[:cut].count("}")
    assert lesson_texts("chat", whole[:cut])[:complete] == [f"lesson {i}" for i in range(complete)]


def test_a_missing_field_is_a_parse_error_of_dspys_own() -> None:
    with pytest.raises(AdapterParseError):
        dspy.ChatAdapter().parse(ProposeEdits, "nothing of the kind")


def test_a_typed_prompt_runs_through_dspy() -> None:
    lm = DummyLM([{"comparison": "because", "lessons": '[{"text": "good"}, 7]'}])
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter()):
        reply = dspy.Predict(CompareAttempts.delete("predictors").delete("experiences").delete("expected"))(
            max_lessons="2", task="t", attempts="a"
        )
    assert [item.text for item in reply.lessons.root] == ["good", ""]
    assert len(lm.history) == 1


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("predict, second.predict", ("predict", "second.predict")),
        ("Predictor `predict`; predictors: other", ("predict", "other")),
        ("predictors[0], predictor.predict, predictor", ("predictors[0]", "predictor.predict", "predictor")),
        ("all", ()),
    ],
)
def test_names_of_predictors(text: str, names: tuple[str, ...]) -> None:
    assert names_of(text) == names
