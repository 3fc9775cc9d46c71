"""Failures in words."""

from __future__ import annotations

from typing import Any

import dspy
import pydantic
import pytest
from dspy.utils import exceptions as dspy_errors
from hypothesis import given
from hypothesis import strategies as st

from trgrpo_dspy.failures.messages import describe, fatal_message
from trgrpo_dspy.failures.replies import ReplyFault


class Unprintable(Exception):
    """An exception whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError


class Count(pydantic.BaseModel):
    """Something that validates."""

    n: int
    items: list[int] = []


def invalid(**values: Any) -> pydantic.ValidationError:
    with pytest.raises(pydantic.ValidationError) as caught:
        Count(**values)
    return caught.value


def unparsed(reply: str, message: str | None = "The LM returned an empty or null response.") -> Exception:
    return dspy_errors.AdapterParseError("ChatAdapter", dspy.Signature("q -> a, b"), reply, message)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no"), "ValueError: no"),
        (ValueError(), "ValueError"),
        (ValueError("  \n "), "ValueError"),
        (ValueError("Traceback:\n  File \"/home/me/x.py\", line 1\nKeyError: 'x'\n\n"), "ValueError: KeyError: 'x'"),
        (ValueError("one\u2028two"), "ValueError: two"),
        (KeyError("x"), "KeyError: 'x'"),
        (Unprintable(), "Unprintable"),
        (dspy_errors.LMServerError("no\n\nTo fix:\n  - wait"), "LMServerError: no"),
        (ValueError("key sk-proj-abc123def456 refused"), "ValueError: key *** refused"),
        (ValueError("api_key:\n  hunter2hunter2"), "ValueError: ***"),
    ],
    ids=repr,
)
def test_a_failure_is_told_in_its_type_and_the_line_that_tells(error: Exception, text: str) -> None:
    assert describe(error) == text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (invalid(n="many\nlines\n"), "Count: n: Input should be a valid integer, unable to parse string as an integer"),
        (invalid(n=invalid), "Count: n: Input should be a valid integer"),
        (invalid(n=1, items=[1, "x", "y"]), "Count: items.1: Input should be a valid integer, unable to parse string"),
        (ValueError(f"tool failed ({invalid(n=print)})"), "Count: n: Input should be a valid integer"),
    ],
    ids=["a value of several lines", "a function", "in a list", "quoted"],
)
def test_an_error_of_pydantic_tells_what_was_wrong_where(error: Exception, text: str) -> None:
    said = describe(error)
    assert text in said
    assert "input_" not in said
    assert ("(and 1 more)" in said) == ("items" in said)


@pytest.mark.parametrize(
    ("error", "fault", "words"),
    [
        (unparsed("hello", None), None, "the reply could not be parsed into a, b"),
        (unparsed(""), None, "the reply was empty; wanted: a, b"),
        (unparsed("None"), None, "the reply was empty"),
        (unparsed("{'text': None, 'reasoning_content': 'so'}"), None, "held reasoning and no text"),
        (unparsed("{'text': None, 'tool_calls': [...]}"), None, "held a tool call and no text"),
        (unparsed(""), ReplyFault.FILTERED, "the provider's content filter withheld the reply; wanted: a, b"),
        (unparsed("[[ ## a", None), ReplyFault.CUT, "cut off by its length limit"),
    ],
)
def test_a_reply_that_holds_no_answer_is_named_as_what_it_is(error: Exception, fault: Any, words: str) -> None:
    assert words in describe(error, fault=fault)
    assert ("could not be parsed" in describe(error, fault=fault)) == ("could not be parsed" in words)


def test_a_failure_is_told_in_at_most_so_many_characters() -> None:
    text = describe(ValueError("x" * 10_000))
    assert len(text) == 300
    assert text.endswith("…")
    assert len(describe(ValueError("x" * 10_000), 50)) == 50


@given(st.text())
def test_a_failure_is_told_in_one_line(text: str) -> None:
    assert len(describe(ValueError(text)).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("LMAuthError", "the key was refused: check the provider's API key"),
        ("LMBillingError", "no credit or quota left"),
        ("LMUnsupportedModelError", "does not know this model"),
        ("LMUnsupportedFeatureError", "does not support what the program asks for"),
        ("LMNotConfiguredError", "is not configured"),
        ("LMServerError", "nothing further can succeed"),
    ],
)
def test_a_fatal_error_names_the_model_and_what_to_do_and_no_key(name: str, words: str) -> None:
    error = getattr(dspy_errors, name)("Incorrect API key provided: sk-proj-abcdef123456.")
    message = fatal_message(error, "openai/gpt-4o-mini")
    assert message.startswith("LM 'openai/gpt-4o-mini': ")
    assert words in message
    assert f"The backend said: {name}: Incorrect API key provided: ***" in message
    assert "none of 8 requests" in fatal_message(error, "openai/gpt-4o-mini", 8)
